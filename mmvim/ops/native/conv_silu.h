// The short depthwise convolution along the tokens, then SiLU, for several filters of one input; models run it before the
// scans. With x zero outside 0 .. L - 1, for every channel and filter,
//
//     c[t]   = bias + sum over i of w[i] x[t + i - left]
//     out[t] = silu(c[t])
//
// The lanes are channels. The backward pass computes c again instead of saving it.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tiles.h"

namespace mmvim {

struct Conv {
  int64_t batch, length, dim, filters, taps, blocks;
  std::vector<int64_t> left;        // (filters,): how many earlier tokens each sees
  std::vector<float> weight, bias;  // (filters, taps, blocks * W), (filters, blocks * W): channels padded to whole blocks
  View x;                           // (b, L, D)

  Conv(const Tensor& x_, const Tensor& w, const Opt& b, at::IntArrayRef left_)
      : batch(x_.size(0)), length(x_.size(1)), dim(x_.size(2)), filters(w.size(0)), taps(w.size(2)),
        blocks((dim + W - 1) / W), left(left_.vec()), weight(filters * taps * blocks * W), bias(filters * blocks * W), x(x_) {
    auto wf = w.to(at::kFloat).contiguous();  // (filters, D, taps)
    for (int64_t k = 0; k < filters; ++k)
      for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < taps; ++i)
          weight[(k * taps + i) * blocks * W + d] = wf.const_data_ptr<float>()[(k * dim + d) * taps + i];
    if (!b) return;
    auto bf = b->to(at::kFloat).contiguous();  // (filters, D)
    for (int64_t k = 0; k < filters; ++k) std::copy_n(bf.const_data_ptr<float>() + k * dim, dim, &bias[k * blocks * W]);
  }
  int lanes(int64_t j) const { return static_cast<int>(std::min<int64_t>(W, dim - j * W)); }
  // Block j, (L, lanes), of x and of a tensor (b, filters, L, D).
  Lanes rows(int64_t b, int64_t j) const {
    return {&x, b * x.stride[0] + j * W * x.stride[2], x.stride[1], x.stride[2], lanes(j)};
  }
  Lanes rows(const View& v, int64_t b, int64_t k, int64_t j) const {
    return {&v, b * v.stride[0] + k * v.stride[1] + j * W * v.stride[3], v.stride[2], v.stride[3], lanes(j)};
  }
  // Filter k of block j: (taps, W), rows blocks * W apart, and (W,).
  const float* taps_of(int64_t k, int64_t j) const { return &weight[k * taps * blocks * W + j * W]; }
  vf bias_of(int64_t k, int64_t j) const { return load(&bias[k * blocks * W + j * W]); }
};

// tile (count, W): rows from .. from + count - 1, zeros where these are not among 0 .. L - 1.
inline void load_rows(const Conv& c, float* tile, const Lanes& at, int64_t from, int64_t count) {
  std::vector<int64_t> position(count);
  const int64_t first = std::clamp<int64_t>(-from, 0, count), last = std::clamp<int64_t>(c.length - from, first, count);
  for (int64_t t = first; t < last; ++t) position[t] = from + t;
  std::fill(tile, tile + first * W, 0.f);
  std::fill(tile + last * W, tile + count * W, 0.f);
  gather(tile + first * W, at, position.data() + first, last - first);  // (last - first, W)
}

// Filter k of block j: T taps in registers or, if T is 0, any number of taps in memory.
template <int T>
struct Filter {
  vf taps[T], bias;  // (T, W), (W,)
  Filter(const Conv& c, int64_t k, int64_t j) : bias(c.bias_of(k, j)) {
    for (int i = 0; i < T; ++i) taps[i] = load(c.taps_of(k, j) + i * c.blocks * W);
  }
  static constexpr int64_t count() { return T; }
  vf tap(int64_t i) const { return taps[i]; }
};
template <>
struct Filter<0> {
  const Conv& c;
  const float* taps;
  vf bias;
  Filter(const Conv& c_, int64_t k, int64_t j) : c(c_), taps(c.taps_of(k, j)), bias(c.bias_of(k, j)) {}
  int64_t count() const { return c.taps; }
  vf tap(int64_t i) const { return load(taps + i * c.blocks * W); }
};

// Calls f with the number of taps as a constant if it is one that models have, else with 0.
template <class F>
void with_taps(int64_t taps, F f) {
  if (taps == 4) f(std::integral_constant<int, 4>{});
  else if (taps == 3) f(std::integral_constant<int, 3>{});
  else f(std::integral_constant<int, 0>{});
}

// c[t] (W,); the tile (taps, W) begins with the row that the first tap sees.
template <int T>
vf convolve(const Filter<T>& filter, const float* tile) {
  vf sum = filter.bias;
#pragma GCC unroll 4
  for (int64_t i = 0; i < filter.count(); ++i) sum += filter.tap(i) * load(tile + i * W);  // (W,)
  return sum;
}

constexpr int64_t ROWS = 64;  // outputs of a tile
constexpr int64_t RUN = 8;    // blocks of channels in a task of the backward pass: their rows are neighbours in memory

// Returns silu(conv(x)) (b, filters, L, D) of x (b, L, D), w (filters, D, taps) and b (filters, D). A task takes ROWS tokens
// of all channels.
inline Tensor conv_silu_forward(const Tensor& x, const Tensor& w, const Opt& b, at::IntArrayRef left) {
  const Conv c(x, w, b, left);
  Tensor out = at::empty({c.batch, c.filters, c.length, c.dim}, x.options());
  const View out_view(out);
  const int64_t pieces = (c.length + ROWS - 1) / ROWS;
  at::parallel_for(0, c.batch * pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> in((ROWS + 2 * c.taps) * W);  // (rows + 2 (taps - 1), W)
    alignas(64) float y[ROWS * W];                   // (rows, W)
    int64_t position[ROWS];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / pieces, t0 = task % pieces * ROWS, rows = std::min(ROWS, c.length - t0);
      for (int64_t t = 0; t < rows; ++t) position[t] = t0 + t;
      for (int64_t j = 0; j < c.blocks; ++j) {
        // Every row that any filter can see, whatever its `left`.
        load_rows(c, in.data(), c.rows(n, j), t0 - (c.taps - 1), rows + 2 * (c.taps - 1));
        for (int64_t k = 0; k < c.filters; ++k) {
          // Straight into the output if that holds float32 vectors, else through a tile.
          const Lanes target = c.rows(out_view, n, k, j);
          const bool direct = in_place(target);
          float* to = direct ? reinterpret_cast<float*>(out_view.base) + target.offset + t0 * target.step : y;
          const int64_t step = direct ? target.step : W;
          const float* seen = in.data() + (c.taps - 1 - c.left[k]) * W;  // (rows + taps - 1, W)
          with_taps(c.taps, [&](auto taps) {
            const Filter<taps.value> filter(c, k, j);
            for (int64_t t = 0; t < rows; ++t) {  // (W,) each
              const vf a = convolve(filter, seen + t * W);
              store(to + t * step, a * sigmoid(a));
            }
          });
          if (!direct) scatter<false>(y, target, position, rows);  // (rows, W)
        }
      }
    }
  });
  return out;
}

// Adds filter k's share to a tile's gradients: to_input (rows, W), to_taps (taps, W) with rows blocks * W apart, and
// to_bias (W,). A row's gradient depends on halo = taps - 1 rows of dc on either side, and these on halo more of the input:
// in (rows + 4 halo, W) is the input, before (rows + 2 halo, W) the gradient of out, overwritten by that of c.
template <int T>
void backward_rows(const Conv& c, int64_t k, int64_t j, const float* in, float* before, float* to_input, int64_t rows,
                   float* to_taps, float* to_bias) {
  const Filter<T> filter(c, k, j);
  const int64_t count = filter.count(), halo = count - 1, left = c.left[k], wide = rows + 2 * halo, across = c.blocks * W;
  // dc[t] = dout[t] silu'(c[t])
  for (int64_t t = 0; t < wide; ++t) {  // (W,) each
    const vf a = convolve(filter, in + (t + halo - left) * W), s = sigmoid(a);
    store(before + t * W, load(before + t * W) * s * (1.f + a * (1.f - s)));
  }
  // dx[s] += sum over i of w[i] dc[s + left - i];  dw[i] += sum over t of dc[t] x[t + i - left];  dbias += sum over t of dc[t]
  vf total{};
  std::conditional_t<T == 0, std::vector<vf>, std::array<vf, T>> product{};  // (taps, W)
  if constexpr (T == 0) product.resize(count);
  for (int64_t t = 0; t < rows; ++t) {
    const vf grad = load(before + (t + halo) * W);  // (W,)
    const float *reached = before + (t + halo + left) * W, *seen = in + (t + 2 * halo - left) * W;
    vf sum = load(to_input + t * W);  // (W,)
    total += grad;
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) {
      sum += filter.tap(i) * load(reached - i * W);  // (W,)
      product[i] += grad * load(seen + i * W);       // (W,)
    }
    store(to_input + t * W, sum);
  }
  store(to_bias, load(to_bias) + total);  // (W,)
  for (int64_t i = 0; i < count; ++i) store(to_taps + i * across, load(to_taps + i * across) + product[i]);
}

// Returns the gradients of x (b, L, D) in its dtype, and of the weights (filters, D, taps) and the bias (filters, D) in
// float32, that of the bias empty if there is none. A task takes up to RUN blocks of channels and all tokens, ROWS at a time.
inline std::tuple<Tensor, Tensor, Tensor> conv_silu_backward(const Tensor& grad, const Tensor& x, const Tensor& w, const Opt& b,
                                                             at::IntArrayRef left) {
  const Conv c(x, w, b, left);
  Tensor grad_x = at::empty({c.batch, c.length, c.dim}, x.options());
  const auto real = x.options().dtype(at::kFloat);
  Tensor grad_w = at::zeros({c.batch, c.filters, c.taps, c.blocks * W}, real);
  Tensor grad_b = at::zeros({c.batch, c.filters, c.blocks * W}, real);
  const View to_x(grad_x), from(grad);
  const int64_t runs = (c.blocks + RUN - 1) / RUN, halo = c.taps - 1;
  at::parallel_for(0, c.batch * runs, 1, [&](int64_t begin, int64_t end) {
    // Rows t0 - halo .. t0 + rows + halo - 1 of the gradient, the rows of the input that these see, and the gradient of x.
    std::vector<float> in((ROWS + 4 * halo) * W), before((ROWS + 2 * halo) * W), sum(ROWS * W);
    std::vector<int64_t> position(ROWS);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / runs, first = task % runs * RUN, stop = std::min(first + RUN, c.blocks);
      for (int64_t t0 = 0; t0 < c.length; t0 += ROWS) {
        const int64_t rows = std::min(ROWS, c.length - t0), wide = rows + 2 * halo;
        for (int64_t t = 0; t < rows; ++t) position[t] = t0 + t;
        for (int64_t j = first; j < stop; ++j) {
          load_rows(c, in.data(), c.rows(n, j), t0 - 2 * halo, wide + 2 * halo);  // (rows + 4 halo, W)
          std::fill(sum.begin(), sum.end(), 0.f);
          for (int64_t k = 0; k < c.filters; ++k) {
            load_rows(c, before.data(), c.rows(from, n, k, j), t0 - halo, wide);  // (rows + 2 halo, W)
            float* gw = grad_w.data_ptr<float>() + (n * c.filters + k) * c.taps * c.blocks * W + j * W;
            float* gb = grad_b.data_ptr<float>() + (n * c.filters + k) * c.blocks * W + j * W;
            with_taps(c.taps, [&](auto taps) {
              backward_rows<taps.value>(c, k, j, in.data(), before.data(), sum.data(), rows, gw, gb);
            });
          }
          const Lanes target{&to_x, n * to_x.stride[0] + j * W, to_x.stride[1], 1, c.lanes(j)};
          scatter<false>(sum.data(), target, position.data(), rows);  // (rows, W)
        }
      }
    }
  });
  // Sum over the batch and drop the padding: (b, filters, taps, blocks * W) -> (filters, D, taps)
  Tensor weights = grad_w.sum(0).narrow(-1, 0, c.dim).transpose(1, 2).contiguous();
  return {grad_x, weights, b ? grad_b.sum(0).narrow(-1, 0, c.dim).contiguous() : at::empty({0}, real)};
}

}  // namespace mmvim
