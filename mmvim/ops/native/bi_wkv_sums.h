// The sums that the bidirectional WKV is made of, and the steps from one token to the next: see bi_wkv.h.
#pragma once
#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace mmvim::wkv {

// What a step calls: a call would take its sums through memory.
#define WKV_INLINE __attribute__((always_inline)) inline

constexpr int64_t STRIDE = 8;                      // steps after which the rounding of q is made up for
constexpr float EMPTY = -1e38f;                    // the exponent of nothing
constexpr float NARROW = 30.f, LIMIT = 0x1p+40f;   // bits by which a narrow chunk's keys differ, largest sum that enters it
constexpr float GRAD_LIMIT = 0x1p+90f;             // likewise of gradients

struct Factor {
  vf m, e, plain;  // (W,) each: the number is m * 2^e; `plain` is it in one, for narrow chunks
};
// Two sums, of weights and of weights times v (or the same of gradients): a * 2^e and b * 2^e, (W,) each.
struct Sum {
  vf a{}, b{}, e = splat(EMPTY);
};

// The constants of a block's channels. z = e^w and c = 1 - e^w are of weights that grow, in the published kernel.
struct Channel {
  Factor q, u, z, c, cz, qq, uc;  // q, e^u, z, c, c z, q^2; e^u + c, `plain` alone
  Factor czz, zz;                 // c z^2; z - 2 z^2
  vf q_rest, z_rest;              // what q^STRIDE and z^STRIDE lack for being rounded, relative to them
  bool narrow;                    // w and u are small enough for narrow chunks
};

// Sets one lane to `value`; or, where that may be beyond any number, to sign * 2^log2.
inline void set_lane(Factor& f, int lane, double value) {
  int whole;
  f.m[lane] = static_cast<float>(std::frexp(value, &whole)), f.e[lane] = static_cast<float>(whole);
  f.plain[lane] = static_cast<float>(value);
}
inline void set_lane(Factor& f, int lane, double log2, double sign) {
  const double whole = std::isfinite(log2) ? std::floor(log2) : 0;
  f.m[lane] = static_cast<float>(sign * std::exp2(log2 - whole)), f.e[lane] = static_cast<float>(whole);
  f.plain[lane] = 0;  // such a block has no narrow chunk
}

template <bool P>
Channel make_channel(const float* decay, const float* bonus, int lanes) {
  Channel c{};
  float steepest = 0, largest = 0;
  for (int i = 0; i < W; ++i) {
    const double w = i < lanes ? decay[i] : 0, u = i < lanes ? bonus[i] : 0, l = 1.4426950408889634;
    steepest = std::max(steepest, static_cast<float>(std::abs(w * l)));
    largest = std::max(largest, static_cast<float>(std::abs(u * l)));
    if (std::abs(w) < 100 && std::abs(u) < 100) {
      const double q = std::exp(-w), z = 1 / q, less = P ? -std::expm1(w) : 0, bonus_ = std::exp(u);
      set_lane(c.q, i, q), set_lane(c.u, i, bonus_);
      c.q_rest[i] = static_cast<float>(STRIDE * (q / std::ldexp(double{c.q.m[i]}, static_cast<int>(c.q.e[i])) - 1));
      if constexpr (!P) continue;
      set_lane(c.qq, i, q * q), set_lane(c.z, i, z), set_lane(c.c, i, less), set_lane(c.cz, i, less * z);
      set_lane(c.czz, i, less * z * z), set_lane(c.zz, i, less * z - z * z);
      c.z_rest[i] = static_cast<float>(STRIDE * (z / std::ldexp(double{c.z.m[i]}, static_cast<int>(c.z.e[i])) - 1));
      c.uc.plain[i] = static_cast<float>(bonus_ + less);
    } else {
      // 1 - e^w is 1 or -e^w, and z - 2 z^2 is z or -2 z^2, where w is far from 0.
      const double z = w * l, less = w < -40 ? 0 : w > 40 ? z : std::log2(std::abs(std::expm1(w))), sign = w < 0 ? 1 : -1;
      set_lane(c.q, i, -z, 1), set_lane(c.u, i, u * l, 1), set_lane(c.qq, i, -2 * z, 1), set_lane(c.z, i, z, 1);
      set_lane(c.c, i, less, sign), set_lane(c.cz, i, less + z, sign), set_lane(c.czz, i, less + 2 * z, sign);
      const double twice = std::abs(w) < 40 ? 1 - 2 * std::exp(w) : 0;
      if (twice != 0) set_lane(c.zz, i, z + std::log2(std::abs(twice)), twice < 0 ? -1 : 1);
      else set_lane(c.zz, i, w < 0 ? z : 2 * z + 1, sign);
      c.q_rest[i] = static_cast<float>(STRIDE * (std::exp2(-z - c.q.e[i]) / c.q.m[i] - 1));
      c.z_rest[i] = static_cast<float>(STRIDE * (std::exp2(z - c.z.e[i]) / c.z.m[i] - 1));
    }
  }
  c.narrow = steepest * CHUNK <= 12 && largest <= 10;
  return c;
}

// Lets a sum fall off by a factor, and adds x.
template <bool Wide>
WKV_INLINE void fall(Sum& s, const Factor& q, const Sum& x) {
  if constexpr (Wide) {
    const vf fallen = s.e + q.e, top = max(fallen, x.e), kept = times_exp2(q.m, fallen - top);
    const vf added = times_exp2(splat(1.f), x.e - top);
    s.a = s.a * kept + x.a * added, s.b = s.b * kept + x.b * added, s.e = top;
  } else {
    s.a = s.a * q.plain + x.a, s.b = s.b * q.plain + x.b;
  }
}
template <bool Wide>
WKV_INLINE void fall(Sum& s, const Factor& q) {
  if constexpr (Wide) s.a *= q.m, s.b *= q.m, s.e += q.e;
  else s.a *= q.plain, s.b *= q.plain;
}
WKV_INLINE Sum rescaled(const Sum& s, vf e) { return {times_exp2(s.a, s.e - e), times_exp2(s.b, s.e - e), e}; }
// The same sum with numbers near 1, so that many steps cannot carry them out of range.
WKV_INLINE Sum normalised(const Sum& s) {
  const vf size = max(abs(s.a), abs(s.b)), e = s.e + exponent_of(size);
  return rescaled(s, size > 0.f ? e : splat(EMPTY));
}

// Makes up for the rounding of q in STRIDE steps, on the way forward and back. Over many steps it would add up.
WKV_INLINE void correct(Sum& s, vf rest) { s.a += s.a * rest, s.b += s.b * rest; }
WKV_INLINE bool due(int64_t t) { return t % STRIDE == STRIDE - 1; }
WKV_INLINE bool due_back(int64_t t) { return t % STRIDE == 0; }

// The sums on one side of a token: of its own segment, of the others, and with weights that grow. The last two only if P,
// which says that the published kernel is meant.
struct Near {
  Sum own, others, grown;
};
// Moves on from a token. `ends`: the next one is in another segment. `first`: this one is the first of its segment.
template <bool P, bool Wide>
WKV_INLINE void advance(Near& near, const Sum& x, const Channel& c, bool ends, bool first) {
  fall<Wide>(near.own, c.q, x);
  if constexpr (P) {
    fall<Wide>(near.others, c.q);
    if (ends) {
      fall<Wide>(near.own, c.q);
      fall<Wide>(near.others, {splat(1.f), vf{}, splat(1.f)}, near.own);
      near.own = near.grown = Sum{vf{}, vf{}, Wide ? splat(EMPTY) : near.own.e};
    } else if (first) {
      fall<Wide>(near.grown, c.z);
    } else {
      fall<Wide>(near.grown, c.z, x);
    }
  }
}

template <bool P>
WKV_INLINE void correct(Near& near, const Channel& c) {
  correct(near.own, c.q_rest);
  if constexpr (P) correct(near.others, c.q_rest), correct(near.grown, c.z_rest);
}

struct Term {
  const Sum& s;
  const Factor* f;  // null is 1
};
template <size_t N>
WKV_INLINE Sum add_wide(const Term (&terms)[N]) {
  auto exponent = [](const Term& t) { return t.f ? t.s.e + t.f->e : t.s.e; };
  Sum sum{vf{}, vf{}, exponent(terms[0])};
  for (size_t i = 1; i < N; ++i) sum.e = max(sum.e, exponent(terms[i]));
  for (const Term& t : terms) {
    const vf scale = times_exp2(t.f ? t.f->m : splat(1.f), exponent(t) - sum.e);
    sum.a += t.s.a * scale, sum.b += t.s.b * scale;
  }
  return sum;
}
// All that a token sees: the sums on both sides of it, and itself.
template <bool P, bool Wide>
WKV_INLINE Sum total(const Near& near, const Sum& far, const Sum& x, const Channel& c, bool first) {
  if constexpr (Wide) {
    if constexpr (!P) return add_wide({{near.own, nullptr}, {far, nullptr}, {x, &c.u}});
    if (first) return add_wide({{near.own, nullptr}, {near.others, nullptr}, {far, &c.q}, {x, &c.u}});
    return add_wide(
        {{near.own, nullptr}, {near.others, nullptr}, {far, &c.q}, {x, &c.u}, {x, &c.c}, {near.grown, &c.cz}});
  } else if constexpr (!P) {
    return {near.own.a + far.a + c.u.plain * x.a, near.own.b + far.b + c.u.plain * x.b, x.e};
  } else {
    const vf own = first ? c.u.plain : c.uc.plain, grown = first ? vf{} : c.cz.plain;
    return {near.own.a + near.others.a + far.a * c.q.plain + own * x.a + grown * near.grown.a,
            near.own.b + near.others.b + far.b * c.q.plain + own * x.b + grown * near.grown.b, x.e};
  }
}

}  // namespace mmvim::wkv
