// The backward pass. A task takes a run of blocks of one group and batch element, and the chunks from the last to the
// first: each chunk is scanned again from the state kept at its start, then walked back. dB and dC are added over the
// blocks of a task as vectors and over the lanes once a chunk, into rows of the task's own; the order of every sum is
// fixed by the shapes and the number of threads.
#pragma once
#include <tuple>

#include "problem.h"

namespace mmvim {

// Vectors that a chunk's two walks share; sized for all N where it says so.
struct Trail {
  std::vector<vf> hist, decay;    // (CHUNK + 1, 4) and (CHUNK, 4): states before each step and after the last; exp(delta A)
  std::vector<vf> sum_B, sum_C;   // (N, CHUNK, ...) by pieces: see piece_of
  explicit Trail(int64_t states)
      : hist((CHUNK + 1) * 4), decay(CHUNK * 4), sum_B(states * CHUNK), sum_C(states * CHUNK) {}
};

// Where task sums, gradients of per-channel tensors, go: rows of `padded` columns.
struct ChannelSums {
  float *A, *D, *bias;  // A: N rows
};

// States n0 .. n0 + N - 1 of one chunk of one block. Adds to tile.to_input (sum of g B) and tile.to_delta (sum of A q),
// to the sums of dB and dC and of dA; `carry` is the gradient that reaches the last state from behind, then that of the
// state before the chunk.
template <int N>
void backward_piece(const Problem& p, const Block& block, int64_t b, int64_t k, const Places& places, Tiles& tile,
                    const float* kept, vf* carry, Trail& trail, float* dA, int64_t n0, bool want_y, const Soon& soon) {
  const float* A2 = &p.A2[(k * p.states + n0) * p.padded + block.column];
  const float* A = &p.A[(k * p.states + n0) * p.padded + block.column];
  const float *B = p.B(b, k, block.group) + n0, *C = p.C(b, k, block.group) + n0;
  const int64_t *at_B = places.at(p.follow_B), *at_C = places.at(p.follow_C), steps = places.steps;
  vf *hist = trail.hist.data(), *decay = trail.decay.data();
  {
    vf h[N];
    for (int n = 0; n < N; ++n) h[n] = load(kept + (n0 + n) * W);
    for (int64_t t = 0; t < steps; ++t) {
      const float *Bt = B + at_B[t] * p.Bl, *Ct = C + at_C[t] * p.Cl;
      const vf delta = load(tile.delta + t * W), du = delta * load(tile.u + t * W);
      vf y{};
      if (n0 == 0) soon.ask(t);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const vf a = exp2(delta * load(A2 + n * p.padded));
        hist[t * N + n] = h[n];
        decay[t * N + n] = a;
        h[n] = a * h[n] + du * Bt[n];
        y += h[n] * Ct[n];
      }
      if (want_y) store(tile.y + t * W, load(tile.y + t * W) + y);
    }
    for (int n = 0; n < N; ++n) hist[steps * N + n] = h[n];
  }
  vf g[N], grad_A[N];
  for (int n = 0; n < N; ++n) g[n] = carry[n0 + n], grad_A[n] = vf{};
  vf *sum_B = trail.sum_B.data() + n0 * CHUNK, *sum_C = trail.sum_C.data() + n0 * CHUNK;
  for (int64_t t = steps - 1; t >= 0; --t) {
    const float *Bt = B + at_B[t] * p.Bl, *Ct = C + at_C[t] * p.Cl;
    const vf delta = load(tile.delta + t * W), dy = load(tile.dy + t * W), du = delta * load(tile.u + t * W);
    vf to_input = load(tile.to_input + t * W), to_delta = load(tile.to_delta + t * W);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      sum_C[t * N + n] += dy * hist[(t + 1) * N + n];
      const vf grad = dy * Ct[n] + g[n];
      sum_B[t * N + n] += grad * du;
      to_input += grad * Bt[n];
      g[n] = grad * decay[t * N + n];
      const vf q = g[n] * hist[t * N + n];
      to_delta += q * load(A + n * p.padded);
      grad_A[n] += q * delta;
    }
    store(tile.to_input + t * W, to_input);
    store(tile.to_delta + t * W, to_delta);
  }
  for (int n = 0; n < N; ++n) {
    carry[n0 + n] = g[n];
    float* to = dA + (n0 + n) * p.padded + block.column;
    store(to, load(to) + grad_A[n]);
  }
}

// What a chunk hands back without the gradients: for parts of L, whose starts must be known first.
inline void carry_back(const Problem& p, const Block& block, int64_t b, int64_t k, const Places& places, const Tiles& tile, vf* carry) {
  const float *C = p.C(b, k, block.group), *A2 = &p.A2[k * p.states * p.padded + block.column];
  const int64_t* at_C = places.at(p.follow_C);
  for (int64_t t = places.steps - 1; t >= 0; --t) {
    const vf delta = load(tile.delta + t * W), dy = load(tile.dy + t * W);
    for (int64_t n = 0; n < p.states; ++n)
      carry[n] = (dy * C[at_C[t] * p.Cl + n] + carry[n]) * exp2(delta * load(A2 + n * p.padded));
  }
}

// Sums over lanes of a chunk's dB or dC, to rows of N at the given positions.
inline void write_rows(std::vector<vf>& sums, int64_t states, float* rows, const int64_t* place, int64_t steps) {
  in_pieces<4>(states, [&](int64_t n0, auto piece) {
    constexpr int N = piece.value;
    vf* from = sums.data() + n0 * CHUNK;
    const int64_t count = steps * N;
    for (int64_t i = 0; i < count; i += W) {
      vf group[W];
      for (int64_t j = 0; j < W; ++j) group[j] = i + j < count ? from[i + j] : vf{};
      sum_lanes(group);
      for (int64_t j = 0; j < W && i + j < count; ++j) rows[place[(i + j) / N] * states + n0 + (i + j) % N] = group[0][j];
    }
  });
}

// Gradients of u, delta, A, B, C, D, z, bias, initial, each float32 and in the shape of its input.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward(
    const Tensor& grad_out, const Opt& grad_last, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const Opt& D, const Opt& z, const Opt& bias, const Opt& initial, const Opt& maps,
    at::IntArrayRef map_ids, at::IntArrayRef reverse, at::IntArrayRef follow, bool softplus, bool stack, const Tensor& kept) {
  const Problem p = prepare(u, delta, A, B, C, D, z, bias, maps, map_ids, reverse, follow, softplus);
  const auto real = u.options().dtype(at::kFloat);
  auto like = [&](const Tensor& t, bool zero) {  // channels fastest where the input has them so
    const bool swap = t.stride(-2) == 1 && t.size(-2) > 1;
    auto sizes = t.sizes().vec();
    if (swap) std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
    Tensor g = zero ? at::zeros(sizes, real) : at::empty(sizes, real);
    return swap ? g.transpose(-1, -2) : g;
  };
  const bool shared_u = p.paths > 1 && u.size(1) == 1, shared_delta = p.paths > 1 && delta.size(1) == 1;
  Tensor du = like(u, shared_u), ddelta = like(delta, shared_delta), dz = z ? like(*z, true) : at::empty({0}, real);
  Tensor dinitial = initial ? at::empty({p.batch, p.paths, p.dim, p.states}, real) : at::empty({0}, real);
  const Cut cut(p, p.blocks_per_group);  // long runs: each has buffers of its own for dB and dC
  const int64_t n_blocks = p.blocks.size(), parts = cut.parts;
  Tensor dA = at::zeros({parts, p.batch, p.paths, p.states, p.padded}, real);
  Tensor dD = at::zeros({parts, p.batch, p.paths, p.padded}, real), dbias = at::zeros_like(dD);
  Tensor dB = at::empty({cut.runs, p.batch, p.paths, p.groups, p.length, p.states}, real), dC = at::empty_like(dB);
  const View gu(du), gd(ddelta), gz = z ? View(dz) : View(), go(stack ? grad_out : grad_out.unsqueeze(1));
  Tensor end_grad = grad_last ? grad_last->to(at::kFloat).contiguous() : Tensor();
  const float* kept_from = kept.const_data_ptr<float>();

  auto end_carry = [&](int64_t b, int64_t k, int64_t j, vf* carry) {
    const Block& block = p.blocks[j];
    if (grad_last) load_state(end_grad.const_data_ptr<float>() + ((b * p.paths + k) * p.dim + block.channel) * p.states, p.states, block.lanes, carry);
    else std::fill(carry, carry + p.states, vf{});
  };
  // Inputs of a chunk, and the gradient of the output before the gate; the gate's derivative in `gate`.
  auto load_chunk = [&](Tiles& tile, const Block& block, int64_t b, int64_t k, const Places& places, float* gate) {
    load_inputs(p, block, b, k, places, tile);
    gather(tile.dy, p.row_of(go, block, b, k), places.path, places.steps);
    if (!p.z) return;
    gather(tile.z, p.row_of_z(p.z, block, b), places.path, places.steps);
    for (int64_t t = 0; t < places.steps; ++t) {
      vf x = load(tile.z + t * W), s = sigmoid(x), dy = load(tile.dy + t * W);
      store(gate + t * W, dy * s * (1.f + x * (1.f - s)));  // dy d silu(x) / dx
      store(tile.dy + t * W, dy * x * s);
    }
  };
  auto one_block = [&](Tiles& tile, Trail& trail, int64_t b, int64_t k, int64_t j, int64_t c, const Places& places, vf* carry,
                       const ChannelSums& sums, const Soon& soon) {
    const Block& block = p.blocks[j];
    const int64_t steps = places.steps;
    alignas(64) float gate[CHUNK * W];
    load_chunk(tile, block, b, k, places, gate);
    const vf skip = load(&p.D[k * p.padded + block.column]);
    for (int64_t t = 0; t < steps; ++t) {
      store(tile.y + t * W, skip * load(tile.u + t * W));
      store(tile.to_input + t * W, vf{});
      store(tile.to_delta + t * W, vf{});
    }
    const float* saved = kept_from + (((b * p.paths + k) * n_blocks + j) * p.chunks + c) * p.states * W;
    in_pieces<4>(p.states, [&](int64_t n0, auto n) {
      backward_piece<n.value>(p, block, b, k, places, tile, saved, carry, trail, sums.A, n0, bool(p.z), soon);
    });
    vf sum_D{}, sum_bias{};
    for (int64_t t = 0; t < steps; ++t) {
      const vf u = load(tile.u + t * W), dy = load(tile.dy + t * W), to_input = load(tile.to_input + t * W);
      vf grad = load(tile.to_delta + t * W) + to_input * u;
      if (p.softplus) {
        const vf raw = load(tile.raw + t * W);
        grad = raw > 20.f ? grad : grad * sigmoid(raw);
      }
      sum_bias += grad;
      sum_D += dy * u;
      store(tile.to_delta + t * W, grad);
      store(tile.to_input + t * W, to_input * load(tile.delta + t * W) + skip * dy);
      if (p.z) store(gate + t * W, load(gate + t * W) * load(tile.y + t * W));
    }
    store(sums.D + block.column, load(sums.D + block.column) + sum_D);
    store(sums.bias + block.column, load(sums.bias + block.column) + sum_bias);
    auto put = [&](const float* from, const View& v, bool follow, bool shared) {
      const int64_t* place = places.at(follow);
      if (shared) scatter<true>(from, p.row_of(v, block, b, k), place, steps);
      else scatter<false>(from, p.row_of(v, block, b, k), place, steps);
    };
    put(tile.to_input, gu, p.follow_u, shared_u);
    put(tile.to_delta, gd, p.follow_delta, shared_delta);
    if (p.z) scatter<true>(gate, p.row_of_z(gz, block, b), places.path, steps);
  };
  // Chunks end - 1 to begin of path k; `carry` (blocks of the task, N).
  auto walk = [&](Tiles& tile, Trail& trail, const Task& task, int64_t part, int64_t k, int64_t begin, int64_t end, vf* carry) {
    const int64_t row = (part * p.batch + task.b) * p.paths + k;
    const ChannelSums sums{dA.data_ptr<float>() + row * p.states * p.padded, dD.data_ptr<float>() + row * p.padded,
                           dbias.data_ptr<float>() + row * p.padded};
    const int64_t own = (((task.run * p.batch + task.b) * p.paths + k) * p.groups + task.group) * p.length * p.states;
    Places places;
    for (int64_t c = end - 1; c >= begin; --c) {
      find_places(p, k, c, places);
      std::fill(trail.sum_B.begin(), trail.sum_B.end(), vf{});
      std::fill(trail.sum_C.begin(), trail.sum_C.end(), vf{});
      for (int64_t j = task.first; j < task.stop; ++j) {
        Soon soon;
        if (shared_u) soon.add(p.row_of(gu, p.blocks[j], task.b, k), places.at(p.follow_u));
        if (shared_delta) soon.add(p.row_of(gd, p.blocks[j], task.b, k), places.at(p.follow_delta));
        if (j + 1 < task.stop) {
          soon.add(p.row_of(p.u, p.blocks[j + 1], task.b, k), places.at(p.follow_u));
          soon.add(p.row_of(p.delta, p.blocks[j + 1], task.b, k), places.at(p.follow_delta));
          soon.add(p.row_of(go, p.blocks[j + 1], task.b, k), places.path);
        }
        one_block(tile, trail, task.b, k, j, c, places, carry + (j - task.first) * p.states, sums, soon);
      }
      write_rows(trail.sum_B, p.states, dB.data_ptr<float>() + own, places.at(p.follow_B), places.steps);
      write_rows(trail.sum_C, p.states, dC.data_ptr<float>() + own, places.at(p.follow_C), places.steps);
    }
    if (initial && begin == 0)
      for (int64_t j = task.first; j < task.stop; ++j)
        store_state(dinitial.data_ptr<float>() + ((task.b * p.paths + k) * p.dim + p.blocks[j].channel) * p.states, p.states,
                    p.blocks[j].lanes, carry + (j - task.first) * p.states);
  };

  if (parts == 1) {
    at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
      Tiles tile;
      Trail trail(p.states);
      std::vector<vf> carry(p.blocks_per_group * p.states);
      for (int64_t i = from; i < to; ++i) {
        const Task task(p, cut, i);
        for (int64_t k = 0; k < p.paths; ++k) {
          for (int64_t j = task.first; j < task.stop; ++j) end_carry(task.b, k, j, &carry[(j - task.first) * p.states]);
          walk(tile, trail, task, 0, k, 0, p.chunks, carry.data());
        }
      }
    });
  } else {
    PartStates ends(p, cut);
    // Paths one after the other: their gradients meet in shared tensors.
    for (int64_t k = 0; k < p.paths; ++k) {
      at::parallel_for(0, cut.tasks * parts, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        Places places;
        alignas(64) float gate[CHUNK * W];
        std::vector<vf> carry(p.states);
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i / parts);
          for (int64_t j = task.first; j < task.stop; ++j) {
            std::fill(carry.begin(), carry.end(), vf{});
            vf sum_delta{};
            for (int64_t c = cut.begin(p, i % parts + 1) - 1; c >= cut.begin(p, i % parts); --c) {
              find_places(p, k, c, places);
              load_chunk(tile, p.blocks[j], task.b, k, places, gate);
              carry_back(p, p.blocks[j], task.b, k, places, tile, carry.data());
              for (int64_t t = 0; t < places.steps; ++t) sum_delta += load(tile.delta + t * W);
            }
            ends.put(task.b, j, i % parts, carry.data(), sum_delta);
          }
        }
      });
      at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
        std::vector<vf> carry(p.states);
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i);
          for (int64_t j = task.first; j < task.stop; ++j) {
            end_carry(task.b, k, j, carry.data());
            ends.join(task.b, j, k, carry.data(), true);
          }
        }
      });
      at::parallel_for(0, cut.tasks * parts, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        Trail trail(p.states);
        std::vector<vf> carry(p.blocks_per_group * p.states);
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i / parts);
          for (int64_t j = task.first; j < task.stop; ++j) ends.get(task.b, j, i % parts, &carry[(j - task.first) * p.states]);
          walk(tile, trail, task, i % parts, k, cut.begin(p, i % parts), cut.begin(p, i % parts + 1), carry.data());
        }
      });
    }
  }

  auto rows_back = [&](const Tensor& d, const Tensor& like) {  // (runs, b, K, G, L, N) -> (1|b, 1|K, G, N, 1|L)
    auto sizes = like.sizes().vec();
    std::swap(sizes[3], sizes[4]);
    return (cut.runs == 1 ? d.squeeze(0) : d.sum(0)).sum_to_size(sizes).transpose(3, 4);
  };
  auto per_channel = [&](const Tensor& d, int64_t paths) {  // (parts, b, K, ..., columns) -> (K|1, ..., D)
    Tensor s = d.sum(c10::IntArrayRef{0, 1}).unflatten(-1, {p.groups, p.blocks_per_group * W});
    s = s.narrow(-1, 0, p.dim / p.groups).flatten(-2);
    return (paths == 1 ? s.sum(0, true) : s).contiguous();
  };
  Tensor A_grad = per_channel(dA, A.size(0)).transpose(1, 2).contiguous();
  Tensor D_grad = D ? per_channel(dD, D->size(0)) : at::empty({0}, real);
  Tensor bias_grad = bias ? per_channel(dbias, bias->size(0)) : at::empty({0}, real);
  return {du, ddelta, A_grad, rows_back(dB, B), rows_back(dC, C), D_grad, dz, bias_grad, dinitial};
}

}  // namespace mmvim
