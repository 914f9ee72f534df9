// The short depthwise convolution along the tokens and SiLU, for several filters of one input: what stands before the
// scans. Channels are the lanes; the backward pass computes the convolution again instead of keeping it.
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
  std::vector<int64_t> left;
  std::vector<float> weight, bias;  // [filter][tap][padded channel], [filter][padded channel]
  View x;

  Conv(const Tensor& x_, const Tensor& w, const Opt& b, at::IntArrayRef left_)
      : batch(x_.size(0)), length(x_.size(1)), dim(x_.size(2)), filters(w.size(0)), taps(w.size(2)),
        blocks((dim + W - 1) / W), left(left_.vec()), weight(filters * taps * blocks * W), bias(filters * blocks * W), x(x_) {
    auto wf = w.to(at::kFloat).contiguous();
    for (int64_t k = 0; k < filters; ++k)
      for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < taps; ++i)
          weight[(k * taps + i) * blocks * W + d] = wf.const_data_ptr<float>()[(k * dim + d) * taps + i];
    if (!b) return;
    auto bf = b->to(at::kFloat).contiguous();
    for (int64_t k = 0; k < filters; ++k) std::copy_n(bf.const_data_ptr<float>() + k * dim, dim, &bias[k * blocks * W]);
  }
  int lanes(int64_t j) const { return static_cast<int>(std::min<int64_t>(W, dim - j * W)); }
  // Rows of block j of x, and of a tensor (b, filters, L, D).
  Lanes rows(int64_t b, int64_t j) const { return {&x, b * x.stride[0] + j * W * x.stride[2], x.stride[1], x.stride[2], lanes(j)}; }
  Lanes rows(const View& v, int64_t b, int64_t k, int64_t j) const {
    return {&v, b * v.stride[0] + k * v.stride[1] + j * W * v.stride[3], v.stride[2], v.stride[3], lanes(j)};
  }
  const float* taps_of(int64_t k, int64_t j) const { return &weight[k * taps * blocks * W + j * W]; }
  vf bias_of(int64_t k, int64_t j) const { return load(&bias[k * blocks * W + j * W]); }
};

// Rows from .. from + count - 1 of the input, zero beyond its ends.
inline void load_rows(const Conv& c, float* tile, const Lanes& at, int64_t from, int64_t count) {
  std::vector<int64_t> place(count);
  const int64_t first = std::clamp<int64_t>(-from, 0, count), last = std::clamp<int64_t>(c.length - from, first, count);
  for (int64_t t = first; t < last; ++t) place[t] = from + t;
  std::fill(tile, tile + first * W, 0.f);
  std::fill(tile + last * W, tile + count * W, 0.f);
  gather(tile + first * W, at, place.data() + first, last - first);
}

// Filter k on the channels of block j: T taps in registers, or, with T 0, any number of them in memory.
template <int T>
struct Filter {
  vf taps[T], bias;
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

// Calls f with the number of taps as a constant if models have that many, else with 0.
template <class F>
void with_taps(int64_t taps, F f) {
  if (taps == 4) f(std::integral_constant<int, 4>{});
  else if (taps == 3) f(std::integral_constant<int, 3>{});
  else f(std::integral_constant<int, 0>{});
}

// Before SiLU, from a tile whose first row is the one that the first tap sees.
template <int T>
vf convolve(const Filter<T>& filter, const float* tile) {
  vf sum = filter.bias;
#pragma GCC unroll 4
  for (int64_t i = 0; i < filter.count(); ++i) sum += filter.tap(i) * load(tile + i * W);
  return sum;
}

constexpr int64_t ROWS = 64;  // outputs of a tile
constexpr int64_t RUN = 8;    // blocks of channels that share a task: their rows lie side by side

// silu(conv(x)) (b, filters, L, D) of x (b, L, D).
inline Tensor conv_silu_forward(const Tensor& x, const Tensor& w, const Opt& b, at::IntArrayRef left) {
  const Conv c(x, w, b, left);
  Tensor out = at::empty({c.batch, c.filters, c.length, c.dim}, x.options());
  const View out_view(out);
  const int64_t pieces = (c.length + ROWS - 1) / ROWS;
  at::parallel_for(0, c.batch * pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> in((ROWS + 2 * c.taps) * W);
    alignas(64) float y[ROWS * W];
    int64_t place[ROWS];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / pieces, t0 = task % pieces * ROWS, rows = std::min(ROWS, c.length - t0);
      for (int64_t t = 0; t < rows; ++t) place[t] = t0 + t;
      for (int64_t j = 0; j < c.blocks; ++j) {
        // From the first row that any filter sees to the last.
        load_rows(c, in.data(), c.rows(n, j), t0 - (c.taps - 1), rows + 2 * (c.taps - 1));
        for (int64_t k = 0; k < c.filters; ++k) {
          const Lanes target = c.rows(out_view, n, k, j);
          const bool direct = in_place(target);
          float* to = direct ? reinterpret_cast<float*>(out_view.base) + target.offset + t0 * target.step : y;
          const int64_t step = direct ? target.step : W;
          const float* seen = in.data() + (c.taps - 1 - c.left[k]) * W;
          with_taps(c.taps, [&](auto taps) {
            const Filter<taps.value> filter(c, k, j);
            for (int64_t t = 0; t < rows; ++t) {
              const vf a = convolve(filter, seen + t * W);
              store(to + t * step, a * sigmoid(a));
            }
          });
          if (!direct) scatter<false>(y, target, place, rows);
        }
      }
    }
  });
  return out;
}

// Filter k's part of a tile's gradients. `in` has the input from 2 * halo rows before the tile's first one on, `before` the
// gradient of the output from halo rows before it on, which becomes that before SiLU; adds to the gradients of the input,
// of the taps and of the bias.
template <int T>
void backward_rows(const Conv& c, int64_t k, int64_t j, const float* in, float* before, float* to_input, int64_t rows,
                   float* to_taps, float* to_bias) {
  const Filter<T> filter(c, k, j);
  const int64_t count = filter.count(), halo = count - 1, left = c.left[k], wide = rows + 2 * halo, across = c.blocks * W;
  for (int64_t t = 0; t < wide; ++t) {
    const vf a = convolve(filter, in + (t + halo - left) * W), s = sigmoid(a);
    store(before + t * W, load(before + t * W) * s * (1.f + a * (1.f - s)));
  }
  vf total{};
  std::conditional_t<T == 0, std::vector<vf>, std::array<vf, T>> product{};
  if constexpr (T == 0) product.resize(count);
  for (int64_t t = 0; t < rows; ++t) {
    const vf grad = load(before + (t + halo) * W);
    const float *reached = before + (t + halo + left) * W, *seen = in + (t + 2 * halo - left) * W;
    vf sum = load(to_input + t * W);
    total += grad;
    // Row s reached output s + left - tap through that tap.
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) {
      sum += filter.tap(i) * load(reached - i * W);
      product[i] += grad * load(seen + i * W);
    }
    store(to_input + t * W, sum);
  }
  store(to_bias, load(to_bias) + total);
  for (int64_t i = 0; i < count; ++i) store(to_taps + i * across, load(to_taps + i * across) + product[i]);
}

// Gradients of x (its dtype), of the weights and of the bias (float32; no element if there is no bias).
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
    // Rows t0 - halo .. t0 + rows + halo of the gradient before SiLU, and the input that these see.
    std::vector<float> in((ROWS + 4 * halo) * W), before((ROWS + 2 * halo) * W), sum(ROWS * W);
    std::vector<int64_t> place(ROWS);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / runs, first = task % runs * RUN, stop = std::min(first + RUN, c.blocks);
      for (int64_t t0 = 0; t0 < c.length; t0 += ROWS) {
        const int64_t rows = std::min(ROWS, c.length - t0), wide = rows + 2 * halo;
        for (int64_t t = 0; t < rows; ++t) place[t] = t0 + t;
        for (int64_t j = first; j < stop; ++j) {
          load_rows(c, in.data(), c.rows(n, j), t0 - 2 * halo, wide + 2 * halo);
          std::fill(sum.begin(), sum.end(), 0.f);
          for (int64_t k = 0; k < c.filters; ++k) {
            load_rows(c, before.data(), c.rows(from, n, k, j), t0 - halo, wide);
            float* gw = grad_w.data_ptr<float>() + (n * c.filters + k) * c.taps * c.blocks * W + j * W;
            float* gb = grad_b.data_ptr<float>() + (n * c.filters + k) * c.blocks * W + j * W;
            with_taps(c.taps, [&](auto taps) {
              backward_rows<taps.value>(c, k, j, in.data(), before.data(), sum.data(), rows, gw, gb);
            });
          }
          scatter<false>(sum.data(), {&to_x, n * to_x.stride[0] + j * W, to_x.stride[1], 1, c.lanes(j)}, place.data(), rows);
        }
      }
    }
  });
  Tensor weights = grad_w.sum(0).narrow(-1, 0, c.dim).transpose(1, 2).contiguous();
  return {grad_x, weights, b ? grad_b.sum(0).narrow(-1, 0, c.dim).contiguous() : at::empty({0}, real)};
}

}  // namespace mmvim
