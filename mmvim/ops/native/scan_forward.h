// The forward pass. For each channel and state n, with delta after bias and softplus and t counting the steps of a path,
//
//     h[t, n] = exp(delta[t] A[n]) h[t-1, n] + delta[t] B[t, n] u[t]
//     y[t]    = sum over n of C[t, n] h[t, n]  +  D u[t]
//     out[t]  = y[t] silu(z[t])
//
// A task walks its run of blocks chunk by chunk. Within a chunk it takes one block after the other, and of each block up to
// eight states at a time, which stay in registers. For the backward pass it can save the boundaries: the states before each
// chunk. Paths whose outputs are summed take turns, and a task alone writes its channels at all positions.
#pragma once
#include <tuple>

#include "scan_problem.h"

namespace mmvim {

// States n0 .. n0 + N - 1 over one chunk of one block: adds their share to y (steps, W). The first piece begins y with D * u,
// added to what is there if `add`.
template <int N>
void forward_piece(const Problem& p, const Block& block, int64_t b, int64_t k, const Positions& positions,
                   const float* delta_tile, const Rows u_rows, const Rows y_rows, bool add, vf* state, int64_t n0,
                   const Prefetch& ahead) {
  const float* A = &p.A2[(k * p.states + n0) * p.padded + block.column];           // (N, W), rows `padded` apart
  const float *B = p.B(b, k, block.group) + n0, *C = p.C(b, k, block.group) + n0;  // (L|1, N), rows Bl, Cl apart
  const int64_t *at_B = positions.rows_at(p.follow_B), *at_C = positions.rows_at(p.follow_C);  // (steps,)
  const int64_t steps = positions.steps, Bl = p.Bl, Cl = p.Cl;
  const vf D = n0 == 0 ? load(&p.D[k * p.padded + block.column]) : vf{};  // (W,)
  const bool first = n0 == 0, more = add || !first;
  vf h[N], a[N];
  for (int n = 0; n < N; ++n) h[n] = state[n0 + n], a[n] = load(A + n * p.padded);  // (W,) each
  for (int64_t t = 0; t < steps; ++t) {
    const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;  // (N,): scalars, the same for all lanes
    float* to = y_rows.at(t);
    const vf u = load(u_rows.at(t)), delta = load(delta_tile + t * W), du = delta * u;  // (W,)
    vf y{};
    if (first) {
      y = D * u;
      ahead.fetch(t);
    }
    if (more) y += load(to);  // (W,)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      h[n] = exp2(delta * a[n]) * h[n] + du * Bt[n];
      y += h[n] * Ct[n];
    }
    store(to, y);  // (W,)
  }
  for (int n = 0; n < N; ++n) state[n0 + n] = h[n];
}

// Returns out (b, D, L) or, stacked, (b, K, D, L), and the last state (b, K, D, N), both with the channels contiguous; and, if
// `save`, the boundaries (b, K, blocks, chunks, N, W).
inline std::tuple<Tensor, Tensor, Tensor> scan_forward(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D, const Opt& z,
    const Opt& delta_bias, const Opt& initial_state, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
    at::IntArrayRef follow, int64_t length, bool partial, bool delta_softplus, bool stack, at::ScalarType out_dtype,
    bool save) {
  const Problem p =
      prepare(u, delta, A, B, C, D, z, delta_bias, maps, map_ids, reverse, follow, length, partial, delta_softplus);
  const auto real = u.options().dtype(at::kFloat);
  // The channels are contiguous whatever the layout of u, so that a block is written as vectors.
  auto make_out = [&](at::ScalarType dtype) {  // memory (b, 1|K, L, D) -> (b, 1|K, D, L)
    auto options = u.options().dtype(dtype);
    const std::vector<int64_t> sizes{p.batch, stack ? p.paths : 1, p.length, p.dim};
    return (partial ? at::zeros(sizes, options) : at::empty(sizes, options)).transpose(2, 3);
  };
  Tensor out = make_out(out_dtype), last_state = make_states(p, real);
  const bool added = !stack && p.paths > 1;
  // Paths are summed in float32; the sum is gated and rounded once it is complete.
  const bool finish = added && (p.z || out_dtype != at::kFloat);
  Tensor sums = finish ? make_out(at::kFloat) : out;
  const Cut cut(p, 8);
  const int64_t n_blocks = p.blocks.size(), parts = cut.parts;
  Tensor boundaries = at::empty({save ? p.batch : 0, p.paths, n_blocks, p.chunks, p.states, W}, real);
  Tensor start = initial_state ? as_states(*initial_state) : Tensor();
  const View out_view(out), sums_view(sums);
  float* boundaries_to = boundaries.data_ptr<float>();

  // tile.y (steps, W) times silu(z).
  auto gate = [&](Tiles& tile, const Block& block, int64_t b, const Positions& positions) {
    gather(tile.z, p.row_of_z(p.z, block, b), positions.path, positions.steps);
    for (int64_t t = 0; t < positions.steps; ++t) {  // (W,) each
      vf x = load(tile.z + t * W);
      store(tile.y + t * W, load(tile.y + t * W) * x * sigmoid(x));
    }
  };
  auto begin_state = [&](const Task& task, int64_t j, int64_t k, vf* state) {  // (N, W)
    if (initial_state) load_state(p, p.blocks[j], task.b, k, start, state);
    else std::fill(state, state + p.states, vf{});
  };
  // Scans chunks begin .. end - 1 of path k for all blocks of a task; state: (blocks of the task, N, W). Writes the outputs,
  // unless sum_delta (blocks of the task, W) is given: then it only sums delta and moves the states on.
  auto walk = [&](Tiles& tile, const Task& task, int64_t k, int64_t begin, int64_t end, vf* state, vf* sum_delta) {
    Positions both[2];  // of this chunk and of the next, for the prefetch
    if (begin < end) find_positions(p, k, begin, both[begin % 2]);
    for (int64_t c = begin; c < end; ++c) {
      const Positions& positions = both[c % 2];
      Positions& next = both[(c + 1) % 2];
      next.steps = 0;
      if (c + 1 < end) find_positions(p, k, c + 1, next);
      for (int64_t j = task.first; j < task.stop; ++j) {
        const Block& block = p.blocks[j];
        vf* own = state + (j - task.first) * p.states;  // (N, W)
        // Inputs, and where y goes: straight into the output if it can hold float32 vectors and needs no gate, else a tile.
        const Rows u_rows = load_inputs<false>(p, block, task.b, k, positions, tile);  // (steps, W)
        const Lanes target = p.row_of(sums_view, block, task.b, added ? 0 : k);
        const bool direct = !sum_delta && in_place(target) && (added || !p.z) && !positions.padded(true);
        const bool add = direct && added && k > 0;
        const Rows y_rows = direct ? rows_in_place(target, positions.path) : rows_of_tile(tile.y);  // (steps, W)
        // What is read next: the next block of this chunk, or the first block of the next chunk, unless that is shorter.
        const bool stays = j + 1 < task.stop;
        const Positions& at = stays ? positions : next;
        Prefetch ahead;
        if (at.steps >= positions.steps) {
          const Block& coming = p.blocks[stays ? j + 1 : task.first];
          ahead.add(p.row_of(p.u, coming, task.b, k), at.at(p.follow_u));
          ahead.add(p.row_of(p.delta, coming, task.b, k), at.at(p.follow_delta));
        }
        if (added && k > 0 && !sum_delta) ahead.add(p.row_of(sums_view, block, task.b, 0), positions.path);
        if (save && !sum_delta) {
          float* to = boundaries_to + (((task.b * p.paths + k) * n_blocks + j) * p.chunks + c) * p.states * W;
          for (int64_t n = 0; n < p.states; ++n) store(to + n * W, own[n]);  // (W,) each
        }
        in_pieces<8>(p.states, [&](int64_t n0, auto n) {
          forward_piece<n.value>(p, block, task.b, k, positions, tile.delta, u_rows, y_rows, add, own, n0, ahead);
        });
        if (sum_delta) {
          for (int64_t t = 0; t < positions.steps; ++t) sum_delta[j - task.first] += load(tile.delta + t * W);  // (W,)
        } else if (!direct) {  // tile.y (steps, W) -> the output
          if (p.z && !added) gate(tile, block, task.b, positions);
          write_along(tile.y, target, positions, true, added && k > 0);
        }
      }
    }
  };
  auto end_states = [&](const Task& task, int64_t k, const vf* state) {  // (blocks of the task, N, W)
    for (int64_t j = task.first; j < task.stop; ++j)
      store_state(p, p.blocks[j], task.b, k, last_state, state + (j - task.first) * p.states);
  };
  // Gates the complete sums of a task's channels and converts them to the output's dtype, in raster order.
  auto finish_sums = [&](Tiles& tile, const Task& task) {
    Positions positions;
    for (int64_t first = 0; first < p.length; first += CHUNK) {
      positions.steps = std::min(CHUNK, p.length - first);
      for (int64_t t = 0; t < positions.steps; ++t) positions.path[t] = first + t;
      for (int64_t j = task.first; j < task.stop; ++j) {  // (steps, W) each
        gather(tile.y, p.row_of(sums_view, p.blocks[j], task.b, 0), positions.path, positions.steps);
        if (p.z) gate(tile, p.blocks[j], task.b, positions);
        scatter<false>(tile.y, p.row_of(out_view, p.blocks[j], task.b, 0), positions.path, positions.steps);
      }
    }
  };

  if (parts == 1) {  // tasks enough for all threads
    at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
      Tiles tile;
      std::vector<vf> state(p.blocks_per_group * p.states);  // (blocks of a task, N, W), at most a group's
      for (int64_t i = from; i < to; ++i) {
        const Task task(p, cut, i);
        for (int64_t k = 0; k < p.paths; ++k) {
          for (int64_t j = task.first; j < task.stop; ++j) begin_state(task, j, k, &state[(j - task.first) * p.states]);
          walk(tile, task, k, 0, p.chunks, state.data(), nullptr);
          end_states(task, k, state.data());
        }
        if (finish) finish_sums(tile, task);
      }
    });
  } else {  // parts of L in parallel, one path after the other
    PartStates ends(p, cut);
    for (int64_t k = 0; k < p.paths; ++k) {
      // 1. What each part reaches from zero.
      at::parallel_for(0, cut.tasks * parts, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i / parts);
          std::vector<vf> state(p.blocks_per_group * p.states), sum_delta(p.blocks_per_group);
          walk(tile, task, k, cut.begin(p, i % parts), cut.begin(p, i % parts + 1), state.data(), sum_delta.data());
          for (int64_t j = task.first; j < task.stop; ++j)
            ends.put(task.b, j, i % parts, &state[(j - task.first) * p.states], sum_delta[j - task.first]);
        }
      });
      // 2. Where each part starts.
      at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
        std::vector<vf> state(p.states);  // (N, W)
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i);
          for (int64_t j = task.first; j < task.stop; ++j) {
            begin_state(task, j, k, state.data());
            ends.join(task.b, j, k, state.data(), false);
          }
        }
      });
      // 3. The outputs.
      at::parallel_for(0, cut.tasks * parts, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        std::vector<vf> state(p.blocks_per_group * p.states);
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i / parts);
          for (int64_t j = task.first; j < task.stop; ++j) ends.get(task.b, j, i % parts, &state[(j - task.first) * p.states]);
          walk(tile, task, k, cut.begin(p, i % parts), cut.begin(p, i % parts + 1), state.data(), nullptr);
          if (i % parts == parts - 1) end_states(task, k, state.data());
        }
      });
    }
    if (finish)
      at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
        Tiles tile;
        for (int64_t i = from; i < to; ++i) finish_sums(tile, Task(p, cut, i));
      });
  }
  return {stack ? out : out.squeeze(1), last_state, boundaries};
}

}  // namespace mmvim
