// The inputs of a scan in the forms that the inner loops want, and how the work is shared among threads.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>

#include "tiles.h"

namespace mmvim {

// Up to W neighbouring channels of one group, scanned together, one in each lane. Only a group's last block can have fewer.
struct Block {
  int64_t group, channel, column;  // column: the first channel's place among the padded channels
  int lanes;
};

struct Problem {
  int64_t batch, paths, dim, length, steps, states, groups, chunks;  // steps T of a path over L positions
  View u, delta, z;
  // Parameters of the channels, float32, with every group padded by zeros to whole blocks. A2 is A * log2(e), for exp2.
  std::vector<float> A, A2;          // (K, N, padded)
  std::vector<float> D, delta_bias;  // (K, padded)
  int64_t blocks_per_group, padded;
  std::vector<Block> blocks;
  bool delta_softplus, follow_u, follow_delta, follow_B, follow_C;
  bool partial;                            // maps may have padding steps, -1, and leave positions out
  const int64_t* maps = nullptr;           // (M, T)
  std::vector<int64_t> map_ids, reverse;   // (K,)
  Tensor B_rows, C_rows;                   // (b|1, K|1, G, L|1, N), float32
  int64_t Bb, Bk, Bg, Bl, Cb, Ck, Cg, Cl;  // their strides; 0 for axes of size 1

  int64_t column(int64_t channel) const {
    int64_t size = dim / groups;
    return channel / size * blocks_per_group * W + channel % size;
  }
  // (L|1, N) of one batch element, path and group.
  const float* B(int64_t b, int64_t k, int64_t g) const { return B_rows.const_data_ptr<float>() + b * Bb + k * Bk + g * Bg; }
  const float* C(int64_t b, int64_t k, int64_t g) const { return C_rows.const_data_ptr<float>() + b * Cb + k * Ck + g * Cg; }
  // (L, lanes) of a tensor (b, 1|K, D, L), and of one (b, D, L).
  Lanes row_of(const View& v, const Block& block, int64_t b, int64_t k) const {
    return {&v, b * v.stride[0] + k * v.stride[1] + block.channel * v.stride[2], v.stride[3], v.stride[2], block.lanes};
  }
  Lanes row_of_z(const View& v, const Block& block, int64_t b) const {
    return {&v, b * v.stride[0] + block.channel * v.stride[1], v.stride[2], v.stride[1], block.lanes};
  }
};

// B or C (b|1, K|1, G, N, L|1) as rows of N, with their strides; with a row of zeros behind the last, if `padded`.
inline Tensor as_rows(const Tensor& t, bool padded, int64_t& sb, int64_t& sk, int64_t& sg, int64_t& sl) {
  auto r = t.permute({0, 1, 2, 4, 3}).to(at::kFloat).contiguous();  // (b|1, K|1, G, L|1, N)
  if (padded) r = at::constant_pad_nd(r, {0, 0, 0, 1});
  sb = r.size(0) == 1 ? 0 : r.stride(0);
  sk = r.size(1) == 1 ? 0 : r.stride(1);
  sg = r.stride(2);
  sl = r.size(3) == 1 ? 0 : r.size(4);
  return r;
}

inline Problem prepare(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D,
                       const Opt& z, const Opt& delta_bias, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
                       at::IntArrayRef follow, int64_t length, bool partial, bool delta_softplus) {
  Problem p;
  p.batch = u.size(0), p.paths = map_ids.size(), p.dim = u.size(2), p.length = length, p.partial = partial;
  p.steps = maps ? maps->size(1) : length;
  p.states = A.size(2), p.groups = B.size(2);
  p.chunks = (p.steps + CHUNK - 1) / CHUNK;
  p.u = View(u), p.delta = View(delta), p.z = View(z);
  int64_t size = p.dim / p.groups;  // channels of a group
  p.blocks_per_group = (size + W - 1) / W;
  p.padded = p.groups * p.blocks_per_group * W;
  for (int64_t g = 0; g < p.groups; ++g)
    for (int64_t d = 0; d < size; d += W)
      p.blocks.push_back({g, g * size + d, p.column(g * size + d), static_cast<int>(std::min<int64_t>(W, size - d))});
  // A: (1|K, D, N) -> (K, N, padded)
  auto all = A.to(at::kFloat).expand({p.paths, p.dim, p.states}).contiguous();
  const float* a = all.const_data_ptr<float>();
  p.A.assign(p.paths * p.states * p.padded, 0.f);
  for (int64_t k = 0; k < p.paths; ++k)
    for (const Block& block : p.blocks)
      for (int64_t n = 0; n < p.states; ++n) {
        float* to = &p.A[(k * p.states + n) * p.padded + block.column];  // (lanes,)
        const float* from = &a[(k * p.dim + block.channel) * p.states + n];
        for (int i = 0; i < block.lanes; ++i) to[i] = from[i * p.states];
      }
  p.A2.resize(p.A.size());
  std::transform(p.A.begin(), p.A.end(), p.A2.begin(), [](float x) { return x * LOG2E; });
  // D, delta_bias: (1|K, D) -> (K, padded); zeros if there is none.
  auto per_channel = [&](const Opt& t, std::vector<float>& out) {
    out.assign(p.paths * p.padded, 0.f);
    if (!t) return;
    auto f = t->to(at::kFloat).expand({p.paths, p.dim}).contiguous();
    for (int64_t k = 0; k < p.paths; ++k)
      for (const Block& block : p.blocks)
        std::copy_n(f.const_data_ptr<float>() + k * p.dim + block.channel, block.lanes, &out[k * p.padded + block.column]);
  };
  per_channel(D, p.D), per_channel(delta_bias, p.delta_bias);
  p.delta_softplus = delta_softplus;
  p.follow_u = follow[0], p.follow_delta = follow[1], p.follow_B = follow[2], p.follow_C = follow[3];
  TORCH_CHECK_VALUE(!maps || maps->is_contiguous(), "maps must be contiguous, (M, T)");
  if (maps) p.maps = maps->const_data_ptr<int64_t>();
  p.map_ids = map_ids.vec(), p.reverse = reverse.vec();
  p.B_rows = as_rows(B, partial && p.follow_B, p.Bb, p.Bk, p.Bg, p.Bl);
  p.C_rows = as_rows(C, partial && p.follow_C, p.Cb, p.Ck, p.Cg, p.Cl);
  return p;
}

// Where the steps of a chunk read and write: along the path, or, for a tensor that does not follow it, at the step's number.
// Padding steps have position 0 in `path` and are listed in `padding`; in `rows`, for B and C, they have the row of zeros.
struct Positions {
  int64_t path[CHUNK], raster[CHUNK], rows[CHUNK], steps = 0;  // steps: CHUNK, or fewer in the last chunk
  int64_t padding[CHUNK], paddings = 0;
  const int64_t* at(bool follow) const { return follow ? path : raster; }
  const int64_t* rows_at(bool follow) const { return follow ? rows : raster; }
  bool padded(bool follow) const { return follow && paddings > 0; }
};

// One chunk of one block in step order, each (CHUNK, W). slope is the derivative of softplus.
struct Tiles {
  alignas(64) float u[CHUNK * W], delta[CHUNK * W], slope[CHUNK * W], y[CHUNK * W], dy[CHUNK * W], z[CHUNK * W],
      to_input[CHUNK * W], to_delta[CHUNK * W];
};

inline void find_positions(const Problem& p, int64_t k, int64_t chunk, Positions& positions) {
  const int64_t* map = p.map_ids[k] < 0 ? nullptr : p.maps + p.map_ids[k] * p.steps;  // (T,)
  positions.steps = std::min(CHUNK, p.steps - chunk * CHUNK), positions.paddings = 0;
  for (int64_t t = 0; t < positions.steps; ++t) {
    const int64_t step = chunk * CHUNK + t, s = p.reverse[k] ? p.steps - 1 - step : step, position = map ? map[s] : s;
    const bool padding = position < 0;
    if (padding) positions.padding[positions.paddings++] = t;
    positions.path[t] = padding ? 0 : position;
    positions.rows[t] = padding ? p.length : position;
    positions.raster[t] = step;
  }
}

// Rows (steps, W) for reading, along the path or not: those of the tensor where possible, else in `tile`, which has zeros at
// padding steps.
inline Rows read_along(float* tile, const Lanes& at, const Positions& positions, bool follow) {
  if (!positions.padded(follow)) return read_rows(tile, at, positions.at(follow), positions.steps);
  gather(tile, at, positions.path, positions.steps);
  for (int64_t i = 0; i < positions.paddings; ++i) store(tile + positions.padding[i] * W, vf{});  // (W,)
  return rows_of_tile(tile);
}

// Writes tile (steps, W) to the tensor, or adds it if `add`, along the path or not; padding steps write nothing.
inline void write_along(const float* tile, const Lanes& at, const Positions& positions, bool follow, bool add) {
  const int64_t* position = positions.at(follow);
  int64_t first = 0;  // of a run of steps between padding
  for (int64_t i = 0; i <= (positions.padded(follow) ? positions.paddings : 0); ++i) {
    const int64_t end = positions.padded(follow) && i < positions.paddings ? positions.padding[i] : positions.steps;
    if (add) scatter<true>(tile + first * W, at, position + first, end - first);
    else scatter<false>(tile + first * W, at, position + first, end - first);
    first = end + 1;
  }
}

// Reads one chunk of one block: returns u, and fills tile.delta with delta after bias and softplus, and tile.slope if Slope.
template <bool Slope>
Rows load_inputs(const Problem& p, const Block& block, int64_t b, int64_t k, const Positions& positions, Tiles& tile) {
  const int64_t steps = positions.steps;
  const vf bias = load(&p.delta_bias[k * p.padded + block.column]);  // (W,)
  const Rows raw = read_along(tile.delta, p.row_of(p.delta, block, b, k), positions, p.follow_delta);  // (steps, W)
  if (p.delta_softplus) {
    for (int64_t t = 0; t < steps; ++t) {  // (W,) each
      vf slope;
      store(tile.delta + t * W, softplus<Slope>(load(raw.at(t)) + bias, slope));
      if (Slope) store(tile.slope + t * W, slope);
    }
  } else {
    for (int64_t t = 0; t < steps; ++t) store(tile.delta + t * W, load(raw.at(t)) + bias);  // (W,) each
  }
  return read_along(tile.u, p.row_of(p.u, block, b, k), positions, p.follow_u);  // (steps, W)
}

// Cuts the N states into pieces whose values fit in registers: calls f(first state, number of states), the number being a
// constant: Most as often as possible, then 4, then 1.
template <int Most, class F>
void in_pieces(int64_t n_states, F f) {
  int64_t n = 0;
  for (; n + Most <= n_states; n += Most) f(n, std::integral_constant<int, Most>{});
  if constexpr (Most > 4)
    for (; n + 4 <= n_states; n += 4) f(n, std::integral_constant<int, 4>{});
  for (; n < n_states; ++n) f(n, std::integral_constant<int, 1>{});
}

// State tensors (b, K, D, N) have the channels contiguous: their memory is (b, K, N, D), so that a block's channels are
// neighbours.
inline Tensor make_states(const Problem& p, const at::TensorOptions& options) {
  return at::empty({p.batch, p.paths, p.states, p.dim}, options).transpose(2, 3);  // (b, K, D, N)
}
inline Tensor as_states(const Tensor& t) {  // float32; copied only if its layout is another
  return t.to(at::kFloat).transpose(2, 3).contiguous().transpose(2, 3);  // (b, K, D, N)
}

// One block's states, from such a tensor to (N, W), zeros in unused lanes; and back.
inline void load_state(const Problem& p, const Block& block, int64_t b, int64_t k, const Tensor& from, vf* state) {
  const float* row = from.const_data_ptr<float>() + (b * p.paths + k) * p.states * p.dim + block.channel;
  for (int64_t n = 0; n < p.states; ++n) {  // (lanes,) each
    state[n] = vf{};
    std::memcpy(&state[n], row + n * p.dim, block.lanes * sizeof(float));
  }
}
inline void store_state(const Problem& p, const Block& block, int64_t b, int64_t k, const Tensor& to, const vf* state) {
  float* row = to.data_ptr<float>() + (b * p.paths + k) * p.states * p.dim + block.channel;
  for (int64_t n = 0; n < p.states; ++n) std::memcpy(row + n * p.dim, &state[n], block.lanes * sizeof(float));  // (lanes,)
}

// How the work is shared. A task is a run of blocks of one group and batch element; where there are far fewer tasks than
// threads, L is cut into parts too. All depends on nothing but shapes and the number of threads, so results repeat bit for bit.
// Where PyTorch is told to be deterministic, they do not depend on the number of threads either: the work is shared as among
// eight of them, and L is not cut.
struct Cut {
  int64_t runs, tasks, parts;  // runs of a group; batch * groups * runs; parts of each task's L

  Cut(const Problem& p, int64_t longest_run) {
    const bool fixed = at::globalContext().deterministicAlgorithms();
    const int64_t threads = fixed ? 8 : std::max(at::get_num_threads(), 1), units = p.batch * p.groups;
    runs = std::max((threads + units - 1) / units, (p.blocks_per_group + longest_run - 1) / longest_run);
    runs = std::max<int64_t>(1, std::min(runs, p.blocks_per_group));
    tasks = units * runs;
    // Parts are scanned twice, the first time to learn the states between them: with two threads for a task nothing is gained.
    const int64_t spare = threads / std::max<int64_t>(tasks, 1);
    parts = fixed || spare < 3 ? 1 : std::max<int64_t>(1, std::min(spare, p.chunks / 4));
  }
  int64_t begin(const Problem& p, int64_t part) const { return p.chunks * part / parts; }  // a part's first chunk
};

struct Task {
  int64_t run, group, b, first, stop;  // blocks first .. stop - 1

  Task(const Problem& p, const Cut& cut, int64_t i)
      : run(i % cut.runs), group(i / cut.runs % p.groups), b(i / cut.runs / p.groups),
        first(group * p.blocks_per_group + p.blocks_per_group * run / cut.runs),
        stop(group * p.blocks_per_group + p.blocks_per_group * (run + 1) / cut.runs) {}
};

// The states between the parts of L, for every block. First each part puts the states that it reaches when it starts from
// zero, and its sum of delta, which tells how far it lets other states decay; join() then finds where each part really starts.
class PartStates {
 public:
  PartStates(const Problem& p, const Cut& cut)
      : p_(p), parts_(cut.parts), size_((p.states + 1) * W), all_(p.batch * p.blocks.size() * parts_ * size_) {}

  void put(int64_t b, int64_t j, int64_t part, const vf* state, vf sum_delta) {  // state: (N, W)
    float* to = of(b, j, part);
    for (int64_t n = 0; n < p_.states; ++n) store(to + n * W, state[n]);
    store(to + p_.states * W, sum_delta);
  }
  void get(int64_t b, int64_t j, int64_t part, vf* state) {  // state: (N, W)
    for (int64_t n = 0; n < p_.states; ++n) state[n] = load(of(b, j, part) + n * W);
  }
  // Replaces what each part reaches by what it starts from. `start` (N, W) belongs to the part that is walked first: the
  // first one, or, backward, the last.
  void join(int64_t b, int64_t j, int64_t k, const vf* start, bool backward) {
    const float* A = &p_.A2[k * p_.states * p_.padded + p_.blocks[j].column];  // (N, W), rows `padded` apart
    for (int64_t n = 0; n < p_.states; ++n) {
      vf state = start[n];
      for (int64_t i = 0; i < parts_; ++i) {  // end of a part = exp(A * sum of delta) * its start + what it reaches from zero
        float* part = of(b, j, backward ? parts_ - 1 - i : i);
        const vf reached = load(part + n * W);
        store(part + n * W, state);
        state = exp2(load(part + p_.states * W) * load(A + n * p_.padded)) * state + reached;
      }
    }
  }

 private:
  float* of(int64_t b, int64_t j, int64_t part) { return &all_[((b * p_.blocks.size() + j) * parts_ + part) * size_]; }
  const Problem& p_;
  int64_t parts_, size_;
  std::vector<float> all_;  // (b, blocks, parts, N + 1, W)
};

}  // namespace mmvim
