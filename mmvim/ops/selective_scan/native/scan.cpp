// The selective scan on CPUs, forward and backward.
//
// A block of W channels (the lanes of a vector) walks its path with the states of all N in registers; B and C are
// scalars that every lane shares. The forward pass keeps the states at the start of every CHUNK steps; the backward pass
// takes the chunks from the last to the first, repeats each and turns round. dB and dC are added over the blocks of a
// task as vectors and over the lanes once a chunk; tasks write to buffers of their own, added in a fixed order.
#include <ATen/Parallel.h>
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "vec.h"

namespace mmvim {
namespace {

using at::Tensor;
using Opt = std::optional<Tensor>;

constexpr int64_t CHUNK = 32;

struct View {  // a tensor read or written through its strides, whatever its dtype
  char* base = nullptr;
  at::ScalarType dtype = at::kFloat;
  int64_t item = 0;
  std::vector<int64_t> stride;

  View() = default;
  explicit View(const Tensor& t)
      : base(static_cast<char*>(t.data_ptr())), dtype(t.scalar_type()), item(t.element_size()) {
    for (int64_t i = 0; i < t.dim(); ++i) stride.push_back(t.size(i) == 1 ? 0 : t.stride(i));
  }
  explicit View(const Opt& t) {
    if (t) *this = View(*t);
  }
  explicit operator bool() const { return base != nullptr; }
  char* at(int64_t offset) const { return base + offset * item; }
};

template <class F>
void with_type(at::ScalarType dtype, F f) {
  switch (dtype) {
    case at::kFloat: return f(float{});
    case at::kBFloat16: return f(c10::BFloat16{});
    case at::kHalf: return f(c10::Half{});
    default: TORCH_CHECK_VALUE(false, "the native scan takes float32, bfloat16 and float16, got ", dtype);
  }
}

// tile[t][lane] = source[offset + index(t) * step + lane * lane_step], zero beyond `lanes`.
template <class I>
void gather(float* tile, const View& v, int64_t offset, int64_t step, int64_t lane_step, int64_t steps, int lanes, I index) {
  with_type(v.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* p = reinterpret_cast<const T*>(v.at(offset));
    if (lane_step == 1 && lanes == W) {
      for (int64_t t = 0; t < steps; ++t) {
        const T* row = p + index(t) * step;
        for (int i = 0; i < W; ++i) tile[t * W + i] = static_cast<float>(row[i]);
      }
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        const T* row = p + index(t) * step;
        for (int i = 0; i < W; ++i) tile[t * W + i] = i < lanes ? static_cast<float>(row[i * lane_step]) : 0.f;
      }
    }
  });
}

template <bool Add, class I>
void scatter(const float* tile, const View& v, int64_t offset, int64_t step, int64_t lane_step, int64_t steps, int lanes, I index) {
  with_type(v.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = reinterpret_cast<T*>(v.at(offset));
    for (int64_t t = 0; t < steps; ++t) {
      T* row = p + index(t) * step;
      for (int i = 0; i < lanes; ++i) {
        float x = tile[t * W + i];
        row[i * lane_step] = static_cast<T>(Add ? x + static_cast<float>(row[i * lane_step]) : x);
      }
    }
  });
}

struct Problem {
  int64_t batch, paths, dim, length, states, groups, chunks;
  View u, delta, z;
  std::vector<float> A, D, bias;         // A[k][n][column], D[k][column], bias[k][column]
  int64_t per_group, padded;             // blocks of a group; channels with every group padded to whole blocks
  bool has_D, has_bias, softplus, follow_u, follow_delta, follow_B, follow_C;
  const int64_t* maps = nullptr;
  std::vector<int64_t> map_ids;
  std::vector<bool> reverse;
  std::vector<float> B, C;               // rows [b][k][g][l][n], b, k and l possibly 1
  int64_t Bb, Bk, Bl, Cb, Ck, Cl;        // strides of those, 0 where shared

  int64_t column(int64_t d) const {
    int64_t size = dim / groups;
    return d / size * per_group * W + d % size;
  }
  int64_t order(int64_t k, int64_t t) const {
    int64_t s = reverse[k] ? length - 1 - t : t;
    return map_ids[k] < 0 ? s : maps[map_ids[k] * length + s];
  }
};

void rows(const Tensor& t, std::vector<float>& out, int64_t& sb, int64_t& sk, int64_t& sl) {
  // (1|b, 1|K, G, N, 1|L) -> rows of N
  auto r = t.permute({0, 1, 2, 4, 3}).to(at::kFloat).contiguous();
  out.assign(r.data_ptr<float>(), r.data_ptr<float>() + r.numel());
  sb = r.size(0) == 1 ? 0 : r.stride(0);
  sk = r.size(1) == 1 ? 0 : r.stride(1);
  sl = r.size(3) == 1 ? 0 : r.size(4);
}

Problem prepare(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D,
                const Opt& z, const Opt& bias, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
                at::IntArrayRef follow, bool softplus) {
  Problem p;
  p.batch = u.size(0), p.paths = map_ids.size(), p.dim = u.size(2), p.length = u.size(3);
  p.states = A.size(2), p.groups = B.size(2);
  p.chunks = (p.length + CHUNK - 1) / CHUNK;
  p.u = View(u), p.delta = View(delta), p.z = View(z);
  p.per_group = (p.dim / p.groups + W - 1) / W;
  p.padded = p.groups * p.per_group * W;
  auto Af = A.to(at::kFloat).expand({p.paths, p.dim, p.states}).contiguous();
  const float* a = Af.data_ptr<float>();
  p.A.assign(p.paths * p.states * p.padded, 0.f);
  for (int64_t k = 0; k < p.paths; ++k)
    for (int64_t d = 0; d < p.dim; ++d)
      for (int64_t n = 0; n < p.states; ++n)
        p.A[(k * p.states + n) * p.padded + p.column(d)] = a[(k * p.dim + d) * p.states + n];
  auto vector = [&](const Opt& t, std::vector<float>& out) {
    out.assign(p.paths * p.padded, 0.f);
    if (!t) return false;
    auto f = t->to(at::kFloat).expand({p.paths, p.dim}).contiguous();
    for (int64_t k = 0; k < p.paths; ++k)
      for (int64_t d = 0; d < p.dim; ++d) out[k * p.padded + p.column(d)] = f.data_ptr<float>()[k * p.dim + d];
    return true;
  };
  p.has_D = vector(D, p.D), p.has_bias = vector(bias, p.bias);
  p.softplus = softplus;
  p.follow_u = follow[0], p.follow_delta = follow[1], p.follow_B = follow[2], p.follow_C = follow[3];
  if (maps) p.maps = maps->data_ptr<int64_t>();
  p.map_ids = map_ids.vec();
  for (auto r : reverse) p.reverse.push_back(r != 0);
  rows(B, p.B, p.Bb, p.Bk, p.Bl);
  rows(C, p.C, p.Cb, p.Ck, p.Cl);
  return p;
}

// One block of channels: where it lies.
struct Block {
  int64_t g, d, column;
  int lanes;
};

std::vector<Block> blocks_of(const Problem& p) {
  std::vector<Block> blocks;
  int64_t size = p.dim / p.groups;
  for (int64_t g = 0; g < p.groups; ++g)
    for (int64_t d = 0; d < size; d += W)
      blocks.push_back({g, g * size + d, p.column(g * size + d), static_cast<int>(std::min<int64_t>(W, size - d))});
  return blocks;
}

// Tiles of one chunk of one block, in step order.
struct Tiles {
  alignas(64) float u[CHUNK * W], delta[CHUNK * W], raw[CHUNK * W], y[CHUNK * W], dy[CHUNK * W], z[CHUNK * W],
      du[CHUNK * W], ddelta[CHUNK * W];
};

void load_inputs(const Problem& p, const Block& blk, int64_t b, int64_t k, int64_t t0, int64_t steps, Tiles& tile) {
  auto read = [&](float* out, const View& v, bool follow) {
    auto index = [&](int64_t t) { return follow ? p.order(k, t0 + t) : t0 + t; };
    gather(out, v, b * v.stride[0] + k * v.stride[1] + blk.d * v.stride[2], v.stride[3], v.stride[2], steps, blk.lanes, index);
  };
  read(tile.u, p.u, p.follow_u);
  read(tile.raw, p.delta, p.follow_delta);
  vf bias = load(&p.bias[k * p.padded + blk.column]);
  for (int64_t t = 0; t < steps; ++t) {
    vf x = load(tile.raw + t * W) + bias;
    store(tile.raw + t * W, x);
    store(tile.delta + t * W, p.softplus ? softplus(x) : x);
  }
}

template <int N>
void forward_chunk(const Problem& p, const Block& blk, int64_t b, int64_t k, int64_t t0, int64_t steps, Tiles& tile, vf* state) {
  const int64_t n_states = N ? N : p.states;
  const float* A = &p.A[k * n_states * p.padded + blk.column];
  const float* B = &p.B[b * p.Bb + k * p.Bk + blk.g * (p.Bl ? p.Bl * p.length : n_states)];
  const float* C = &p.C[b * p.Cb + k * p.Ck + blk.g * (p.Cl ? p.Cl * p.length : n_states)];
  vf D = load(&p.D[k * p.padded + blk.column]);
  vf h[N ? N : 1];
  if (N) for (int n = 0; n < N; ++n) h[n] = state[n];
  for (int64_t t = 0; t < steps; ++t) {
    int64_t place = p.order(k, t0 + t);
    const float* Bt = B + (p.follow_B ? place : t0 + t) * p.Bl;
    const float* Ct = C + (p.follow_C ? place : t0 + t) * p.Cl;
    vf u = load(tile.u + t * W), delta = load(tile.delta + t * W), du = delta * u, y = D * u;
    if (N) {
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        h[n] = exp(delta * load(A + n * p.padded)) * h[n] + du * Bt[n];
        y += h[n] * Ct[n];
      }
    } else {
      for (int64_t n = 0; n < n_states; ++n) {
        state[n] = exp(delta * load(A + n * p.padded)) * state[n] + du * Bt[n];
        y += state[n] * Ct[n];
      }
    }
    store(tile.y + t * W, y);
  }
  if (N) for (int n = 0; n < N; ++n) state[n] = h[n];
}

template <class F>
void with_states(int64_t n, F f) {
  switch (n) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 8: return f(std::integral_constant<int, 8>{});
    case 16: return f(std::integral_constant<int, 16>{});
    default: return f(std::integral_constant<int, 0>{});
  }
}

void load_state(const float* from, int64_t n_states, int lanes, vf* state) {
  for (int64_t n = 0; n < n_states; ++n) {
    vf v{};
    for (int i = 0; i < lanes; ++i) v[i] = from[i * n_states + n];
    state[n] = v;
  }
}

void store_state(float* to, int64_t n_states, int lanes, const vf* state) {
  for (int64_t n = 0; n < n_states; ++n)
    for (int i = 0; i < lanes; ++i) to[i * n_states + n] = state[n][i];
}

}  // namespace

// out (b, D, L) or, stacked, (b, K, D, L); last state (b, K, D, N); states at chunk starts (b, K, blocks, chunks, N, W).
std::tuple<Tensor, Tensor, Tensor> scan_forward(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, const Opt& D, const Opt& z,
    const Opt& bias, const Opt& initial, const Opt& maps, at::IntArrayRef map_ids, at::IntArrayRef reverse,
    at::IntArrayRef follow, bool softplus, bool stack, at::ScalarType out_dtype, bool keep) {
  Problem p = prepare(u, delta, A, B, C, D, z, bias, maps, map_ids, reverse, follow, softplus);
  auto real = u.options().dtype(at::kFloat);
  // Channels fastest if the input has them so: then tiles are read and written without a transposition.
  bool channels_fastest = u.stride(2) == 1 && p.dim > 1;
  auto shape = [&](std::vector<int64_t> lead) {
    lead.push_back(channels_fastest ? p.length : p.dim);
    lead.push_back(channels_fastest ? p.dim : p.length);
    Tensor t = at::empty(lead, u.options().dtype(out_dtype));
    return channels_fastest ? t.transpose(-1, -2) : t;
  };
  Tensor out = stack ? shape({p.batch, p.paths}) : shape({p.batch});
  Tensor last = at::empty({p.batch, p.paths, p.dim, p.states}, real);
  const auto blocks = blocks_of(p);
  int64_t n_blocks = blocks.size();
  Tensor kept = at::empty({keep ? p.batch : 0, p.paths, n_blocks, p.chunks, p.states, W}, real);
  View out_view(out);
  int64_t out_b = out.stride(0), out_k = stack ? out.stride(1) : 0, out_d = out.stride(-2), out_l = out.stride(-1);
  Tensor start = initial ? initial->to(at::kFloat).contiguous() : Tensor();
  float* keep_ptr = kept.data_ptr<float>();
  bool direct = stack || p.paths == 1;

  at::parallel_for(0, p.batch * n_blocks, 1, [&](int64_t begin, int64_t end) {
    Tiles tile;
    std::vector<vf, std::allocator<vf>> state(p.states);
    std::vector<float> total(direct ? 0 : p.length * W);
    for (int64_t task = begin; task < end; ++task) {
      const Block& blk = blocks[task % n_blocks];
      const int64_t b = task / n_blocks;
      if (!direct) std::fill(total.begin(), total.end(), 0.f);
      auto write = [&](int64_t k, int64_t steps, auto index) {  // gate tile.y and write it
        if (p.z) {
          gather(tile.z, p.z, b * p.z.stride[0] + blk.d * p.z.stride[1], p.z.stride[2], p.z.stride[1], steps, blk.lanes, index);
          for (int64_t t = 0; t < steps; ++t) {
            vf x = load(tile.z + t * W);
            store(tile.y + t * W, load(tile.y + t * W) * x * sigmoid(x));
          }
        }
        scatter<false>(tile.y, out_view, b * out_b + k * out_k + blk.d * out_d, out_l, out_d, steps, blk.lanes, index);
      };
      for (int64_t k = 0; k < p.paths; ++k) {
        int64_t row = (b * p.paths + k) * p.dim + blk.d;
        if (initial) load_state(start.data_ptr<float>() + row * p.states, p.states, blk.lanes, state.data());
        else std::fill(state.begin(), state.end(), vf{});
        for (int64_t c = 0; c < p.chunks; ++c) {
          int64_t t0 = c * CHUNK, steps = std::min(CHUNK, p.length - t0);
          if (keep) {
            float* to = keep_ptr + (((b * p.paths + k) * n_blocks + task % n_blocks) * p.chunks + c) * p.states * W;
            for (int64_t n = 0; n < p.states; ++n) store(to + n * W, state[n]);
          }
          load_inputs(p, blk, b, k, t0, steps, tile);
          with_states(p.states, [&](auto n) { forward_chunk<n.value>(p, blk, b, k, t0, steps, tile, state.data()); });
          if (direct) {
            write(k, steps, [&](int64_t t) { return p.order(k, t0 + t); });
          } else {
            for (int64_t t = 0; t < steps; ++t) {
              float* sum = &total[p.order(k, t0 + t) * W];
              store(sum, load(sum) + load(tile.y + t * W));
            }
          }
        }
        store_state(last.data_ptr<float>() + row * p.states, p.states, blk.lanes, state.data());
      }
      if (!direct)
        for (int64_t t0 = 0; t0 < p.length; t0 += CHUNK) {
          int64_t steps = std::min(CHUNK, p.length - t0);
          std::copy_n(&total[t0 * W], steps * W, tile.y);
          write(0, steps, [&](int64_t t) { return t0 + t; });
        }
    }
  });
  return {out, last, kept};
}

namespace {

struct Gradients {  // what one task adds to
  View du, ddelta, dz;                       // fp32 tensors shaped as their inputs
  float *dA, *dD, *dbias;                    // [k][n][padded], [k][padded], [k][padded] of this batch element
  float *dB, *dC;                            // rows as B and C, this task's own
};

template <int N>
void backward_chunk(const Problem& p, const Block& blk, int64_t b, int64_t k, int64_t t0, int64_t steps, Tiles& tile,
                    const float* kept, vf* carry, vf* hist, vf* decay, vf* sum_B, vf* sum_C, float* dA, float* dD,
                    float* dbias, bool want_y) {
  const int64_t n_states = N ? N : p.states;
  const float* A = &p.A[k * n_states * p.padded + blk.column];
  const float* B = &p.B[b * p.Bb + k * p.Bk + blk.g * (p.Bl ? p.Bl * p.length : n_states)];
  const float* C = &p.C[b * p.Cb + k * p.Ck + blk.g * (p.Cl ? p.Cl * p.length : n_states)];
  const vf D = load(&p.D[k * p.padded + blk.column]);
  // Once more forward: hist[t] is the state before step t, hist[steps] the last.
  for (int64_t n = 0; n < n_states; ++n) hist[n] = load(kept + n * W);
  for (int64_t t = 0; t < steps; ++t) {
    int64_t place = p.order(k, t0 + t);
    const float* Bt = B + (p.follow_B ? place : t0 + t) * p.Bl;
    const float* Ct = C + (p.follow_C ? place : t0 + t) * p.Cl;
    vf u = load(tile.u + t * W), delta = load(tile.delta + t * W), du = delta * u, y = D * u;
    const vf* before = hist + t * n_states;
    vf *after = hist + (t + 1) * n_states, *a = decay + t * n_states;
#pragma GCC unroll 16
    for (int64_t n = 0; n < n_states; ++n) {
      a[n] = exp(delta * load(A + n * p.padded));
      after[n] = a[n] * before[n] + du * Bt[n];
      if (want_y) y += after[n] * Ct[n];
    }
    if (want_y) store(tile.y + t * W, y);
  }
  vf d_skip{}, d_bias{};
  for (int64_t t = steps - 1; t >= 0; --t) {
    int64_t place = p.order(k, t0 + t);
    const float* Bt = B + (p.follow_B ? place : t0 + t) * p.Bl;
    const float* Ct = C + (p.follow_C ? place : t0 + t) * p.Cl;
    vf u = load(tile.u + t * W), delta = load(tile.delta + t * W), dy = load(tile.dy + t * W), du = delta * u;
    vf to_delta{}, to_input{};
    const vf *before = hist + t * n_states, *after = hist + (t + 1) * n_states, *a = decay + t * n_states;
    vf *tb = sum_B + t * n_states, *tc = sum_C + t * n_states;
#pragma GCC unroll 16
    for (int64_t n = 0; n < n_states; ++n) {
      vf g = dy * Ct[n] + carry[n];
      tc[n] += dy * after[n];
      tb[n] += g * du;
      to_input += g * Bt[n];
      vf back = g * a[n];
      vf q = back * before[n];
      to_delta += q * load(A + n * p.padded);
      float* grad = dA + n * p.padded + blk.column;
      store(grad, load(grad) + q * delta);
      carry[n] = back;
    }
    vf dd = to_delta + to_input * u;
    if (p.softplus) {
      vf raw = load(tile.raw + t * W);
      dd = raw > 20.f ? dd : dd * sigmoid(raw);
    }
    d_bias += dd;
    d_skip += dy * u;
    store(tile.ddelta + t * W, dd);
    store(tile.du + t * W, to_input * delta + D * dy);
  }
  store(dD + blk.column, load(dD + blk.column) + d_skip);
  store(dbias + blk.column, load(dbias + blk.column) + d_bias);
}

}  // namespace

// Gradients of u, delta, A, B, C, D, z, bias, initial, each float32 and in the shape of its input.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward(
    const Tensor& grad_out, const Opt& grad_last, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const Opt& D, const Opt& z, const Opt& bias, const Opt& initial, const Opt& maps,
    at::IntArrayRef map_ids, at::IntArrayRef reverse, at::IntArrayRef follow, bool softplus, bool stack, const Tensor& kept) {
  Problem p = prepare(u, delta, A, B, C, D, z, bias, maps, map_ids, reverse, follow, softplus);
  auto real = u.options().dtype(at::kFloat);
  auto like = [&](const Tensor& t, bool zero) {  // channels fastest where the input has them so
    bool swap = t.stride(-2) == 1 && t.size(-2) > 1;
    auto sizes = t.sizes().vec();
    if (swap) std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
    Tensor g = zero ? at::zeros(sizes, real) : at::empty(sizes, real);
    return swap ? g.transpose(-1, -2) : g;
  };
  Tensor du = like(u, p.paths > 1 && u.size(1) == 1), ddelta = like(delta, p.paths > 1 && delta.size(1) == 1);
  Tensor dz = z ? like(*z, true) : at::empty({0}, real);
  Tensor dA = at::zeros({p.batch, p.paths, p.states, p.padded}, real);
  Tensor dD = at::zeros({p.batch, p.paths, p.padded}, real), dbias = at::zeros_like(dD);
  Tensor dinitial = initial ? at::empty({p.batch, p.paths, p.dim, p.states}, real) : at::empty({0}, real);
  const auto blocks = blocks_of(p);
  const int64_t n_blocks = blocks.size(), per_group = p.per_group;
  // A task is a run of blocks of one group and batch element: long, so that dB and dC stay few; enough for the threads.
  int64_t threads = at::get_num_threads(), units = p.batch * p.groups;
  int64_t parts = std::min(per_group, (std::max<int64_t>(threads, 1) + units - 1) / units);
  Tensor dB = at::zeros({parts, p.batch, p.paths, p.groups, p.length, p.states}, real), dC = at::zeros_like(dB);
  View gu(du), gd(ddelta), gz, go(grad_out);
  if (z) gz = View(dz);
  int64_t go_b = grad_out.stride(0), go_k = stack ? grad_out.stride(1) : 0, go_d = grad_out.stride(-2), go_l = grad_out.stride(-1);
  Tensor end_grad = grad_last ? grad_last->to(at::kFloat).contiguous() : Tensor();
  const float* keep_ptr = kept.data_ptr<float>();

  at::parallel_for(0, units * parts, 1, [&](int64_t begin, int64_t end) {
    Tiles tile;
    std::vector<vf> carry(per_group * p.states), hist((CHUNK + 1) * p.states), decay(CHUNK * p.states),
        sum_B(CHUNK * p.states), sum_C(CHUNK * p.states);
    for (int64_t task = begin; task < end; ++task) {
      int64_t part = task % parts, g = task / parts % p.groups, b = task / parts / p.groups;
      int64_t first = g * per_group + per_group * part / parts, stop = g * per_group + per_group * (part + 1) / parts;
      for (int64_t k = 0; k < p.paths; ++k) {
        float* own = dA.data_ptr<float>() + (b * p.paths + k) * p.states * p.padded;
        float* own_D = dD.data_ptr<float>() + (b * p.paths + k) * p.padded;
        float* own_bias = dbias.data_ptr<float>() + (b * p.paths + k) * p.padded;
        int64_t out_row = (((part * p.batch + b) * p.paths + k) * p.groups + g) * p.length * p.states;
        for (int64_t j = first; j < stop; ++j) {
          vf* c = &carry[(j - first) * p.states];
          int64_t row = (b * p.paths + k) * p.dim + blocks[j].d;
          if (grad_last) load_state(end_grad.data_ptr<float>() + row * p.states, p.states, blocks[j].lanes, c);
          else std::fill(c, c + p.states, vf{});
        }
        for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk) {
          int64_t t0 = chunk * CHUNK, steps = std::min(CHUNK, p.length - t0);
          auto place = [&](int64_t t) { return p.order(k, t0 + t); };
          std::fill(sum_B.begin(), sum_B.end(), vf{});
          std::fill(sum_C.begin(), sum_C.end(), vf{});
          for (int64_t j = first; j < stop; ++j) {
            const Block& blk = blocks[j];
            load_inputs(p, blk, b, k, t0, steps, tile);
            gather(tile.dy, go, b * go_b + k * go_k + blk.d * go_d, go_l, go_d, steps, blk.lanes, place);
            if (p.z) {
              gather(tile.z, p.z, b * p.z.stride[0] + blk.d * p.z.stride[1], p.z.stride[2], p.z.stride[1], steps, blk.lanes, place);
            }
            alignas(64) float gate[CHUNK * W];
            if (p.z)
              for (int64_t t = 0; t < steps; ++t) {
                vf x = load(tile.z + t * W), s = sigmoid(x), dy = load(tile.dy + t * W);
                store(gate + t * W, dy * s * (1.f + x * (1.f - s)));  // dy d silu(x) / dx
                store(tile.dy + t * W, dy * x * s);
              }
            const float* saved = keep_ptr + (((b * p.paths + k) * n_blocks + j) * p.chunks + chunk) * p.states * W;
            with_states(p.states, [&](auto n) {
              backward_chunk<n.value>(p, blk, b, k, t0, steps, tile, saved, &carry[(j - first) * p.states], hist.data(),
                                      decay.data(), sum_B.data(), sum_C.data(), own, own_D, own_bias, bool(p.z));
            });
            auto write = [&](const float* from, const View& v, bool follow, bool shared) {
              auto index = [&](int64_t t) { return follow ? p.order(k, t0 + t) : t0 + t; };
              int64_t offset = b * v.stride[0] + k * v.stride[1] + blk.d * v.stride[2];
              if (shared) scatter<true>(from, v, offset, v.stride[3], v.stride[2], steps, blk.lanes, index);
              else scatter<false>(from, v, offset, v.stride[3], v.stride[2], steps, blk.lanes, index);
            };
            write(tile.du, gu, p.follow_u, p.paths > 1 && u.size(1) == 1);
            write(tile.ddelta, gd, p.follow_delta, p.paths > 1 && delta.size(1) == 1);
            if (p.z) {
              for (int64_t t = 0; t < steps; ++t) store(gate + t * W, load(gate + t * W) * load(tile.y + t * W));
              scatter<true>(gate, gz, b * gz.stride[0] + blk.d * gz.stride[1], gz.stride[2], gz.stride[1], steps, blk.lanes, place);
            }
          }
          for (int64_t t = 0; t < steps; ++t) {
            int64_t s = place(t);
            float* to_B = dB.data_ptr<float>() + out_row + (p.follow_B ? s : t0 + t) * p.states;
            float* to_C = dC.data_ptr<float>() + out_row + (p.follow_C ? s : t0 + t) * p.states;
            for (int64_t n = 0; n < p.states; ++n) {
              to_B[n] = sum(sum_B[t * p.states + n]);
              to_C[n] = sum(sum_C[t * p.states + n]);
            }
          }
        }
        if (initial)
          for (int64_t j = first; j < stop; ++j)
            store_state(dinitial.data_ptr<float>() + ((b * p.paths + k) * p.dim + blocks[j].d) * p.states, p.states,
                        blocks[j].lanes, &carry[(j - first) * p.states]);
      }
    }
  });

  auto rows_back = [&](Tensor d, const Tensor& shape) {  // (parts, b, K, G, L, N) -> (1|b, 1|K, G, N, 1|L)
    d = d.sum(0).permute({0, 1, 2, 4, 3});
    return d.sum_to_size(shape.sizes());
  };
  auto per_channel = [&](Tensor d, int64_t paths) {
    // (b, ..., columns) -> (..., D)
    d = d.sum(0).unflatten(-1, {p.groups, per_group * W}).narrow(-1, 0, p.dim / p.groups).flatten(-2);
    return paths == 1 ? d.sum(0, true) : d;
  };
  Tensor A_grad = per_channel(dA, A.size(0)).transpose(1, 2).contiguous();
  Tensor D_grad = D ? per_channel(dD, D->size(0)) : at::empty({0}, real);
  Tensor bias_grad = bias ? per_channel(dbias, bias->size(0)) : at::empty({0}, real);
  return {du, ddelta, A_grad, rows_back(dB, B), rows_back(dC, C), D_grad, dz, bias_grad, dinitial};
}

}  // namespace mmvim

TORCH_LIBRARY(mmvim_native, m) {
  m.def(
      "scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, "
      "Tensor? initial, Tensor? maps, int[] map_ids, int[] reverse, int[] follow, bool softplus, bool stack, "
      "ScalarType out_dtype, bool keep) -> (Tensor, Tensor, Tensor)");
  m.def(
      "scan_backward(Tensor grad_out, Tensor? grad_last, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
      "Tensor? D, Tensor? z, Tensor? bias, Tensor? initial, Tensor? maps, int[] map_ids, int[] reverse, int[] follow, "
      "bool softplus, bool stack, Tensor kept) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mmvim_native, CPU, m) {
  m.impl("scan_forward", mmvim::scan_forward);
  m.impl("scan_backward", mmvim::scan_backward);
}
