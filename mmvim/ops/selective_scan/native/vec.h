// Vectors of floats and the few functions the scan needs of them. GCC and Clang vector extensions: the same source
// becomes AVX-512, AVX2, NEON or SSE code by the compiler's target. The two places where an instruction does better than
// the compiler are here and nowhere else.
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

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));

constexpr float LOG2E = 1.44269504088896341f;

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof(v)); }
static inline vf splat(float x) { return x - vf{}; }
static inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// 2^r for |r| <= 1/2.
static inline vf exp2_fraction(vf r) {
  vf z = r * r;
  vf c01 = r * 6.93147214968e-1f + 1.f, c23 = r * 5.55031055121e-2f + 2.40226527829e-1f;
  vf c45 = r * 1.34066438475e-3f + 9.61769297614e-3f;
  return (c01 + c23 * z) + (c45 + 1.55946770151e-4f * z) * (z * z);
}

// 2^x with an error of about one unit in the last place; exact where x is an integer. Infinity and NaN as they must be.
#if defined(MMVIM_AVX512)
static inline vf exp2(vf x) {
  // x = floor(x) + r; VREDUCEPS gives 0 for infinite x, and VSCALEFPS takes the floor of its exponent itself.
  vf r = (vf)_mm512_reduce_ps((__m512)x, 1);
  vf p = r * 2.16129159441e-4f + 1.24678461739e-3f;
  p = p * r + 9.67545159359e-3f;
  p = p * r + 5.54852806079e-2f;
  p = p * r + 2.40229305554e-1f;
  p = p * r + 6.93147044443e-1f;
  p = p * r + 1.f;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
}
// p * 2^k, k whole.
static inline vf scale(vf p, vf k) { return (vf)_mm512_scalef_ps((__m512)p, (__m512)k); }
#else
static inline vf exp2(vf x) {
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  vf top = splat(129.f), bottom = splat(-127.f);  // beyond: infinity, and zero instead of a subnormal number
  vf c = x > top ? top : x;
  c = c < bottom ? bottom : c;
  vf shifted = c + magic, r = c - (shifted - magic);
  vf p = exp2_fraction(r);
  // 2^(k-1), doubled afterwards, so that the largest exponents do not overflow early.
  vi bits = (vi)shifted - (vi)magic + 126;
  bits = bits < 0 ? vi{} : bits;
  bits = bits > 254 ? vi{} + 254 : bits;
  return p * (vf)(bits << 23) * 2.f;
}
static inline vf scale(vf p, vf k) { return p * exp2(k - 1.f) * 2.f; }
#endif

// e^x with an error of about one unit in the last place: the remainder is taken off in two parts.
static inline vf exp(vf x) {
#if defined(MMVIM_AVX512)
  const __m512 top = _mm512_set1_ps(89.f), bottom = _mm512_set1_ps(-104.f);
  const __m512 c = _mm512_max_ps(bottom, _mm512_min_ps(top, (__m512)x));  // NaN is the second operand, and stays
  const __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(c, _mm512_set1_ps(LOG2E)), 0);
  __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), c);
  r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.12194440e-4f), r);
  return scale(exp2_fraction((vf)r * LOG2E), (vf)k);
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

// Natural logarithm of a positive, normal, finite number.
static inline vf log(vf x) {
  vi bits = (vi)x;
  vi e = ((bits >> 23) & 255) - 126;
  vf m = (vf)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  vi low = m < 0.70710678f;
  e = e + low;
  m = m + (low ? m : vf{}) - 1.f;
  vf fe = __builtin_convertvector(e, vf);
  // In pairs rather than one after the other: it is the latency of this chain that counts.
  vf z = m * m, z2 = z * z;
  vf c01 = m * -2.4999993993e-1f + 3.3333331174e-1f, c23 = m * -1.6668057665e-1f + 2.0000714765e-1f;
  vf c45 = m * -1.2420140846e-1f + 1.4249322787e-1f, c67 = m * -1.1514610310e-1f + 1.1676998740e-1f;
  vf y = (c01 + c23 * z) + (c45 + c67 * z + 7.0376836292e-2f * z2) * z2;
  y = y * m * z;
  y = y + fe * -2.12194440e-4f - z * 0.5f;
  return m + y + fe * 0.693359375f;
}

static inline vf sigmoid(vf x) { return 1.f / (1.f + exp(-x)); }

// log(1 + exp(x)); x itself above 20, as PyTorch has it.
static inline vf softplus(vf x) {
  vf e = exp(x), u = e + 1.f;
  // What the sum 1 + e lost counts only where the logarithm is small.
  vf y = log(u) + (u < 2.f ? e - (u - 1.f) : vf{});
  return x > 20.f ? x : (x != x ? x : y);
}

// v[0] becomes the vector of the W vectors' sums: lane i is the sum over the lanes of v[i].
static inline void sum_lanes(vf* v) {
#if defined(__GNUC__) && !defined(__clang__)
  vi lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  for (int s = W / 2; s > 0; s /= 2) {
    vi bit = (lane & s) != 0 ? vi{} + W : vi{};  // lanes of the upper half take from the second vector
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
