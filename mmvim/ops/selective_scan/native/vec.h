// Vectors of floats and the few functions the scan needs of them. GCC and Clang vector extensions: the same source
// becomes AVX-512, AVX2, NEON or SSE code by the compiler's target, without intrinsics.
#pragma once
#include <cstdint>
#include <cstring>

namespace mmvim {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof(v)); }
static inline vf splat(float x) { return x - vf{}; }

static inline float sum(vf v) {
  float total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
}

// exp with an error of about one unit in the last place: 2^k * p(r), |r| <= ln(2) / 2. Overflows to infinity, goes to
// zero below the smallest normal number, keeps NaN.
static inline vf exp(vf x) {
  const vf magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  vf top = splat(89.f), c = x > top ? top : x;
  vf bottom = splat(-88.f);
  c = c < bottom ? bottom : c;
  vf shifted = c * 1.44269504088896341f + magic;
  vf k = shifted - magic;
  vf r = c - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  // 2^(k-1), doubled afterwards, so that the largest exponents do not overflow early.
  vi bits = (vi)shifted - (vi)magic + 126;
  bits = bits < 0 ? vi{} : bits;
  vf scale = (vf)(bits << 23);
  return p * scale * 2.f;
}

// Natural logarithm of a positive, normal, finite number.
static inline vf log(vf x) {
  vi bits = (vi)x;
  vi e = ((bits >> 23) & 255) - 126;
  vf m = (vf)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  vi low = m < 0.70710678f;
  e = e + (low ? vi{} - 1 : vi{});
  m = m + (low ? m : vf{}) - 1.f;
  vf fe = __builtin_convertvector(e, vf);
  vf z = m * m;
  vf y = m * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * z;
  y = y + fe * -2.12194440e-4f - z * 0.5f;
  return m + y + fe * 0.693359375f;
}

static inline vf sigmoid(vf x) { return 1.f / (1.f + exp(-x)); }

// log(1 + exp(x)); x itself above 20, as PyTorch has it.
static inline vf softplus(vf x) {
  vf e = exp(x), u = e + 1.f, d = u - 1.f;
  vf safe = d == 0.f ? splat(1.f) : d;
  vf y = d == 0.f ? e : log(u) * (e / safe);
  return x > 20.f ? x : (x != x ? x : y);
}

}  // namespace mmvim
