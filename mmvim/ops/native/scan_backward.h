// The backward pass. A task takes a run of blocks of one group and batch element, and the chunks from the last to the
// first: each chunk is scanned again from the state kept at its start, then walked back. dB and dC are added over the
// blocks of a task as vectors and over the lanes once a chunk, into rows of the task's own; the order of every sum is
// fixed by the shapes and the number of threads.
#pragma once
#include <tuple>

#include "scan_problem.h"

namespace mmvim {

// Vectors that a chunk's two walks share; sized for all N where it says so.
struct Trail {
  std::vector<vf> hist, decay;   // (CHUNK, 4): states before each step; exp(delta A)
  std::vector<vf> sum_B, sum_C;  // (N, CHUNK) in pieces of 4 states or 1: (CHUNK, 4), and so on
  explicit Trail(int64_t states)
      : hist(CHUNK * 4), decay(CHUNK * 4), sum_B(states * CHUNK), sum_C(states * CHUNK) {}
};

// Where task sums, gradients of per-channel tensors, go: rows of `padded` columns.
struct ChannelSums {
  float *A, *D, *bias;  // A: N rows
};

// One chunk of one block: what it reads, and where its results go, the same for all its states.
struct Chunk {
  const Problem& p;
  const Block& block;
  int64_t b, k;
  const Places& places;
  Tiles& tile;
  Rows u, dy;
  // Gradients of u and delta; `add_` where paths share the tensor.
  Rows to_u, to_delta;
  bool add_u, add_delta;
  const ChannelSums& sums;
  const Soon& soon;
};

// States n0 .. n0 + N - 1 of one chunk of one block. Adds to the sums of dB and dC and of dA; `carry` is the gradient that
// reaches the last state from behind, then that of the state before the chunk. Between pieces, tile.to_input has the sum of
// g B and tile.to_delta that of A q; the last piece makes the gradients of u and delta of them.
template <int N>
void backward_piece(const Chunk& c, const float* kept, vf* carry, Trail& trail, int64_t n0) {
  const Problem& p = c.p;
  const int64_t column = c.block.column, row = c.k * p.padded + column;
  const float *B = p.B(c.b, c.k, c.block.group) + n0, *C = p.C(c.b, c.k, c.block.group) + n0;
  const int64_t *at_B = c.places.at(p.follow_B), *at_C = c.places.at(p.follow_C), steps = c.places.steps, Bl = p.Bl, Cl = p.Cl;
  const bool first = n0 == 0, last = n0 + N == p.states, want_y = bool(p.z), has_slope = p.softplus;
  const Rows u_rows = c.u, dy_rows = c.dy, to_u = c.to_u, to_delta_rows = c.to_delta;
  const bool add_u = c.add_u, add_delta = c.add_delta;
  Tiles& tile = c.tile;
  vf *hist = trail.hist.data(), *decay = trail.decay.data();
  vf *sum_B = trail.sum_B.data() + n0 * CHUNK, *sum_C = trail.sum_C.data() + n0 * CHUNK;
  const vf D = load(&p.D[row]);
  {
    vf h[N], A2[N];
    for (int n = 0; n < N; ++n) {
      h[n] = load(kept + (n0 + n) * W);
      A2[n] = load(&p.A2[(c.k * p.states + n0 + n) * p.padded + column]);
    }
    for (int64_t t = 0; t < steps; ++t) {
      const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;
      const vf u = load(u_rows.at(t)), delta = load(tile.delta + t * W), dy = load(dy_rows.at(t)), du = delta * u;
      vf y{};
      if (first) c.soon.ask(t);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const vf a = exp2(delta * A2[n]);
        hist[t * N + n] = h[n];
        decay[t * N + n] = a;
        h[n] = a * h[n] + du * Bt[n];
        sum_C[t * N + n] += dy * h[n];
        if (want_y) y += h[n] * Ct[n];
      }
      if (want_y) store(tile.y + t * W, (first ? D * u : load(tile.y + t * W)) + y);
    }
  }
  vf g[N], grad_A[N], A[N], sum_D{}, sum_bias{};
  for (int n = 0; n < N; ++n) {
    g[n] = carry[n0 + n], grad_A[n] = vf{};
    A[n] = load(&p.A[(c.k * p.states + n0 + n) * p.padded + column]);
  }
  for (int64_t t = steps - 1; t >= 0; --t) {
    const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;
    const vf delta = load(tile.delta + t * W), dy = load(dy_rows.at(t)), u = load(u_rows.at(t)), du = delta * u;
    vf to_input = first ? vf{} : load(tile.to_input + t * W), to_delta = first ? vf{} : load(tile.to_delta + t * W);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const vf grad = dy * Ct[n] + g[n];
      sum_B[t * N + n] += grad * du;
      to_input += grad * Bt[n];
      g[n] = grad * decay[t * N + n];
      const vf q = g[n] * hist[t * N + n];
      to_delta += q * A[n];
      grad_A[n] += q * delta;
    }
    if (!last) {
      store(tile.to_input + t * W, to_input);
      store(tile.to_delta + t * W, to_delta);
      continue;
    }
    vf grad_u = to_input * delta + D * dy, grad_delta = to_delta + to_input * u;
    if (has_slope) grad_delta *= load(tile.slope + t * W);
    sum_bias += grad_delta;
    sum_D += dy * u;
    float *u_at = to_u.at(t), *delta_at = to_delta_rows.at(t);
    if (add_u) grad_u += load(u_at);
    if (add_delta) grad_delta += load(delta_at);
    store(u_at, grad_u);
    store(delta_at, grad_delta);
  }
  auto add = [](float* to, vf x) { store(to, load(to) + x); };
  for (int n = 0; n < N; ++n) {
    carry[n0 + n] = g[n];
    add(c.sums.A + (n0 + n) * p.padded + column, grad_A[n]);
  }
  if (last) add(c.sums.D + column, sum_D), add(c.sums.bias + column, sum_bias);
}

// What a chunk hands back without the gradients: for parts of L, whose starts must be known first.
inline void carry_back(const Problem& p, const Block& block, int64_t b, int64_t k, const Places& places, const Tiles& tile,
                       const Rows& dy_rows, vf* carry) {
  const float *C = p.C(b, k, block.group), *A2 = &p.A2[k * p.states * p.padded + block.column];
  const int64_t* at_C = places.at(p.follow_C);
  for (int64_t t = places.steps - 1; t >= 0; --t) {
    const vf delta = load(tile.delta + t * W), dy = load(dy_rows.at(t));
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

// Gradients of u, delta, A, B, C, D, z, bias, initial, each float32 and in the shape of its input. Of three axes or more,
// the last but one is contiguous: channels, or the states of dB and dC.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward(
    const Tensor& grad_out, const Opt& grad_last, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const Opt& D, const Opt& z, const Opt& bias, const Opt& initial, const Opt& maps,
    at::IntArrayRef map_ids, at::IntArrayRef reverse, at::IntArrayRef follow, bool softplus, bool stack, const Tensor& kept) {
  const Problem p = prepare(u, delta, A, B, C, D, z, bias, maps, map_ids, reverse, follow, softplus);
  const auto real = u.options().dtype(at::kFloat);
  auto like = [&](const Tensor& t, bool zero) {  // (..., D, L) with the channels contiguous
    auto sizes = t.sizes().vec();
    std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
    return (zero ? at::zeros(sizes, real) : at::empty(sizes, real)).transpose(-1, -2);
  };
  const bool shared_u = p.paths > 1 && u.size(1) == 1, shared_delta = p.paths > 1 && delta.size(1) == 1;
  Tensor du = like(u, shared_u), ddelta = like(delta, shared_delta), dz = z ? like(*z, true) : at::empty({0}, real);
  Tensor dinitial = initial ? make_states(p, real) : at::empty({0}, real);
  const Cut cut(p, p.blocks_per_group);  // long runs: each has buffers of its own for dB and dC
  const int64_t n_blocks = p.blocks.size(), parts = cut.parts;
  Tensor dA = at::zeros({parts, p.batch, p.paths, p.states, p.padded}, real);
  Tensor dD = at::zeros({parts, p.batch, p.paths, p.padded}, real), dbias = at::zeros_like(dD);
  Tensor dB = at::empty({cut.runs, p.batch, p.paths, p.groups, p.length, p.states}, real), dC = at::empty_like(dB);
  const View gu(du), gd(ddelta), gz = z ? View(dz) : View(), go(stack ? grad_out : grad_out.unsqueeze(1));
  Tensor end_grad = grad_last ? as_states(*grad_last) : Tensor();
  const float* kept_from = kept.const_data_ptr<float>();

  auto end_carry = [&](int64_t b, int64_t k, int64_t j, vf* carry) {
    if (grad_last) load_state(p, p.blocks[j], b, k, end_grad, carry);
    else std::fill(carry, carry + p.states, vf{});
  };
  // Inputs of a chunk, and the gradient of the output before the gate; the gate's derivative in `gate`.
  auto load_chunk = [&](Tiles& tile, const Block& block, int64_t b, int64_t k, const Places& places, float* gate) {
    const Rows u_rows = load_inputs<true>(p, block, b, k, places, tile);
    const Lanes dy_lanes = p.row_of(go, block, b, k);
    if (!p.z) return std::pair(u_rows, read_rows(tile.dy, dy_lanes, places.path, places.steps));
    gather(tile.dy, dy_lanes, places.path, places.steps);
    const Rows z_rows = read_rows(tile.z, p.row_of_z(p.z, block, b), places.path, places.steps);
    for (int64_t t = 0; t < places.steps; ++t) {
      vf x = load(z_rows.at(t)), s = sigmoid(x), dy = load(tile.dy + t * W);
      store(gate + t * W, dy * s * (1.f + x * (1.f - s)));  // dy d silu(x) / dx
      store(tile.dy + t * W, dy * x * s);
    }
    return std::pair(u_rows, rows_of_tile(tile.dy));
  };
  auto one_block = [&](Tiles& tile, Trail& trail, int64_t b, int64_t k, int64_t j, int64_t c, const Places& places, vf* carry,
                       const ChannelSums& sums, const Soon& soon) {
    const Block& block = p.blocks[j];
    const int64_t steps = places.steps;
    alignas(64) float gate[CHUNK * W];
    const auto [u_rows, dy_rows] = load_chunk(tile, block, b, k, places, gate);
    const Lanes u_lanes = p.row_of(gu, block, b, k), delta_lanes = p.row_of(gd, block, b, k);
    const int64_t *u_place = places.at(p.follow_u), *delta_place = places.at(p.follow_delta);
    const bool direct_u = in_place(u_lanes), direct_delta = in_place(delta_lanes);
    const Chunk chunk{p, block, b, k, places, tile, u_rows, dy_rows,
                      direct_u ? rows_in_place(u_lanes, u_place) : rows_of_tile(tile.to_input),
                      direct_delta ? rows_in_place(delta_lanes, delta_place) : rows_of_tile(tile.to_delta),
                      direct_u && shared_u, direct_delta && shared_delta, sums, soon};
    const float* saved = kept_from + (((b * p.paths + k) * n_blocks + j) * p.chunks + c) * p.states * W;
    in_pieces<4>(p.states, [&](int64_t n0, auto n) { backward_piece<n.value>(chunk, saved, carry, trail, n0); });
    auto put = [&](const float* from, const Lanes& lanes, const int64_t* place, bool shared) {
      if (shared) scatter<true>(from, lanes, place, steps);
      else scatter<false>(from, lanes, place, steps);
    };
    if (!direct_u) put(tile.to_input, u_lanes, u_place, shared_u);
    if (!direct_delta) put(tile.to_delta, delta_lanes, delta_place, shared_delta);
    if (!p.z) return;
    for (int64_t t = 0; t < steps; ++t) store(gate + t * W, load(gate + t * W) * load(tile.y + t * W));
    scatter<true>(gate, p.row_of_z(gz, block, b), places.path, steps);
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
        store_state(p, p.blocks[j], task.b, k, dinitial, carry + (j - task.first) * p.states);
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
              const Rows dy_rows = load_chunk(tile, p.blocks[j], task.b, k, places, gate).second;
              carry_back(p, p.blocks[j], task.b, k, places, tile, dy_rows, carry.data());
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
  Tensor A_grad = per_channel(dA, A.size(0)).transpose(1, 2);
  Tensor D_grad = D ? per_channel(dD, D->size(0)) : at::empty({0}, real);
  Tensor bias_grad = bias ? per_channel(dbias, bias->size(0)) : at::empty({0}, real);
  return {du, ddelta, A_grad, rows_back(dB, B), rows_back(dC, C), D_grad, dz, bias_grad, dinitial};
}

}  // namespace mmvim
