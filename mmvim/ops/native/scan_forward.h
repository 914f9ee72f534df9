// The forward pass. A task walks a run of blocks of channels chunk by chunk; within a chunk it takes one block after the
// other, and of each up to eight n at a time, whose states stay in registers. States at the start of every chunk can be
// kept. Paths that are added take turns: each position of a task's channels is written by that task alone.
#pragma once
#include <tuple>

#include "scan_problem.h"

namespace mmvim {

// y and the states of n0 .. n0 + N - 1 over one chunk; the first piece begins y with D * u, or with `add` adds that, and
// the others add to it.
template <int N>
void forward_piece(const Problem& p, const Block& block, int64_t b, int64_t k, const Places& places, const float* delta_tile,
                   const Rows u_rows, const Rows y_rows, bool add, vf* state, int64_t n0, const Soon& soon) {
  const float* A = &p.A2[(k * p.states + n0) * p.padded + block.column];
  const float *B = p.B(b, k, block.group) + n0, *C = p.C(b, k, block.group) + n0;
  const int64_t *at_B = places.at(p.follow_B), *at_C = places.at(p.follow_C), steps = places.steps, Bl = p.Bl, Cl = p.Cl;
  const vf D = n0 == 0 ? load(&p.D[k * p.padded + block.column]) : vf{};
  const bool first = n0 == 0, more = add || !first;
  vf h[N], a[N];
  for (int n = 0; n < N; ++n) h[n] = state[n0 + n], a[n] = load(A + n * p.padded);
  for (int64_t t = 0; t < steps; ++t) {
    const float *Bt = B + at_B[t] * Bl, *Ct = C + at_C[t] * Cl;
    float* to = y_rows.at(t);
    const vf u = load(u_rows.at(t)), delta = load(delta_tile + t * W), du = delta * u;
    vf y{};
    if (first) {
      y = D * u;
      soon.ask(t);
    }
    if (more) y += load(to);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      h[n] = exp2(delta * a[n]) * h[n] + du * Bt[n];
      y += h[n] * Ct[n];
    }
    store(to, y);
  }
  for (int n = 0; n < N; ++n) state[n0 + n] = h[n];
}

// out (b, D, L) or, stacked, (b, K, D, L); last state (b, K, D, N); states at chunk starts (b, K, blocks, chunks, N, W).
inline std::tuple<Tensor, Tensor, Tensor> scan_forward(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D, const Opt& z,
    const Opt& bias, const Opt& initial, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
    at::IntArrayRef follow, bool softplus, bool stack, at::ScalarType out_dtype, bool keep) {
  const Problem p = prepare(u, delta, A, B, C, D, z, bias, maps, map_ids, reverse, follow, softplus);
  const auto real = u.options().dtype(at::kFloat);
  // (b, 1|K, D, L) with the channels contiguous, whatever the layout of u: blocks of channels are written as vectors.
  auto make_out = [&](at::ScalarType dtype) {
    return at::empty({p.batch, stack ? p.paths : 1, p.length, p.dim}, u.options().dtype(dtype)).transpose(2, 3);
  };
  Tensor out = make_out(out_dtype), last = make_states(p, real);
  const bool added = !stack && p.paths > 1;
  // Sums over paths are float32, and gated when they are complete.
  const bool finish = added && (p.z || out_dtype != at::kFloat);
  Tensor sums = finish ? make_out(at::kFloat) : out;
  const Cut cut(p, 8);
  const int64_t n_blocks = p.blocks.size(), parts = cut.parts;
  Tensor kept = at::empty({keep ? p.batch : 0, p.paths, n_blocks, p.chunks, p.states, W}, real);
  Tensor start = initial ? as_states(*initial) : Tensor();
  const View out_view(out), sums_view(sums);
  float* kept_to = kept.data_ptr<float>();

  auto gate = [&](Tiles& tile, const Block& block, int64_t b, const Places& places) {
    gather(tile.z, p.row_of_z(p.z, block, b), places.path, places.steps);
    for (int64_t t = 0; t < places.steps; ++t) {
      vf x = load(tile.z + t * W);
      store(tile.y + t * W, load(tile.y + t * W) * x * sigmoid(x));
    }
  };
  auto begin_state = [&](const Task& task, int64_t j, int64_t k, vf* state) {
    if (initial) load_state(p, p.blocks[j], task.b, k, start, state);
    else std::fill(state, state + p.states, vf{});
  };
  // Chunks `begin` to `end` of path k; `state` (blocks of the task, N). Without `sum_delta` outputs are written; with it
  // they are not, and it gets each block's sum of delta.
  auto walk = [&](Tiles& tile, const Task& task, int64_t k, int64_t begin, int64_t end, vf* state, vf* sum_delta) {
    Places both[2];
    if (begin < end) find_places(p, k, begin, both[begin % 2]);
    for (int64_t c = begin; c < end; ++c) {
      const Places& places = both[c % 2];
      Places& next = both[(c + 1) % 2];
      next.steps = 0;
      if (c + 1 < end) find_places(p, k, c + 1, next);
      for (int64_t j = task.first; j < task.stop; ++j) {
        const Block& block = p.blocks[j];
        vf* own = state + (j - task.first) * p.states;
        const Rows u_rows = load_inputs<false>(p, block, task.b, k, places, tile);
        const Lanes target = p.row_of(sums_view, block, task.b, added ? 0 : k);
        const bool direct = !sum_delta && in_place(target) && (added || !p.z), add = direct && added && k > 0;
        const Rows y_rows = direct ? rows_in_place(target, places.path) : rows_of_tile(tile.y);
        // The next block of this chunk, or the first of the next one, which may be shorter.
        const bool stays = j + 1 < task.stop;
        const Places& at = stays ? places : next;
        Soon soon;
        if (at.steps >= places.steps) {
          const Block& coming = p.blocks[stays ? j + 1 : task.first];
          soon.add(p.row_of(p.u, coming, task.b, k), at.at(p.follow_u));
          soon.add(p.row_of(p.delta, coming, task.b, k), at.at(p.follow_delta));
        }
        if (added && k > 0 && !sum_delta) soon.add(p.row_of(sums_view, block, task.b, 0), places.path);
        if (keep && !sum_delta) {
          float* to = kept_to + (((task.b * p.paths + k) * n_blocks + j) * p.chunks + c) * p.states * W;
          for (int64_t n = 0; n < p.states; ++n) store(to + n * W, own[n]);
        }
        in_pieces<8>(p.states, [&](int64_t n0, auto n) {
          forward_piece<n.value>(p, block, task.b, k, places, tile.delta, u_rows, y_rows, add, own, n0, soon);
        });
        if (sum_delta) {
          for (int64_t t = 0; t < places.steps; ++t) sum_delta[j - task.first] += load(tile.delta + t * W);
        } else if (!direct) {
          if (p.z && !added) gate(tile, block, task.b, places);
          if (added && k > 0) scatter<true>(tile.y, target, places.path, places.steps);
          else scatter<false>(tile.y, target, places.path, places.steps);
        }
      }
    }
  };
  auto end_states = [&](const Task& task, int64_t k, const vf* state) {
    for (int64_t j = task.first; j < task.stop; ++j)
      store_state(p, p.blocks[j], task.b, k, last, state + (j - task.first) * p.states);
  };
  auto finish_sums = [&](Tiles& tile, const Task& task) {
    Places places;
    for (int64_t c = 0; c < p.chunks; ++c) {
      places.steps = std::min(CHUNK, p.length - c * CHUNK);
      for (int64_t t = 0; t < places.steps; ++t) places.path[t] = c * CHUNK + t;
      for (int64_t j = task.first; j < task.stop; ++j) {
        gather(tile.y, p.row_of(sums_view, p.blocks[j], task.b, 0), places.path, places.steps);
        if (p.z) gate(tile, p.blocks[j], task.b, places);
        scatter<false>(tile.y, p.row_of(out_view, p.blocks[j], task.b, 0), places.path, places.steps);
      }
    }
  };

  if (parts == 1) {
    at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
      Tiles tile;
      std::vector<vf> state(p.blocks_per_group * p.states);
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
  } else {
    PartStates ends(p, cut);
    for (int64_t k = 0; k < p.paths; ++k) {
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
      at::parallel_for(0, cut.tasks, 1, [&](int64_t from, int64_t to) {
        std::vector<vf> state(p.states);
        for (int64_t i = from; i < to; ++i) {
          const Task task(p, cut, i);
          for (int64_t j = task.first; j < task.stop; ++j) {
            begin_state(task, j, k, state.data());
            ends.join(task.b, j, k, state.data(), false);
          }
        }
      });
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
  return {stack ? out : out.squeeze(1), last, kept};
}

}  // namespace mmvim
