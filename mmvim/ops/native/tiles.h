// Reading tensors into tiles of steps x lanes, and writing tiles back, through strides and whatever the dtype.
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

constexpr int64_t CHUNK = 32;  // steps of a tile, and between two states that are kept

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

template <class F>
void with_type(at::ScalarType dtype, F f) {
  switch (dtype) {
    case at::kFloat: return f(float{});
    case at::kBFloat16: return f(c10::BFloat16{});
    case at::kHalf: return f(c10::Half{});
    default: TORCH_CHECK_VALUE(false, "the native scan takes float32, bfloat16 and float16, got ", dtype);
  }
}

// W numbers of any dtype.
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

// A row of lanes in a tensor for each position: element (position, lane) is base[offset + position * step + lane * lane_step].
struct Lanes {
  const View* view;
  int64_t offset, step, lane_step;
  int lanes;  // of W; the rest of the tile is zero
};

// tile[t] = the row at position place[t].
inline void gather(float* tile, const Lanes& at, const int64_t* place, int64_t steps) {
  with_type(at.view->dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* p = reinterpret_cast<const T*>(at.view->base) + at.offset;
    if (at.lane_step == 1 && at.lanes == W) {
      const int64_t step = at.step;
      for (int64_t t = 0; t < steps; ++t) store(tile + t * W, load_as(p + place[t] * step));
      return;
    }
    if (at.lane_step == 0 && at.lanes == W) {  // one value for all, as the gradient of a sum is
      for (int64_t t = 0; t < steps; ++t) store(tile + t * W, splat(static_cast<float>(p[place[t] * at.step])));
      return;
    }
    if (at.lanes < W) std::memset(tile, 0, steps * W * sizeof(float));
    for (int i = 0; i < at.lanes; ++i)
      for (int64_t t = 0; t < steps; ++t) tile[t * W + i] = static_cast<float>(p[place[t] * at.step + i * at.lane_step]);
  });
}

// Vectors in step order: where they are, in a float32 tensor with whole vectors, else in a tile.
struct Rows {
  float* base;
  int64_t step;
  const int64_t* place;

  float* at(int64_t t) const { return base + place[t] * step; }
};

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
inline Rows rows_in_place(const Lanes& at, const int64_t* place) {
  return {reinterpret_cast<float*>(at.view->base) + at.offset, at.step, place};
}
// To be read; `tile` is filled if the tensor cannot be read where it is.
inline Rows read_rows(float* tile, const Lanes& at, const int64_t* place, int64_t steps) {
  if (in_place(at)) return rows_in_place(at, place);
  gather(tile, at, place, steps);
  return rows_of_tile(tile);
}

// The row at position place[t] = tile[t], or += if Add.
template <bool Add>
void scatter(const float* tile, const Lanes& at, const int64_t* place, int64_t steps) {
  with_type(at.view->dtype, [&](auto zero) {
    using T = decltype(zero);
    T* p = reinterpret_cast<T*>(at.view->base) + at.offset;
    auto put = [](T* to, float x) { *to = static_cast<T>(Add ? x + static_cast<float>(*to) : x); };
    if (at.lane_step == 1 && at.lanes == W) {
      const int64_t step = at.step;
      for (int64_t t = 0; t < steps; ++t) {
        T* row = p + place[t] * step;
        store_as(row, Add ? load_as(row) + load(tile + t * W) : load(tile + t * W));
      }
      return;
    }
    for (int i = 0; i < at.lanes; ++i)
      for (int64_t t = 0; t < steps; ++t) put(p + place[t] * at.step + i * at.lane_step, tile[t * W + i]);
  });
}

// Rows that will be read soon, asked for one by one while others are worked on: paths along columns jump from page to
// page, and blocks of channels from row to row, which no hardware foresees.
struct Soon {
  const char* base[5] = {};  // null: nothing to ask for
  int64_t step[5];
  const int64_t* place[5];
  int count = 0;

  void add(const Lanes& at, const int64_t* place_of) {
    if (at.lane_step != 1) return;
    base[count] = at.view->base + at.offset * at.view->item;
    step[count] = at.step * at.view->item;
    place[count++] = place_of;
  }
  void ask(int64_t t) const {
    for (int i = 0; i < count; ++i) prefetch(base[i] + place[i][t] * step[i]);
  }
};

}  // namespace mmvim
