// The backward pass. Given the gradient of out, and with a[t, n] = exp(delta[t] A[n]) and the rest as in scan_forward.h, from
// the last step to the first,
//
//     dy[t]     = dout[t] silu(z[t])
//     G[t, n]   = C[t, n] dy[t] + a[t+1, n] G[t+1, n]     gradient of h[t, n]; the second term of the last step is the
//                                                         gradient of the last state
//     q[t, n]   = a[t, n] G[t, n] h[t-1, n]               gradient of delta[t] A[n]
//     s[t]      = sum over n of B[t, n] G[t, n]           gradient of delta[t] u[t]
//     du[t]     = delta[t] s[t] + D dy[t]
//     ddelta[t] = (u[t] s[t] + sum over n of A[n] q[t, n]) softplus'[t]
//     dB[t, n]  = sum over channels of G[t, n] delta[t] u[t]
//     dC[t, n]  = sum over channels of dy[t] h[t, n]
//     dA[n]     = sum over t of delta[t] q[t, n]
//     dD        = sum over t of dy[t] u[t],  dbias = sum over t of ddelta[t]
//     dz[t]     = dout[t] y[t] silu'(z[t])
//     d(initial state)[n] = a[0, n] G[0, n]
//
// A task takes a run of blocks of one group and batch element, and the chunks from the last to the first. Each chunk is
// scanned again from its saved boundary, then walked back. dB and dC are summed over a task's blocks as vectors, and over the
// lanes once a chunk, into rows that belong to the task. The order of every sum depends only on shapes and number of threads.
#pragma once
#include <tuple>

#include "scan_problem.h"

namespace mmvim {

// What the scan of a chunk leaves for the walk back. hist and decay serve one piece of up to 4 states at a time; the sums
// hold all pieces, one after the other: (CHUNK, 4) for each piece of 4 states, (CHUNK, 1) for each single state.
struct Trail {
  std::vector<vf> hist, decay;   // (CHUNK, 4, W): the states before each step; exp(delta A)
  std::vector<vf> sum_B, sum_C;  // (N * CHUNK, W): dB and dC of a chunk, not yet summed over lanes
  explicit Trail(int64_t states)
      : hist(CHUNK * 4), decay(CHUNK * 4), sum_B(states * CHUNK), sum_C(states * CHUNK) {}
};

// Where a task adds up the gradients of the channels' parameters.
struct ChannelSums {
  float *A, *D, *bias;  // A: (N, padded); D, bias: (padded,)
};

// One chunk of one block: what it reads and where its results go, the same for all pieces of its states.
struct Chunk {
  const Problem& p;
  const Block& block;
  int64_t b, k;
  const Positions& positions;
  Tiles& tile;
  Rows u, dy;           // (steps, W)
  Rows to_u, to_delta;  // (steps, W): the gradients of u and delta, added to what is there where paths share the tensor
  bool add_u, add_delta;
  const ChannelSums& sums;
  const Prefetch& ahead;
};

// States n0 .. n0 + N - 1 of one chunk of one block. Adds to the sums of dB, dC and dA. `boundary` (states, W) has the states
// before the chunk. `carry` (states, W) comes in as the gradient that the steps behind the chunk hand to its last state, and
// goes out as the one for the state before the chunk. Pieces sum s[t] in tile.to_input and the sum of A q in tile.to_delta;
// the last piece turns these into the gradients of u and delta.
template <int N>
void backward_piece(const Chunk& c, const float* boundary, vf* carry, Trail& trail, int64_t n0) {
  const Problem& p = c.p;
  const int64_t column = c.block.column, row = c.k * p.padded + column;
  const float *B = p.B(c.b, c.k, c.block.group) + n0, *C = p.C(c.b, c.k, c.block.group) + n0;  // (L|1, N), rows Bl, Cl apart
  const int64_t *at_B = c.positions.rows_at(p.follow_B), *at_C = c.positions.rows_at(p.follow_C);  // (steps,)
  const int64_t steps = c.positions.steps, Bl = p.Bl, Cl = p.Cl;
  const bool first = n0 == 0, last = n0 + N == p.states, want_y = bool(p.z), has_slope = p.delta_softplus;
  const Rows u_rows = c.u, dy_rows = c.dy, to_u = c.to_u, to_delta_rows = c.to_delta;
  const bool add_u = c.add_u, add_delta = c.add_delta;
  Tiles& tile = c.tile;
  vf *hist = trail.hist.data(), *decay = trail.decay.data();                              // (CHUNK, N, W)
  vf *sum_B = trail.sum_B.data() + n0 * CHUNK, *sum_C = trail.sum_C.data() + n0 * CHUNK;  // (CHUNK, N, W)
  const vf D = load(&p.D[row]);                                                           // (W,)
  {  // Scan the chunk again: remember states and decays, and finish dC, which needs nothing from later steps.
    vf h[N], A2[N];
    for (int n = 0; n < N; ++n) {
      h[n] = load(boundary + (n0 + n) * W);                                // (W,)
      A2[n] = load(&p.A2[(c.k * p.states + n0 + n) * p.padded + column]);  // (W,)
    }
    for (int64_t t = 0; t < steps; ++t) {
      const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;  // (N,): scalars, the same for all lanes
      const vf u = load(u_rows.at(t)), delta = load(tile.delta + t * W), dy = load(dy_rows.at(t)), du = delta * u;  // (W,)
      vf y{};
      if (first) c.ahead.fetch(t);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const vf a = exp2(delta * A2[n]);
        hist[t * N + n] = h[n];
        decay[t * N + n] = a;
        h[n] = a * h[n] + du * Bt[n];
        sum_C[t * N + n] += dy * h[n];
        if (want_y) y += h[n] * Ct[n];
      }
      if (want_y) store(tile.y + t * W, (first ? D * u : load(tile.y + t * W)) + y);  // (W,)
    }
  }
  // Walk back.
  vf g[N], grad_A[N], A[N], sum_D{}, sum_bias{};
  for (int n = 0; n < N; ++n) {
    g[n] = carry[n0 + n], grad_A[n] = vf{};
    A[n] = load(&p.A[(c.k * p.states + n0 + n) * p.padded + column]);  // (W,)
  }
  for (int64_t t = steps - 1; t >= 0; --t) {
    const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;  // (N,)
    const vf delta = load(tile.delta + t * W), dy = load(dy_rows.at(t)), u = load(u_rows.at(t)), du = delta * u;  // (W,)
    vf to_input = first ? vf{} : load(tile.to_input + t * W), to_delta = first ? vf{} : load(tile.to_delta + t * W);  // (W,)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const vf grad = dy * Ct[n] + g[n];  // G[t, n]
      sum_B[t * N + n] += grad * du;
      to_input += grad * Bt[n];
      g[n] = grad * decay[t * N + n];
      const vf q = g[n] * hist[t * N + n];
      to_delta += q * A[n];
      grad_A[n] += q * delta;
    }
    if (!last) {
      store(tile.to_input + t * W, to_input);  // (W,)
      store(tile.to_delta + t * W, to_delta);  // (W,)
      continue;
    }
    vf grad_u = to_input * delta + D * dy, grad_delta = to_delta + to_input * u;
    if (has_slope) grad_delta *= load(tile.slope + t * W);  // (W,)
    sum_bias += grad_delta;
    sum_D += dy * u;
    float *u_at = to_u.at(t), *delta_at = to_delta_rows.at(t);
    if (add_u) grad_u += load(u_at);
    if (add_delta) grad_delta += load(delta_at);
    store(u_at, grad_u);          // (W,)
    store(delta_at, grad_delta);  // (W,)
  }
  auto add = [](float* to, vf x) { store(to, load(to) + x); };  // (W,)
  for (int n = 0; n < N; ++n) {
    carry[n0 + n] = g[n];
    add(c.sums.A + (n0 + n) * p.padded + column, grad_A[n]);
  }
  if (last) add(c.sums.D + column, sum_D), add(c.sums.bias + column, sum_bias);
}

// Moves `carry` (N, W) back over a chunk without computing gradients: parts of L need it before they can start.
inline void carry_back(const Problem& p, const Block& block, int64_t b, int64_t k, const Positions& positions,
                       const Tiles& tile, const Rows& dy_rows, vf* carry) {
  const float *C = p.C(b, k, block.group), *A2 = &p.A2[k * p.states * p.padded + block.column];  // (L|1, N); (N, W)
  const int64_t* at_C = positions.rows_at(p.follow_C);
  for (int64_t t = positions.steps - 1; t >= 0; --t) {
    const vf delta = load(tile.delta + t * W), dy = load(dy_rows.at(t));  // (W,)
    for (int64_t n = 0; n < p.states; ++n)
      carry[n] = (dy * C[at_C[t] * p.Cl + n] + carry[n]) * exp2(delta * load(A2 + n * p.padded));
  }
}

// Sums a chunk's dB or dC over the lanes, W vectors at a time, and writes rows (N,) at the given positions of rows (L, N).
// Padding steps, whose position is L, have no row: parts of L that run at the same time would all write to it.
inline void write_rows(std::vector<vf>& sums, int64_t states, float* rows, int64_t length, const int64_t* position,
                       int64_t steps) {
  in_pieces<4>(states, [&](int64_t n0, auto piece) {
    constexpr int N = piece.value;
    vf* from = sums.data() + n0 * CHUNK;  // (CHUNK, N, W)
    const int64_t count = steps * N;
    for (int64_t i = 0; i < count; i += W) {
      vf group[W];  // (W, W); after sum_lanes, group[0] has the W sums
      for (int64_t j = 0; j < W; ++j) group[j] = i + j < count ? from[i + j] : vf{};
      sum_lanes(group);
      for (int64_t j = 0; j < W && i + j < count; ++j) {
        const int64_t row = position[(i + j) / N];
        if (row < length) rows[row * states + n0 + (i + j) % N] = group[0][j];
      }
    }
  });
}

// Returns the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, float32 and in the shapes of these, empty
// for what is not given. Those with three axes or more have the last but one contiguous: channels, or the states of B and C.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward(
    const Tensor& grad_out, const Opt& grad_last_state, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const Opt& D, const Opt& z, const Opt& delta_bias, const Opt& initial_state, const Opt& maps,
    at::IntArrayRef map_ids, at::IntArrayRef reverse, at::IntArrayRef follow, int64_t length, bool partial,
    bool delta_softplus, bool stack, const Tensor& boundaries) {
  const Problem p =
      prepare(u, delta, A, B, C, D, z, delta_bias, maps, map_ids, reverse, follow, length, partial, delta_softplus);
  const auto real = u.options().dtype(at::kFloat);
  auto like = [&](const Tensor& t, bool zero) {  // memory (..., L, D) -> (..., D, L)
    auto sizes = t.sizes().vec();
    std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
    return (zero ? at::zeros(sizes, real) : at::empty(sizes, real)).transpose(-1, -2);
  };
  const bool shared_u = p.paths > 1 && u.size(1) == 1, shared_delta = p.paths > 1 && delta.size(1) == 1;
  Tensor du = like(u, shared_u || (partial && p.follow_u)), ddelta = like(delta, shared_delta || (partial && p.follow_delta));
  Tensor dz = z ? like(*z, true) : at::empty({0}, real);
  Tensor dinitial = initial_state ? make_states(p, real) : at::empty({0}, real);
  const Cut cut(p, p.blocks_per_group);  // long runs, because each run has buffers of its own for dB and dC
  const int64_t n_blocks = p.blocks.size(), parts = cut.parts;
  // Sums of tasks that run at the same time are kept apart, and added up at the end.
  Tensor dA = at::zeros({parts, p.batch, p.paths, p.states, p.padded}, real);
  Tensor dD = at::zeros({parts, p.batch, p.paths, p.padded}, real), dbias = at::zeros_like(dD);
  auto rows_of = [&](bool follow) {
    const int64_t rows = follow ? p.length : p.steps;
    const std::vector<int64_t> sizes{cut.runs, p.batch, p.paths, p.groups, rows, p.states};
    return follow && partial ? at::zeros(sizes, real) : at::empty(sizes, real);
  };
  Tensor dB = rows_of(p.follow_B), dC = rows_of(p.follow_C);
  // (b, 1|K, D, L), but gz (b, D, L); grad_out may have any strides, 0 included.
  const View gu(du), gd(ddelta), gz = z ? View(dz) : View(), go(stack ? grad_out : grad_out.unsqueeze(1));
  Tensor end_grad = grad_last_state ? as_states(*grad_last_state) : Tensor();
  const float* boundaries_from = boundaries.const_data_ptr<float>();  // (b, K, blocks, chunks, N, W)

  auto end_carry = [&](int64_t b, int64_t k, int64_t j, vf* carry) {  // (N, W)
    if (grad_last_state) load_state(p, p.blocks[j], b, k, end_grad, carry);
    else std::fill(carry, carry + p.states, vf{});
  };
  // Loads a chunk's inputs and dy, and returns u and dy (steps, W). With z also fills gate (CHUNK, W) with dout silu'(z).
  auto load_chunk = [&](Tiles& tile, const Block& block, int64_t b, int64_t k, const Positions& positions, float* gate) {
    const Rows u_rows = load_inputs<true>(p, block, b, k, positions, tile);
    const Lanes dy_lanes = p.row_of(go, block, b, k);
    const Rows dy_rows = read_along(tile.dy, dy_lanes, positions, true);
    if (!p.z) return std::pair(u_rows, dy_rows);
    const Rows z_rows = read_rows(tile.z, p.row_of_z(p.z, block, b), positions.path, positions.steps);
    for (int64_t t = 0; t < positions.steps; ++t) {  // (W,) each
      vf x = load(z_rows.at(t)), s = sigmoid(x), dy = load(dy_rows.at(t));
      store(gate + t * W, dy * s * (1.f + x * (1.f - s)));
      store(tile.dy + t * W, dy * x * s);
    }
    return std::pair(u_rows, rows_of_tile(tile.dy));
  };
  // All gradients of chunk c of block j; carry: (N, W).
  auto one_block = [&](Tiles& tile, Trail& trail, int64_t b, int64_t k, int64_t j, int64_t c, const Positions& positions,
                       vf* carry, const ChannelSums& sums, const Prefetch& ahead) {
    const Block& block = p.blocks[j];
    const int64_t steps = positions.steps;
    alignas(64) float gate[CHUNK * W];
    const auto [u_rows, dy_rows] = load_chunk(tile, block, b, k, positions, gate);
    // Gradients of u and delta go straight into their tensors if these hold whole vectors, else through tiles.
    const Lanes u_lanes = p.row_of(gu, block, b, k), delta_lanes = p.row_of(gd, block, b, k);
    const int64_t *u_position = positions.at(p.follow_u), *delta_position = positions.at(p.follow_delta);
    const bool direct_u = in_place(u_lanes) && !positions.padded(p.follow_u);
    const bool direct_delta = in_place(delta_lanes) && !positions.padded(p.follow_delta);
    const Chunk chunk{p, block, b, k, positions, tile, u_rows, dy_rows,
                      direct_u ? rows_in_place(u_lanes, u_position) : rows_of_tile(tile.to_input),
                      direct_delta ? rows_in_place(delta_lanes, delta_position) : rows_of_tile(tile.to_delta),
                      direct_u && shared_u, direct_delta && shared_delta, sums, ahead};
    const float* boundary = boundaries_from + (((b * p.paths + k) * n_blocks + j) * p.chunks + c) * p.states * W;  // (N, W)
    in_pieces<4>(p.states, [&](int64_t n0, auto n) { backward_piece<n.value>(chunk, boundary, carry, trail, n0); });
    if (!direct_u) write_along(tile.to_input, u_lanes, positions, p.follow_u, shared_u);  // (steps, W)
    if (!direct_delta) write_along(tile.to_delta, delta_lanes, positions, p.follow_delta, shared_delta);
    if (!p.z) return;
    for (int64_t t = 0; t < steps; ++t) store(gate + t * W, load(gate + t * W) * load(tile.y + t * W));  // (W,): dz
    write_along(gate, p.row_of_z(gz, block, b), positions, true, true);                                  // (steps, W)
  };
  // Walks chunks end - 1 .. begin of path k for all blocks of a task; carry: (blocks of the task, N, W).
  auto walk = [&](Tiles& tile, Trail& trail, const Task& task, int64_t part, int64_t k, int64_t begin, int64_t end, vf* carry) {
    const int64_t row = (part * p.batch + task.b) * p.paths + k;
    const ChannelSums sums{dA.data_ptr<float>() + row * p.states * p.padded, dD.data_ptr<float>() + row * p.padded,
                           dbias.data_ptr<float>() + row * p.padded};
    auto own_rows = [&](const Tensor& d) {  // (L or T, N)
      const int64_t own = ((task.run * p.batch + task.b) * p.paths + k) * p.groups + task.group;
      return d.data_ptr<float>() + own * d.size(4) * p.states;
    };
    Positions positions;
    for (int64_t c = end - 1; c >= begin; --c) {
      find_positions(p, k, c, positions);
      std::fill(trail.sum_B.begin(), trail.sum_B.end(), vf{});
      std::fill(trail.sum_C.begin(), trail.sum_C.end(), vf{});
      for (int64_t j = task.first; j < task.stop; ++j) {
        Prefetch ahead;
        if (shared_u) ahead.add(p.row_of(gu, p.blocks[j], task.b, k), positions.at(p.follow_u));
        if (shared_delta) ahead.add(p.row_of(gd, p.blocks[j], task.b, k), positions.at(p.follow_delta));
        if (j + 1 < task.stop) {
          ahead.add(p.row_of(p.u, p.blocks[j + 1], task.b, k), positions.at(p.follow_u));
          ahead.add(p.row_of(p.delta, p.blocks[j + 1], task.b, k), positions.at(p.follow_delta));
          ahead.add(p.row_of(go, p.blocks[j + 1], task.b, k), positions.path);
        }
        one_block(tile, trail, task.b, k, j, c, positions, carry + (j - task.first) * p.states, sums, ahead);
      }
      // (steps, N) each
      write_rows(trail.sum_B, p.states, own_rows(dB), dB.size(4), positions.rows_at(p.follow_B), positions.steps);
      write_rows(trail.sum_C, p.states, own_rows(dC), dC.size(4), positions.rows_at(p.follow_C), positions.steps);
    }
    if (initial_state && begin == 0)
      for (int64_t j = task.first; j < task.stop; ++j)
        store_state(p, p.blocks[j], task.b, k, dinitial, carry + (j - task.first) * p.states);
  };

  if (parts == 1) {  // tasks enough for all threads
    at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
      Tiles tile;
      Trail trail(p.states);
      std::vector<vf> carry(p.blocks_per_group * p.states);  // (blocks of a task, N, W), at most a group's
      for (int64_t i = from; i < to; ++i) {
        const Task task(p, cut, i);
        for (int64_t k = 0; k < p.paths; ++k) {
          for (int64_t j = task.first; j < task.stop; ++j) end_carry(task.b, k, j, &carry[(j - task.first) * p.states]);
          walk(tile, trail, task, 0, k, 0, p.chunks, carry.data());
        }
      }
    });
  } else {  // parts of L in parallel; one path after the other, because their gradients meet in shared tensors
    PartStates ends(p, cut);
    for (int64_t k = 0; k < p.paths; ++k) {
      // 1. What each part hands back if nothing comes from behind it.
      at::parallel_for(0, cut.tasks * parts, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        Positions positions;
        alignas(64) float gate[CHUNK * W];
        std::vector<vf> carry(p.states);  // (N, W)
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i / parts);
          for (int64_t j = task.first; j < task.stop; ++j) {
            std::fill(carry.begin(), carry.end(), vf{});
            vf sum_delta{};
            for (int64_t c = cut.begin(p, i % parts + 1) - 1; c >= cut.begin(p, i % parts); --c) {
              find_positions(p, k, c, positions);
              const Rows dy_rows = load_chunk(tile, p.blocks[j], task.b, k, positions, gate).second;
              carry_back(p, p.blocks[j], task.b, k, positions, tile, dy_rows, carry.data());
              for (int64_t t = 0; t < positions.steps; ++t) sum_delta += load(tile.delta + t * W);  // (W,)
            }
            ends.put(task.b, j, i % parts, carry.data(), sum_delta);
          }
        }
      });
      // 2. What really comes from behind each part.
      at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
        std::vector<vf> carry(p.states);  // (N, W)
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i);
          for (int64_t j = task.first; j < task.stop; ++j) {
            end_carry(task.b, k, j, carry.data());
            ends.join(task.b, j, k, carry.data(), true);
          }
        }
      });
      // 3. The gradients.
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

  // Sums over runs and over axes that the input shares: (runs, b, K, G, L, N) -> (1|b, 1|K, G, N, 1|L)
  auto rows_back = [&](const Tensor& d, const Tensor& like) {
    auto sizes = like.sizes().vec();
    std::swap(sizes[3], sizes[4]);
    const Tensor rows = d.narrow(4, 0, sizes[3]);
    return (cut.runs == 1 ? rows.squeeze(0) : rows.sum(0)).sum_to_size(sizes).transpose(3, 4);
  };
  // Sums over parts, batch and, if shared, paths, and drops the padding: (parts, b, K, ..., padded) -> (K|1, ..., D)
  auto per_channel = [&](const Tensor& d, int64_t paths) {
    Tensor s = d.sum(c10::IntArrayRef{0, 1}).unflatten(-1, {p.groups, p.blocks_per_group * W});  // (K, ..., G, padded / G)
    s = s.narrow(-1, 0, p.dim / p.groups).flatten(-2);                                           // (K, ..., D)
    return (paths == 1 ? s.sum(0, true) : s).contiguous();
  };
  Tensor A_grad = per_channel(dA, A.size(0)).transpose(1, 2);  // (K|1, N, D) -> (K|1, D, N)
  Tensor D_grad = D ? per_channel(dD, D->size(0)) : at::empty({0}, real);
  Tensor bias_grad = delta_bias ? per_channel(dbias, delta_bias->size(0)) : at::empty({0}, real);
  return {du, ddelta, A_grad, rows_back(dB, B), rows_back(dC, C), D_grad, dz, bias_grad, dinitial};
}

}  // namespace mmvim
