// The bidirectional WKV of Vision-RWKV, forward. For each channel, with decay w and bonus u, out[t] is an average of v:
//
//     out[t] = sum over j of W[t, j] e^k[j] v[j] / sum over j of W[t, j] e^k[j]
//     W[t, t] = e^u, W[t, j] = e^(-w (|t - j| - 1)) for other j
//
// or, published, what mmvim/ops/bi_wkv/reference.py says. The lanes are channels. Sums over j < t and over j > t move from
// token to token: a step multiplies them by q = e^-w and adds e^k and e^k v. So e^k is the only exponential, one a token.
//
// Sums are kept as numbers times 2^e. Where keys do not differ too much within a chunk, e is that of the chunk's largest e^k,
// and a step costs two multiply-adds. Elsewhere ("wide") each sum has an e of its own, as large as it must be: nothing
// overflows or vanishes, whatever k, w and u are.
//
// A task takes a few blocks of channels. It walks the chunks backward, keeps e^k and the sums behind each chunk, then walks
// them forward.
#pragma once
#include <ATen/Parallel.h>

#include <memory>
#include <tuple>
#include <vector>

#include "bi_wkv_sums.h"

namespace mmvim::wkv {

struct Problem {
  int64_t batch, length, dim, blocks, chunks, segment;  // segment: tokens between two borders of the published kernel
  View k, v;
  std::vector<Channel> channels;  // (blocks,)

  Problem(const Tensor& decay, const Tensor& bonus, const Tensor& k_, const Tensor& v_, bool published)
      : batch(k_.size(0)), length(k_.size(1)), dim(k_.size(2)), blocks((dim + W - 1) / W), chunks((length + CHUNK - 1) / CHUNK),
        segment(published ? (length + 31) / 32 : length), k(k_), v(v_) {
    const Tensor w = decay.to(at::kFloat).contiguous(), u = bonus.to(at::kFloat).contiguous();  // (C,)
    for (int64_t j = 0; j < blocks; ++j) {
      const float *wj = w.const_data_ptr<float>() + j * W, *uj = u.const_data_ptr<float>() + j * W;
      channels.push_back(published ? make_channel<true>(wj, uj, lanes(j)) : make_channel<false>(wj, uj, lanes(j)));
    }
  }
  int lanes(int64_t j) const { return static_cast<int>(std::min<int64_t>(W, dim - j * W)); }
  int64_t steps(int64_t chunk) const { return std::min(CHUNK, length - chunk * CHUNK); }
  // Block j (T, lanes) of a tensor (B, T, C).
  Lanes rows(const View& x, int64_t b, int64_t j) const {
    return {&x, b * x.stride[0] + j * W * x.stride[2], x.stride[1], x.stride[2], lanes(j)};
  }
};

// A chunk's rows (steps, W) of a tensor, where they are, or in a tile.
struct Stream {
  float* base;
  int64_t step;
  float* at(int64_t t) const { return base + t * step; }
  // Fetches into the cache what the next chunk reads or writes in place of row t; `back` where that is the one before.
  void fetch(int64_t t, bool back) const { prefetch(base + (back ? t - CHUNK : t + CHUNK) * step); }
};
inline bool is_in_place(const Lanes& at) { return in_place(at) && at.step != 0; }
inline Stream stream_of(const Lanes& at, int64_t t0, float* tile) {
  if (!is_in_place(at)) return {tile, W};
  return {reinterpret_cast<float*>(at.view->base) + at.offset + t0 * at.step, at.step};
}
inline void positions_of(int64_t t0, int64_t steps, int64_t* position) {
  for (int64_t t = 0; t < steps; ++t) position[t] = t0 + t;
}
inline Stream read(const Lanes& at, int64_t t0, int64_t steps, float* tile) {
  int64_t position[CHUNK];
  positions_of(t0, steps, position);
  if (!is_in_place(at)) gather(tile, at, position, steps);  // (steps, W)
  return stream_of(at, t0, tile);
}
// Writes a stream that lies in a tile to the tensor that it was made for.
inline void write(const Lanes& at, int64_t t0, int64_t steps, const float* tile) {
  int64_t position[CHUNK];
  positions_of(t0, steps, position);
  if (!is_in_place(at)) scatter<false>(tile, at, position, steps);  // (steps, W)
}

// What a task keeps of one block: e^k as p * 2^e, where e is `top` throughout a narrow chunk; and the sums behind each chunk.
struct Kept {
  std::unique_ptr<vf[]> p, e;  // (T, W)
  std::vector<vf> top;            // (chunks, W)
  std::vector<char> wide;         // (chunks,)
  std::vector<Sum> after;         // (chunks,)
  Sum far;                        // while chunks are walked backward: over the tokens behind

  explicit Kept(const Problem& p_)
      : p(new vf[p_.length]), e(new vf[p_.length]), top(p_.chunks), wide(p_.chunks), after(p_.chunks) {}
  // The number e^k of a token, and times v.
  template <bool Wide>
  WKV_INLINE Sum at(int64_t t, vf top_, const float* v) const {
    return {p[t], p[t] * load(v), Wide ? e[t] : top_};
  }
  void widen(int64_t chunk, int64_t steps) {
    if (wide[chunk]) return;
    for (int64_t t = 0; t < steps; ++t) e[chunk * CHUNK + t] = top[chunk];
    wide[chunk] = true;
  }
};

// Whether a sum may enter a narrow chunk with exponent e.
inline bool fits(const Sum& s, vf e, float limit) {
  const Sum r = rescaled(s, e);
  return all_within(max(abs(r.a), abs(r.b)), limit);
}
template <bool P>
bool fits(const Near& near, vf e, float limit) {
  return fits(near.own, e, limit) && (!P || (fits(near.others, e, limit) && fits(near.grown, e, limit)));
}
template <bool P, bool Wide>
inline Near entering(const Near& near, vf e) {
  if constexpr (!P) return {Wide ? normalised(near.own) : rescaled(near.own, e), {}, {}};
  if (Wide) return {normalised(near.own), normalised(near.others), normalised(near.grown)};
  return {rescaled(near.own, e), rescaled(near.others, e), rescaled(near.grown, e)};
}

// The walk backward over a chunk: fills p and e, and moves the sum behind it on.
template <bool Wide>
inline Sum sum_back(Kept& kept, int64_t t0, int64_t steps, vf top, const Channel& c, const Stream k, const Stream v) {
  Sum s = Wide ? normalised(kept.far) : rescaled(kept.far, top);
  const Factor q = c.q;
  const vf rest = c.q_rest;
  vf *p = &kept.p[t0], *e = &kept.e[t0];  // (steps, W)
  for (int64_t t = steps - 1; t >= 0; --t) {
    const vf x = load(k.at(t));
    k.fetch(t, true), v.fetch(t, true);
    vf whole, y;
    if constexpr (Wide) {
      y = exp_parts<true>(x < -1e37f ? splat(-1e37f) : x, whole);  // NaN stays
      e[t] = whole;
    } else {
      y = exp_parts<false>(x, whole);
      y = times_exp2(y, whole - top);
    }
    p[t] = y;
    fall<Wide>(s, q, {y, y * load(v.at(t)), whole});
    if (due_back(t)) correct(s, rest);
  }
  return s;
}
inline void walk_back(const Problem& p, Kept& kept, int64_t chunk, const Channel& c, const Stream k, const Stream v) {
  const int64_t steps = p.steps(chunk), t0 = chunk * CHUNK;
  vf most = load(k.at(0)), least = most, top;
  for (int64_t t = 1; t < steps; ++t) {
    const vf x = load(k.at(t));
    most = max(x, most), least = min(x, least);
  }
  exp_parts<true>(most, top);
  const bool narrow = c.narrow && all_within((most - least) * LOG2E, NARROW) &&
                      all_within(max(abs(most), abs(least)), 4096.f) && fits(kept.far, top, LIMIT);
  kept.after[chunk] = kept.far, kept.top[chunk] = top, kept.wide[chunk] = !narrow;
  kept.far = narrow ? sum_back<false>(kept, t0, steps, top, c, k, v) : sum_back<true>(kept, t0, steps, top, c, k, v);
  if (narrow) kept.far.e = top;
}

// The sums of one kind at each token of a chunk.
struct Tile {
  alignas(64) float a[CHUNK * W], b[CHUNK * W], e[CHUNK * W];
  template <bool Wide>
  WKV_INLINE void put(int64_t t, const Sum& s) {
    store(a + t * W, s.a), store(b + t * W, s.b);
    if (Wide) store(e + t * W, s.e);
  }
  template <bool Wide>
  WKV_INLINE Sum get(int64_t t, vf top) const {
    return {load(a + t * W), load(b + t * W), Wide ? load(e + t * W) : top};
  }
};

// The sums behind each token of a chunk. In a narrow one two steps at a time, so that half as many wait for one another.
template <bool Wide>
inline void fill_far(const Problem& p, const Kept& kept, int64_t chunk, const Channel& c, const Stream v, Tile& tile) {
  const vf top = kept.top[chunk], rest = c.q_rest;
  const int64_t t0 = chunk * CHUNK;
  const Factor q = c.q;
  Sum s = Wide ? normalised(kept.after[chunk]) : rescaled(kept.after[chunk], top);
  int64_t t = p.steps(chunk) - 1;
  if constexpr (!Wide) {
    const vf qq = q.plain * q.plain;
    for (; t % 2 == 1; t -= 2) {  // all of them, or none if their number is odd
      const Sum x = kept.at<false>(t0 + t, top, v.at(t)), y = kept.at<false>(t0 + t - 1, top, v.at(t - 1));
      tile.put<false>(t, s);
      tile.put<false>(t - 1, {s.a * q.plain + x.a, s.b * q.plain + x.b, top});
      s.a = s.a * qq + (x.a * q.plain + y.a), s.b = s.b * qq + (x.b * q.plain + y.b);
      if (due_back(t - 1)) correct(s, rest);
    }
  }
  for (; t >= 0; --t) {
    tile.put<Wide>(t, s);
    fall<Wide>(s, q, kept.at<Wide>(t0 + t, top, v.at(t)));
    if (due_back(t)) correct(s, rest);
  }
}

template <bool P, bool Wide>
inline void walk_forward(const Problem& p, const Kept& kept, int64_t chunk, const Channel& c, const Stream v, Near& near,
                         Tile& tile, const Stream out) {
  fill_far<Wide>(p, kept, chunk, c, v, tile);
  const int64_t steps = p.steps(chunk), t0 = chunk * CHUNK;
  const vf top = kept.top[chunk];
  Near n = entering<P, Wide>(near, top);
  int64_t place = P ? t0 % p.segment : 1;  // in the segment
  for (int64_t t = 0; t < steps; ++t) {
    const Sum x = kept.at<Wide>(t0 + t, top, v.at(t));
    const Sum all = total<P, Wide>(n, tile.get<Wide>(t, top), x, c, place == 0);
    v.fetch(t, false), out.fetch(t, false);
    store(out.at(t), P ? all.b / all.a : all.b * reciprocal(all.a));
    const bool ends = P && place + 1 == p.segment;
    advance<P, Wide>(n, x, c, ends, place == 0);
    if (due(t)) correct<P>(n, c);
    if (P) place = ends ? 0 : place + 1;
  }
  near = n;
}

// Calls f with whether a chunk is wide as a constant.
template <class F>
void with_width(bool wide, F f) {
  if (wide) f(std::true_type{});
  else f(std::false_type{});
}

// How many blocks of channels a task takes: neighbours in memory, if there are tasks enough without.
inline int64_t blocks_of_task(const Problem& p) {
  return std::clamp<int64_t>(p.batch * p.blocks / at::get_num_threads(), 1, p.length <= 2048 ? 4 : 2);
}

template <bool P>
void forward(const Problem& p, const View& out) {
  const int64_t run = blocks_of_task(p), runs = (p.blocks + run - 1) / run;
  at::parallel_for(0, p.batch * runs, 1, [&](int64_t begin, int64_t end) {
    std::vector<Kept> kept;
    for (int64_t i = 0; i < run; ++i) kept.emplace_back(p);
    std::vector<Near> near(run);
    Tile tile;
    alignas(64) float k_tile[CHUNK * W], v_tile[CHUNK * W], out_tile[CHUNK * W];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / runs, first = task % runs * run, count = std::min(run, p.blocks - first);
      for (int64_t i = 0; i < count; ++i) kept[i].far = Sum{}, near[i] = Near{};
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
          const Stream v = read(p.rows(p.v, b, first + i), t0, steps, v_tile);
          const Lanes to = p.rows(out, b, first + i);
          if (!fits<P>(near[i], kept[i].top[chunk], LIMIT)) kept[i].widen(chunk, steps);
          with_width(kept[i].wide[chunk], [&](auto wide) {
            walk_forward<P, wide.value>(p, kept[i], chunk, p.channels[first + i], v, near[i], tile,
                                        stream_of(to, t0, out_tile));
          });
          write(to, t0, steps, out_tile);  // (steps, W)
        }
    }
  });
}

}  // namespace mmvim::wkv

namespace mmvim {

// Returns the output (B, T, C) in the dtype of k.
inline Tensor bi_wkv_forward(const Tensor& decay, const Tensor& bonus, const Tensor& k, const Tensor& v, bool published) {
  const wkv::Problem p(decay, bonus, k, v, published);
  Tensor out = at::empty({p.batch, p.length, p.dim}, k.options());
  if (published) wkv::forward<true>(p, View(out));
  else wkv::forward<false>(p, View(out));
  return out;
}

}  // namespace mmvim
