// Reads tensors into tiles (steps, W), and writes tiles back, whatever the strides and the dtype of the tensor. A tile is
// float32, one row of W lanes for each step.
#pragma once
#include <ATen/ATen.h>

#include <array>
#include <numeric>
#include <optional>
#include <vector>

#include "vec.h"

namespace mmvim {

using at::Tensor;
using Opt = std::optional<Tensor>;

constexpr int64_t CHUNK = 32;  // steps of a tile, and between two saved boundaries

// A tensor of any dtype and any strides.
struct View {
  char* base = nullptr;
  at::ScalarType dtype = at::kFloat;
  int64_t item = 0;
  std::vector<int64_t> stride;  // 0 where the size is 1

  View() = default;
  explicit View(const Tensor& t)
      : base(static_cast<char*>(t.data_ptr())), dtype(t.scalar_type()), item(t.element_size()) {
    for (int64_t i = 0; i < t.dim(); ++i) stride.push_back(t.size(i) == 1 ? 0 : t.stride(i));
  }
  explicit View(const Opt& t) {
    if (t) *this = View(*t);
  }
  explicit operator bool() const { return base != nullptr; }
};

// Calls f with a value of the C++ type that a dtype stands for.
template <class F>
void with_type(at::ScalarType dtype, F f) {
  switch (dtype) {
    case at::kFloat: return f(float{});
    case at::kBFloat16: return f(c10::BFloat16{});
    case at::kHalf: return f(c10::Half{});
    default: TORCH_CHECK_VALUE(false, "mmvim's C++ library takes float32, bfloat16 and float16, got ", dtype);
  }
}

// W neighbouring numbers of any dtype, (W,).
static inline vf load_as(const float* p) { return load(p); }
static inline vf load_as(const c10::BFloat16* p) { return load_bfloat16(p); }
static inline void store_as(float* p, vf x) { store(p, x); }
static inline void store_as(c10::BFloat16* p, vf x) { store_bfloat16(p, x); }
template <class T>
vf load_as(const T* p) {
  alignas(64) float x[W];
  for (int i = 0; i < W; ++i) x[i] = static_cast<float>(p[i]);
  return load(x);
}
template <class T>
void store_as(T* p, vf v) {
  alignas(64) float x[W];
  store(x, v);
  for (int i = 0; i < W; ++i) p[i] = static_cast<T>(x[i]);
}

// A matrix (positions, lanes) in a tensor: its element (position, lane) is base[offset + position * step + lane * lane_step].
struct Lanes {
  const View* view;
  int64_t offset, step, lane_step;
  int lanes;  // W or fewer; the other lanes of a tile are zero
};

// tile (steps, W): row t is the tensor's row at position[t].
inline void gather(float* tile, const Lanes& at, const int64_t* position, int64_t steps) {
  with_type(at.view->dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* p = reinterpret_cast<const T*>(at.view->base) + at.offset;
    if (at.lane_step == 1 && at.lanes == W) {  // channels contiguous: whole vectors
      const int64_t step = at.step;
      for (int64_t t = 0; t < steps; ++t) store(tile + t * W, load_as(p + position[t] * step));  // (W,)
      return;
    }
    if (at.lane_step == 0 && at.lanes == W) {  // one value for all channels, as in the gradient of a sum
      for (int64_t t = 0; t < steps; ++t) store(tile + t * W, splat(static_cast<float>(p[position[t] * at.step])));  // (W,)
      return;
    }
    if (at.lanes < W) std::memset(tile, 0, steps * W * sizeof(float));
    for (int i = 0; i < at.lanes; ++i)  // a column (steps,) at a time: tokens are the likelier neighbours here
      for (int64_t t = 0; t < steps; ++t) tile[t * W + i] = static_cast<float>(p[position[t] * at.step + i * at.lane_step]);
  });
}

// Rows (steps, W) in step order, wherever they are: in a float32 tensor whose lanes are neighbours, or else in a tile.
struct Rows {
  float* base;
  int64_t step;
  const int64_t* position;

  float* at(int64_t t) const { return base + position[t] * step; }  // (W,)
};

// 0, 1, .. CHUNK - 1: the positions of a tile's rows.
inline const int64_t* counting() {
  static const auto numbers = [] {
    std::array<int64_t, CHUNK> n;
    std::iota(n.begin(), n.end(), 0);
    return n;
  }();
  return numbers.data();
}
inline Rows rows_of_tile(float* tile) { return {tile, W, counting()}; }
inline bool in_place(const Lanes& at) { return at.view->dtype == at::kFloat && at.lane_step == 1 && at.lanes == W; }
inline Rows rows_in_place(const Lanes& at, const int64_t* position) {
  return {reinterpret_cast<float*>(at.view->base) + at.offset, at.step, position};
}
// Rows (steps, W) for reading: those of the tensor where possible, else copied to `tile` (steps, W).
inline Rows read_rows(float* tile, const Lanes& at, const int64_t* position, int64_t steps) {
  if (in_place(at)) return rows_in_place(at, position);
  gather(tile, at, position, steps);
  return rows_of_tile(tile);
}

// Writes row t of tile (steps, W) to the tensor's row at position[t], or adds it if Add.
template <bool Add>
void scatter(const float* tile, const Lanes& at, const int64_t* position, int64_t steps) {
  with_type(at.view->dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = reinterpret_cast<T*>(at.view->base) + at.offset;
    auto put = [](T* to, float x) { *to = static_cast<T>(Add ? x + static_cast<float>(*to) : x); };
    if (at.lane_step == 1 && at.lanes == W) {
      const int64_t step = at.step;
      for (int64_t t = 0; t < steps; ++t) {
        T* row = p + position[t] * step;  // (W,)
        store_as(row, Add ? load_as(row) + load(tile + t * W) : load(tile + t * W));
      }
      return;
    }
    for (int i = 0; i < at.lanes; ++i)  // a column (steps,) at a time
      for (int64_t t = 0; t < steps; ++t) put(p + position[t] * at.step + i * at.lane_step, tile[t * W + i]);
  });
}

// Rows that are needed next, fetched into the cache one by one while other rows are worked on. The processor cannot foresee
// them: paths along columns jump from page to page, and blocks of channels from row to row.
struct Prefetch {
  const char* base[5] = {};
  int64_t step[5];  // bytes
  const int64_t* position[5];
  int count = 0;

  void add(const Lanes& at, const int64_t* positions) {
    if (at.lane_step != 1) return;
    base[count] = at.view->base + at.offset * at.view->item;
    step[count] = at.step * at.view->item;
    position[count++] = positions;
  }
  void fetch(int64_t t) const {  // row t of each
    for (int i = 0; i < count; ++i) prefetch(base[i] + position[i][t] * step[i]);
  }
};

}  // namespace mmvim
