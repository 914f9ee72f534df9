// The bidirectional WKV backward. With D[t] the denominator of out[t], r[t] = dout[t] / D[t] and x[j] = e^k[j],
//
//     dv[j] = x[j] sum over t of W[t, j] r[t]
//     dk[j] = v[j] dv[j] - x[j] sum over t of W[t, j] r[t] out[t]
//
// These are sums over the tokens on both sides again, with both sides exchanged, so they are computed as in bi_wkv.h, from
// the numbers r and r out in place of x and x v. Their exponents are those of 1 / D.
//
// The derivative of e^(-w d) by w counts d: each pair of tokens once for every token between them, so at every token the sums
// of one kind on its one side meet those of the other kind on its other side.
//
// A task walks the chunks three times: backward, as in the forward pass; forward, for D, out and r; backward, for the rest.
// What happened within a chunk is computed again from the sums at its border.
#pragma once
#include "bi_wkv.h"

namespace mmvim::wkv {

// What a task keeps of one block for the third walk, besides Kept: r and r out, with exponents where a chunk is wide; and, at
// the beginning of each chunk, the sums over the tokens before it, of x and of r.
struct KeptGrads {
  std::unique_ptr<vf[]> r, r_out, e;  // (T, W)
  std::vector<Near> before;              // (chunks,)
  std::vector<Sum> far_before;           // (chunks,)
  Near near, grad_near;                  // while chunks are walked forward, and backward
  Sum grad_far, far;                     // likewise
  vf to_decay, to_bonus;                 // (W,)

  explicit KeptGrads(const Problem& p)
      : r(new vf[p.length]), r_out(new vf[p.length]), e(new vf[p.length]), before(p.chunks),
        far_before(p.chunks) {}
  void clear() {
    near = grad_near = Near{}, grad_far = far = Sum{};
    to_decay = to_bonus = vf{};
  }
  template <bool Wide>
  WKV_INLINE Sum at(int64_t t, vf top) const {
    return {r[t], r_out[t], Wide ? e[t] : -top};
  }
  void widen(Kept& kept, int64_t chunk, int64_t steps) {
    if (kept.wide[chunk]) return;
    kept.widen(chunk, steps);
    for (int64_t t = 0; t < steps; ++t) e[chunk * CHUNK + t] = -kept.top[chunk];
  }
};

// The second walk over a chunk.
template <bool P, bool Wide>
inline void walk_grads_forward(const Problem& p, const Kept& kept, KeptGrads& grads, int64_t chunk, const Channel& c,
                               const Stream v, const Stream g, Tile& tile) {
  fill_far<Wide>(p, kept, chunk, c, v, tile);
  const int64_t steps = p.steps(chunk), t0 = chunk * CHUNK;
  const vf top = kept.top[chunk];
  Near n = entering<P, Wide>(grads.near, top);
  Sum far = Wide ? normalised(grads.grad_far) : rescaled(grads.grad_far, -top);
  grads.before[chunk] = n, grads.far_before[chunk] = far;
  int64_t place = P ? t0 % p.segment : 1;  // in the segment
  for (int64_t t = 0; t < steps; ++t) {
    const Sum x = kept.at<Wide>(t0 + t, top, v.at(t));
    const Sum all = total<P, Wide>(n, tile.get<Wide>(t, top), x, c, place == 0);
    v.fetch(t, false), g.fetch(t, false);
    const vf inverse = P ? 1.f / all.a : reciprocal(all.a), a = load(g.at(t)) * inverse;
    const Sum r{a, a * (all.b * inverse), -all.e};
    grads.r[t0 + t] = r.a, grads.r_out[t0 + t] = r.b;
    if (Wide) grads.e[t0 + t] = r.e;
    const bool ends = P && place + 1 == p.segment;
    advance<P, Wide>(n, x, c, ends, place == 0);
    fall<Wide>(far, c.q, r);
    if (due(t)) correct<P>(n, c), correct(far, c.q_rest);
    if (P) place = ends ? 0 : place + 1;
  }
  grads.near = n, grads.grad_far = far;
}

// Where sums of gradients meet sums of inputs, times a factor.
template <bool Wide>
WKV_INLINE vf meet(const Sum& r, const Sum& x, const Factor& f) {
  const vf product = r.a * x.b - r.b * x.a;
  return Wide ? times_exp2(product * f.m, r.e + x.e + f.e) : product * f.plain;
}

// The gradient of decay at one token: near, far, x are its inputs' sums and itself, the others the gradients'.
template <bool P, bool Wide>
WKV_INLINE vf to_decay(const Near& grad_near, const Sum& grad_far, const Sum& r, const Near& near, const Sum& far, const Sum& x,
                   const Channel& c, bool first) {
  vf sum = -meet<Wide>(grad_near.own, near.own, c.q);
  if constexpr (!P) return sum - meet<Wide>(grad_far, far, c.q);
  const Factor one{splat(1.f), vf{}, splat(1.f)};
  sum -= meet<Wide>(grad_near.others, near.own, c.q) + meet<Wide>(grad_near.own, near.others, c.q);
  sum -= meet<Wide>(grad_near.others, near.others, one) + meet<Wide>(r, near.others, one);
  sum -= meet<Wide>(grad_far, far, c.qq) + meet<Wide>(r, far, c.q);
  if (first) return sum;
  return sum + meet<Wide>(grad_near.grown, near.grown, c.czz) + meet<Wide>(r, near.grown, c.zz) - meet<Wide>(r, x, c.z);
}

struct GradTiles {
  Tile own, others, grown, far;  // the sums of the inputs before each token, and those of the gradients
};

// The third walk over a chunk.
template <bool P, bool Wide>
inline void walk_grads_back(const Problem& p, const Kept& kept, KeptGrads& grads, int64_t chunk, const Channel& c,
                            const Stream v, GradTiles& tiles, const Stream dk, const Stream dv) {
  const int64_t steps = p.steps(chunk), t0 = chunk * CHUNK;
  const vf top = kept.top[chunk];
  Near n = entering<P, Wide>(grads.before[chunk], top);
  Sum grad_far = Wide ? normalised(grads.far_before[chunk]) : rescaled(grads.far_before[chunk], -top);
  int64_t place = P ? t0 % p.segment : 1;
  for (int64_t t = 0; t < steps; ++t) {
    tiles.own.put<Wide>(t, n.own), tiles.far.put<Wide>(t, grad_far);
    if (P) tiles.others.put<Wide>(t, n.others), tiles.grown.put<Wide>(t, n.grown);
    const bool ends = P && place + 1 == p.segment;
    advance<P, Wide>(n, kept.at<Wide>(t0 + t, top, v.at(t)), c, ends, place == 0);
    fall<Wide>(grad_far, c.q, grads.at<Wide>(t0 + t, top));
    if (due(t)) correct<P>(n, c), correct(grad_far, c.q_rest);
    if (P) place = ends ? 0 : place + 1;
  }
  Near grad_near = entering<P, Wide>(grads.grad_near, -top);
  Sum far = Wide ? normalised(grads.far) : rescaled(grads.far, top);
  vf decay{}, bonus{};
  for (int64_t t = steps - 1; t >= 0; --t) {
    const bool first = P && (t0 + t) % p.segment == 0;
    const vf value = load(v.at(t));
    const Sum x = kept.at<Wide>(t0 + t, top, v.at(t)), r = grads.at<Wide>(t0 + t, top), before = tiles.far.get<Wide>(t, -top);
    const Sum all = total<P, Wide>(grad_near, before, r, c, first);
    const vf weight = Wide ? times_exp2(x.a, x.e + all.e) : x.a, to_v = weight * all.a;
    v.fetch(t, true);
    store_past(dv.at(t), to_v), store_past(dk.at(t), value * to_v - weight * all.b);
    const Near near{tiles.own.get<Wide>(t, top), P ? tiles.others.get<Wide>(t, top) : Sum{},
                    P ? tiles.grown.get<Wide>(t, top) : Sum{}};
    decay += to_decay<P, Wide>(grad_near, before, r, near, far, x, c, first);
    bonus += meet<Wide>(r, x, c.u);
    fall<Wide>(far, c.q, x);
    advance<P, Wide>(grad_near, r, c, first, first);
    if (due_back(t)) correct(far, c.q_rest), correct<P>(grad_near, c);
  }
  grads.grad_near = grad_near, grads.far = far;
  grads.to_decay += decay, grads.to_bonus += bonus;
}

// ddecay and dbonus are (B, blocks * W), float32.
template <bool P>
void backward(const Problem& p, const View& grad, const View& dk, const View& dv, float* ddecay, float* dbonus) {
  // Of narrow tensors one block: a page has several of its rows in any case, and what a task keeps of one block stays in L2.
  const int64_t run = p.dim <= 512 ? 1 : blocks_of_task(p), runs = (p.blocks + run - 1) / run;
  at::parallel_for(0, p.batch * runs, 1, [&](int64_t begin, int64_t end) {
    std::vector<Kept> kept;
    std::vector<KeptGrads> grads;
    for (int64_t i = 0; i < run; ++i) kept.emplace_back(p), grads.emplace_back(p);
    GradTiles tiles;
    alignas(64) float k_tile[CHUNK * W], v_tile[CHUNK * W], g_tile[CHUNK * W];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs, first = task % runs * run, count = std::min(run, p.blocks - first);
      for (int64_t i = 0; i < count; ++i) kept[i].far = Sum{}, grads[i].clear();
      for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk)
        for (int64_t i = 0; i < count; ++i) {
          const int64_t t0 = chunk * CHUNK, steps = p.steps(chunk);
          const Stream k = read(p.rows(p.k, b, first + i), t0, steps, k_tile);
          const Stream v = read(p.rows(p.v, b, first + i), t0, steps, v_tile);
          walk_back(p, kept[i], chunk, p.channels[first + i], k, v);
        }
      for (int64_t chunk = 0; chunk < p.chunks; ++chunk)
        for (int64_t i = 0; i < count; ++i) {
          const int64_t t0 = chunk * CHUNK, steps = p.steps(chunk);
          const vf top = kept[i].top[chunk];
          const Stream v = read(p.rows(p.v, b, first + i), t0, steps, v_tile);
          const Stream g = read(p.rows(grad, b, first + i), t0, steps, g_tile);
          if (!fits<P>(grads[i].near, top, LIMIT) || !fits(grads[i].grad_far, -top, GRAD_LIMIT)) kept[i].widen(chunk, steps);
          with_width(kept[i].wide[chunk], [&](auto wide) {
            walk_grads_forward<P, wide.value>(p, kept[i], grads[i], chunk, p.channels[first + i], v, g, tiles.far);
          });
        }
      for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk)
        for (int64_t i = 0; i < count; ++i) {
          const int64_t t0 = chunk * CHUNK, steps = p.steps(chunk);
          const Stream v = read(p.rows(p.v, b, first + i), t0, steps, v_tile);
          const Lanes to_k = p.rows(dk, b, first + i), to_v = p.rows(dv, b, first + i);
          if (!fits<P>(grads[i].grad_near, -kept[i].top[chunk], GRAD_LIMIT)) grads[i].widen(kept[i], chunk, steps);
          with_width(kept[i].wide[chunk], [&](auto wide) {
            walk_grads_back<P, wide.value>(p, kept[i], grads[i], chunk, p.channels[first + i], v, tiles,
                                           stream_of(to_k, t0, k_tile), stream_of(to_v, t0, g_tile));
          });
          write(to_k, t0, steps, k_tile), write(to_v, t0, steps, g_tile);  // (steps, W) each
        }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t to = (b * p.blocks + first + i) * W;
        store(ddecay + to, grads[i].to_decay), store(dbonus + to, grads[i].to_bonus);  // (W,) each
      }
    }
    finish_stores();
  });
}

}  // namespace mmvim::wkv

namespace mmvim {

// Returns the gradients of decay and bonus (C,), float32, and of k and v (B, T, C), in their dtype.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> bi_wkv_backward(const Tensor& grad, const Tensor& decay, const Tensor& bonus,
                                                                  const Tensor& k, const Tensor& v, bool published) {
  const wkv::Problem p(decay, bonus, k, v, published);
  Tensor dk = at::empty({p.batch, p.length, p.dim}, k.options()), dv = at::empty_like(dk);
  std::vector<float> decays(p.batch * p.blocks * W), bonuses(decays.size());  // (B, blocks * W) each
  if (published) wkv::backward<true>(p, View(grad), View(dk), View(dv), decays.data(), bonuses.data());
  else wkv::backward<false>(p, View(grad), View(dk), View(dv), decays.data(), bonuses.data());
  auto over_the_batch = [&](const std::vector<float>& parts) {  // and without the padding: (B, blocks * W) -> (C,)
    Tensor sum = at::empty({p.dim}, k.options().dtype(at::kFloat));
    float* to = sum.data_ptr<float>();
    for (int64_t i = 0; i < p.dim; ++i) {
      to[i] = 0;
      for (int64_t b = 0; b < p.batch; ++b) to[i] += parts[b * p.blocks * W + i];
    }
    return sum;
  };
  return {over_the_batch(decays), over_the_batch(bonuses), dk, dv};
}

}  // namespace mmvim
