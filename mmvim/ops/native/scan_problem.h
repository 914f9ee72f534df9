// What a scan reads, brought into the forms that the inner loops want; and how the work is cut.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>

#include "tiles.h"

namespace mmvim {

// W channels, or fewer at the end of a group, that are scanned together: one lane each.
struct Block {
  int64_t group, channel, column;  // column: where it starts among the padded channels
  int lanes;
};

struct Problem {
  int64_t batch, paths, dim, length, states, groups, chunks;
  View u, delta, z;
  // Per channel, every group padded to whole blocks: A2[k][n][column] is A * log2(e); D, bias [k][column].
  std::vector<float> A, A2, D, bias;
  int64_t blocks_per_group, padded;
  std::vector<Block> blocks;
  bool softplus, follow_u, follow_delta, follow_B, follow_C;
  const int64_t* maps = nullptr;
  std::vector<int64_t> map_ids, reverse;
  Tensor B_rows, C_rows;  // (b|1, K|1, G, L|1, N) float32
  int64_t Bb, Bk, Bg, Bl, Cb, Ck, Cg, Cl;

  int64_t column(int64_t channel) const {
    int64_t size = dim / groups;
    return channel / size * blocks_per_group * W + channel % size;
  }
  const float* B(int64_t b, int64_t k, int64_t g) const { return B_rows.const_data_ptr<float>() + b * Bb + k * Bk + g * Bg; }
  const float* C(int64_t b, int64_t k, int64_t g) const { return C_rows.const_data_ptr<float>() + b * Cb + k * Ck + g * Cg; }
  Lanes row_of(const View& v, const Block& block, int64_t b, int64_t k) const {  // of (b, K, D, L)
    return {&v, b * v.stride[0] + k * v.stride[1] + block.channel * v.stride[2], v.stride[3], v.stride[2], block.lanes};
  }
  Lanes row_of_z(const View& v, const Block& block, int64_t b) const {  // of (b, D, L)
    return {&v, b * v.stride[0] + block.channel * v.stride[1], v.stride[2], v.stride[1], block.lanes};
  }
};

inline Tensor as_rows(const Tensor& t, int64_t& sb, int64_t& sk, int64_t& sg, int64_t& sl) {
  // (b|1, K|1, G, N, L|1) -> rows of N; strides of shared axes are 0
  auto r = t.permute({0, 1, 2, 4, 3}).to(at::kFloat).contiguous();
  sb = r.size(0) == 1 ? 0 : r.stride(0);
  sk = r.size(1) == 1 ? 0 : r.stride(1);
  sg = r.stride(2);
  sl = r.size(3) == 1 ? 0 : r.size(4);
  return r;
}

inline Problem prepare(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D,
                       const Opt& z, const Opt& bias, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
                       at::IntArrayRef follow, bool softplus) {
  Problem p;
  p.batch = u.size(0), p.paths = map_ids.size(), p.dim = u.size(2), p.length = u.size(3);
  p.states = A.size(2), p.groups = B.size(2);
  p.chunks = (p.length + CHUNK - 1) / CHUNK;
  p.u = View(u), p.delta = View(delta), p.z = View(z);
  int64_t size = p.dim / p.groups;
  p.blocks_per_group = (size + W - 1) / W;
  p.padded = p.groups * p.blocks_per_group * W;
  for (int64_t g = 0; g < p.groups; ++g)
    for (int64_t d = 0; d < size; d += W)
      p.blocks.push_back({g, g * size + d, p.column(g * size + d), static_cast<int>(std::min<int64_t>(W, size - d))});
  auto all = A.to(at::kFloat).expand({p.paths, p.dim, p.states}).contiguous();
  const float* a = all.const_data_ptr<float>();
  p.A.assign(p.paths * p.states * p.padded, 0.f);
  for (int64_t k = 0; k < p.paths; ++k)
    for (int64_t d = 0; d < p.dim; ++d)
      for (int64_t n = 0; n < p.states; ++n)
        p.A[(k * p.states + n) * p.padded + p.column(d)] = a[(k * p.dim + d) * p.states + n];
  p.A2.resize(p.A.size());
  std::transform(p.A.begin(), p.A.end(), p.A2.begin(), [](float x) { return x * LOG2E; });
  auto per_channel = [&](const Opt& t, std::vector<float>& out) {
    out.assign(p.paths * p.padded, 0.f);
    if (!t) return;
    auto f = t->to(at::kFloat).expand({p.paths, p.dim}).contiguous();
    for (int64_t k = 0; k < p.paths; ++k)
      for (int64_t d = 0; d < p.dim; ++d) out[k * p.padded + p.column(d)] = f.const_data_ptr<float>()[k * p.dim + d];
  };
  per_channel(D, p.D), per_channel(bias, p.bias);
  p.softplus = softplus;
  p.follow_u = follow[0], p.follow_delta = follow[1], p.follow_B = follow[2], p.follow_C = follow[3];
  if (maps) p.maps = maps->const_data_ptr<int64_t>();
  p.map_ids = map_ids.vec(), p.reverse = reverse.vec();
  p.B_rows = as_rows(B, p.Bb, p.Bk, p.Bg, p.Bl), p.C_rows = as_rows(C, p.Cb, p.Ck, p.Cg, p.Cl);
  return p;
}

// Positions of a chunk's steps: along the path, and the steps themselves.
struct Places {
  int64_t path[CHUNK], raster[CHUNK], steps = 0;
  const int64_t* at(bool follow) const { return follow ? path : raster; }
};

// A chunk of a block, in step order; slope: the derivative of delta by what softplus was given.
struct Tiles {
  alignas(64) float u[CHUNK * W], delta[CHUNK * W], slope[CHUNK * W], y[CHUNK * W], dy[CHUNK * W], z[CHUNK * W],
      to_input[CHUNK * W], to_delta[CHUNK * W];
};

inline void find_places(const Problem& p, int64_t k, int64_t chunk, Places& places) {
  const int64_t* map = p.map_ids[k] < 0 ? nullptr : p.maps + p.map_ids[k] * p.length;
  places.steps = std::min(CHUNK, p.length - chunk * CHUNK);
  for (int64_t t = 0; t < places.steps; ++t) {
    const int64_t step = chunk * CHUNK + t, s = p.reverse[k] ? p.length - 1 - step : step;
    places.path[t] = map ? map[s] : s;
    places.raster[t] = step;
  }
}

// u of a chunk; and tile.delta after bias and softplus, with softplus' slope if it is wanted.
template <bool Slope>
Rows load_inputs(const Problem& p, const Block& block, int64_t b, int64_t k, const Places& places, Tiles& tile) {
  const int64_t steps = places.steps;
  const vf bias = load(&p.bias[k * p.padded + block.column]);
  const Rows raw = read_rows(tile.delta, p.row_of(p.delta, block, b, k), places.at(p.follow_delta), steps);
  if (p.softplus) {
    for (int64_t t = 0; t < steps; ++t) {
      vf slope;
      store(tile.delta + t * W, softplus<Slope>(load(raw.at(t)) + bias, slope));
      if (Slope) store(tile.slope + t * W, slope);
    }
  } else {
    for (int64_t t = 0; t < steps; ++t) store(tile.delta + t * W, load(raw.at(t)) + bias);
  }
  return read_rows(tile.u, p.row_of(p.u, block, b, k), places.at(p.follow_u), steps);
}

// Calls f with the first state and, as a constant, the number of states of pieces that together are all N.
template <int Most, class F>
void in_pieces(int64_t n_states, F f) {
  int64_t n = 0;
  for (; n + Most <= n_states; n += Most) f(n, std::integral_constant<int, Most>{});
  if constexpr (Most > 4)
    for (; n + 4 <= n_states; n += 4) f(n, std::integral_constant<int, 4>{});
  for (; n < n_states; ++n) f(n, std::integral_constant<int, 1>{});
}

// State tensors (b, K, D, N) have the channels contiguous: their memory is (b, K, N, D), and a block's lanes are a row of it.
inline Tensor make_states(const Problem& p, const at::TensorOptions& options) {
  return at::empty({p.batch, p.paths, p.states, p.dim}, options).transpose(2, 3);
}
inline Tensor as_states(const Tensor& t) {  // float32, copied only if it has another layout
  return t.to(at::kFloat).transpose(2, 3).contiguous().transpose(2, 3);
}

// The states of one block's channels: from such a tensor to (N, W), zero beyond the block's lanes; and back.
inline void load_state(const Problem& p, const Block& block, int64_t b, int64_t k, const Tensor& from, vf* state) {
  const float* row = from.const_data_ptr<float>() + (b * p.paths + k) * p.states * p.dim + block.channel;
  for (int64_t n = 0; n < p.states; ++n) {
    state[n] = vf{};
    std::memcpy(&state[n], row + n * p.dim, block.lanes * sizeof(float));
  }
}
inline void store_state(const Problem& p, const Block& block, int64_t b, int64_t k, const Tensor& to, const vf* state) {
  float* row = to.data_ptr<float>() + (b * p.paths + k) * p.states * p.dim + block.channel;
  for (int64_t n = 0; n < p.states; ++n) std::memcpy(row + n * p.dim, &state[n], block.lanes * sizeof(float));
}

// How the work is shared: a task is a run of blocks of one group and batch element. The cut depends on shapes and on the
// number of threads alone, so results repeat bit for bit.
struct Cut {
  int64_t runs, tasks, parts;  // runs of a group; batch * groups * runs; parts that each task's L is cut into

  Cut(const Problem& p, int64_t longest_run) {
    const int64_t threads = std::max(at::get_num_threads(), 1), units = p.batch * p.groups;
    runs = std::max((threads + units - 1) / units, (p.blocks_per_group + longest_run - 1) / longest_run);
    runs = std::max<int64_t>(1, std::min(runs, p.blocks_per_group));
    tasks = units * runs;
    // A part is scanned twice, once for what it hands on: two threads for one task would gain nothing.
    const int64_t spare = threads / std::max<int64_t>(tasks, 1);
    parts = spare < 3 ? 1 : std::max<int64_t>(1, std::min(spare, p.chunks / 4));
  }
  int64_t begin(const Problem& p, int64_t part) const { return p.chunks * part / parts; }  // its first chunk
};

struct Task {
  int64_t run, group, b, first, stop;  // blocks first .. stop - 1

  Task(const Problem& p, const Cut& cut, int64_t i)
      : run(i % cut.runs), group(i / cut.runs % p.groups), b(i / cut.runs / p.groups),
        first(group * p.blocks_per_group + p.blocks_per_group * run / cut.runs),
        stop(group * p.blocks_per_group + p.blocks_per_group * (run + 1) / cut.runs) {}
};

// What the parts of L hand on, of each block: the states that a part reaches from zero, and its sum of delta.
class PartStates {
 public:
  PartStates(const Problem& p, const Cut& cut)
      : p_(p), parts_(cut.parts), size_((p.states + 1) * W), all_(p.batch * p.blocks.size() * parts_ * size_) {}

  void put(int64_t b, int64_t j, int64_t part, const vf* state, vf sum_delta) {
    float* to = of(b, j, part);
    for (int64_t n = 0; n < p_.states; ++n) store(to + n * W, state[n]);
    store(to + p_.states * W, sum_delta);
  }
  void get(int64_t b, int64_t j, int64_t part, vf* state) {
    for (int64_t n = 0; n < p_.states; ++n) state[n] = load(of(b, j, part) + n * W);
  }
  // Replace them by what each part starts from, given what the first one to be walked does; backward: the last part.
  void join(int64_t b, int64_t j, int64_t k, const vf* start, bool backward) {
    const float* A = &p_.A2[k * p_.states * p_.padded + p_.blocks[j].column];
    for (int64_t n = 0; n < p_.states; ++n) {
      vf state = start[n];
      for (int64_t i = 0; i < parts_; ++i) {
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
  std::vector<float> all_;
};

}  // namespace mmvim
