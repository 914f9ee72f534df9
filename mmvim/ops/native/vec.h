// Vectors of floats and the few functions that the ops need. They are GCC's and Clang's vector extensions, so one source
// compiles to AVX-512, AVX2, NEON or SSE, whichever the compiler targets. Where AVX-512 has an instruction that the compiler
// does not find, it is used here and in no other file.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define MMVIM_AVX512 1
#endif

namespace mmvim {

#if defined(MMVIM_AVX512)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

// One number in each of the W lanes: float, int32, uint32, uint16. W is the number of lanes of the target's registers.
typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

constexpr float LOG2E = 1.44269504088896341f, LOG2E_REST = 1.92596299e-8f;  // REST: what LOG2E lacks

// (W,) neighbouring floats; no alignment is needed.
static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof(v)); }
// Writes past the caches, where the processor can and p is aligned: what nobody reads soon need not be fetched to be written.
static inline void store_past(float* p, vf v) {
#if defined(MMVIM_AVX512)
  if ((reinterpret_cast<uintptr_t>(p) & 63) == 0) return _mm512_stream_ps(p, (__m512)v);
#endif
  store(p, v);
}
// Makes what store_past has written seen by other threads before anything that is written later.
static inline void finish_stores() {
#if defined(MMVIM_AVX512)
  _mm_sfence();
#endif
}
// (W,) neighbouring bfloat16, the upper halves of floats. Rounds to the nearest, and to the even one of two equally near.
static inline vf load_bfloat16(const void* p) {
  vh half;
  std::memcpy(&half, p, sizeof(half));
  return (vf)(__builtin_convertvector(half, vu) << 16);
}
static inline void store_bfloat16(void* p, vf v) {
  const vu bits = (vu)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vh half = __builtin_convertvector(v == v ? rounded : vu{} + 0x7fc0, vh);
  std::memcpy(p, &half, sizeof(half));
}
static inline vf splat(float x) { return x - vf{}; }
static inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// 2^r for |r| <= 1/2.
static inline vf exp2_fraction(vf r) {
  vf z = r * r;
  vf c01 = r * 6.93147214968e-1f + 1.f, c23 = r * 5.55031055121e-2f + 2.40226527829e-1f;
  vf c45 = r * 1.34066438475e-3f + 9.61769297614e-3f;
  return (c01 + c23 * z) + (c45 + 1.55946770151e-4f * z) * (z * z);
}

// 2^x with an error of about one unit in the last place, exact for integers. Infinity and NaN come out as they should.
#if defined(MMVIM_AVX512)
// 2^r for 0 <= r < 1.
static inline vf exp2_above(vf r) {
  vf p = r * 2.16129159441e-4f + 1.24678461739e-3f;
  p = p * r + 9.67545159359e-3f;
  p = p * r + 5.54852806079e-2f;
  p = p * r + 2.40229305554e-1f;
  p = p * r + 6.93147044443e-1f;
  return p * r + 1.f;
}
static inline vf exp2(vf x) {
  // x = floor(x) + r. VREDUCEPS gives r, or 0 for infinite x; VSCALEFPS takes the floor of its second operand itself.
  return (vf)_mm512_scalef_ps((__m512)exp2_above((vf)_mm512_reduce_ps((__m512)x, 1)), (__m512)x);
}
#else
static inline vf exp2(vf x) {
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  vf top = splat(129.f), bottom = splat(-127.f);  // beyond them: infinity, and zero in place of subnormal numbers
  vf c = x > top ? top : x;
  c = c < bottom ? bottom : c;
  vf shifted = c + magic, r = c - (shifted - magic);
  vf p = exp2_fraction(r);
  // 2^(k-1), doubled afterwards, so that the largest results do not overflow too early.
  vi bits = (vi)shifted - (vi)magic + 126;
  bits = bits < 0 ? vi{} : bits;
  bits = bits > 254 ? vi{} + 254 : bits;
  return p * (vf)(bits << 23) * 2.f;
}
// p * 2^k for integers |k| <= 250, in two steps so that neither factor leaves the range of normal numbers.
static inline vf scale(vf p, vf k) {
  const vi whole = __builtin_convertvector(k, vi), half = whole >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}
#endif

// e^x with an error of about one unit in the last place. log2(e), or log(2), is split in two to keep the remainder exact.
static inline vf exp(vf x) {
#if defined(MMVIM_AVX512)
  const __m512 top = _mm512_set1_ps(89.f), bottom = _mm512_set1_ps(-104.f);
  const vf c = (vf)_mm512_max_ps(bottom, _mm512_min_ps(top, (__m512)x));  // as the second operand, NaN stays
  // x log2(e) as the sum of two numbers.
  const vf k = c * LOG2E, rest = (vf)_mm512_fmsub_ps((__m512)c, _mm512_set1_ps(LOG2E), (__m512)k) + c * LOG2E_REST;
  return (vf)_mm512_scalef_ps((__m512)exp2_above((vf)_mm512_reduce_ps((__m512)k, 1) + rest), (__m512)k);
#else
  const vf magic = splat(12582912.f);
  vf top = splat(89.f), bottom = splat(-104.f);
  vf c = x > top ? top : x;
  c = c < bottom ? bottom : c;
  vf k = (c * LOG2E + magic) - magic;
  vf r = c - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  return scale(exp2_fraction(r * LOG2E), k);
#endif
}

// x * 2^e for whole numbers e. Where |e| is so large that the result is none that floats have, it is zero or infinite.
static inline vf times_exp2(vf x, vf e) {
#if defined(MMVIM_AVX512)
  return (vf)_mm512_scalef_ps((__m512)x, (__m512)e);
#else
  const vf top = splat(250.f);
  e = e < top ? e : top;
  return scale(x, e > -top ? e : -top);
#endif
}

// e^x for any finite x as m * 2^whole, m about 1: it does not overflow, and loses no digit where |x| is large. Without Any,
// |x| is at most 4096.
template <bool Any>
static inline vf exp_parts(vf x, vf& whole) {
#if defined(MMVIM_AVX512)
  const vf k = x * LOG2E, rest = (vf)_mm512_fmsub_ps((__m512)x, _mm512_set1_ps(LOG2E), (__m512)k) + x * LOG2E_REST;
  const vf floor = (vf)_mm512_roundscale_ps((__m512)k, 9), above = (k - floor) + rest;  // rest is large where x is
  if (!Any) {
    whole = floor;
    return exp2_above(above);
  }
  const vf more = (vf)_mm512_roundscale_ps((__m512)above, 9), r = above - more;
  whole = floor + more;
  return exp2_above(r);
#else
  const vf magic = splat(12582912.f), limit = splat(4194304.f);  // 1.5 * 2^23, 2^22
  auto round = [&](vf y) { return y < limit ? (y > -limit ? (y + magic) - magic : y) : y; };
  // x log2(e) in parts, the first of which is exact: the upper digits of x times those of log2(e).
  const vf upper = (vf)((vi)x & ~0x1fff), lower = x - upper;
  const vf k = round(x * LOG2E), rest = ((upper * 1.4423828125f - k) + upper * 3.12228388963e-4f) + lower * LOG2E;
  const vf more = round(rest);
  whole = k + more;
  return exp2_fraction(rest - more);
#endif
}

// The exponents of the largest powers of two in |x|; -127 for zero.
static inline vf exponent_of(vf x) { return __builtin_convertvector((((vi)x >> 23) & 255) - 127, vf); }

static inline vf max(vf x, vf y) { return x > y ? x : y; }
static inline vf min(vf x, vf y) { return x < y ? x : y; }
static inline vf abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

// Whether x is at most `limit` in all lanes; NaN is not.
static inline bool all_within(vf x, float limit) {
#if defined(MMVIM_AVX512)
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(limit), _CMP_LE_OQ) == 0xffff;
#else
  const vi within = x <= limit;
  int all = -1;
  for (int i = 0; i < W; ++i) all &= within[i];
  return all != 0;
#endif
}

// log(1 + x) for 0 <= x <= 1, with an error of about one unit in the last place, for small x too.
static inline vf log1p_unit(vf x) {
  vf p = x * -3.17605809e-3f + 1.95425251e-2f;
  p = p * x - 5.63736117e-2f;
  p = p * x + 1.05436233e-1f;
  p = p * x - 1.52696674e-1f;
  p = p * x + 1.96632740e-1f;
  p = p * x - 2.49516163e-1f;
  p = p * x + 3.33297100e-1f;
  p = p * x - 4.99998930e-1f;
  p = p * x + 9.99999995e-1f;
  return p * x;
}

// 1 / x for x that is neither huge nor tiny, with an error of about one unit in the last place.
static inline vf reciprocal(vf x) {
#if defined(MMVIM_AVX512)
  const vf y = (vf)_mm512_rcp14_ps((__m512)x);
  return y + y * (1.f - x * y);
#else
  return 1.f / x;
#endif
}

static inline vf sigmoid(vf x) {
  const vf e = exp(x < 0.f ? x : -x), r = reciprocal(1.f + e);
  return x < 0.f ? e * r : r;
}

// log(1 + exp(x)). PyTorch returns x itself above 20, which is the same: the difference is below half a unit there. With
// Slope also computes the derivative, sigmoid(x).
template <bool Slope>
static inline vf softplus(vf x, vf& slope) {
  const vf e = exp(x < 0.f ? x : -x);
  if (Slope) {
    const vf r = reciprocal(1.f + e);
    slope = x < 0.f ? e * r : r;
  }
  return (x > 0.f ? x : vf{}) + log1p_unit(e);
}

// Sums each of the vectors v (W, W) over its lanes: lane i of v[0] becomes the sum of v[i]. The others may be overwritten.
static inline void sum_lanes(vf* v) {
#if defined(__GNUC__) && !defined(__clang__)
  vi lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  for (int s = W / 2; s > 0; s /= 2) {
    vi bit = (lane & s) != 0 ? vi{} + W : vi{};  // these lanes take from the second of the two vectors
    for (int i = 0; i < s; ++i)
      v[i] = __builtin_shuffle(v[i], v[i + s], lane + bit) + __builtin_shuffle(v[i], v[i + s], (lane ^ s) + bit);
  }
#else
  vf total{};
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) total[i] += v[i][j];
  v[0] = total;
#endif
}

}  // namespace mmvim
