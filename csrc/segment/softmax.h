// Softmax over the edges of each node, channel by channel, and its gradient.
#pragma once

#include "walk.h"

namespace ek {
namespace {

// exp(x) with exp(-inf) = 0: a masked edge has no share at all.
template <class A>
inline Vec<A> share_of(Vec<A> x) {
  const Vec<A> y = exp_of<A>(x);
  return x <= splat(Series<A>::exp_min) ? Vec<A>{} : y;
}

// Fewer channels than lanes: lanes are the entries of consecutive edges.
template <class S>
void narrow_softmax(const SegmentArgs<S>& a, const Row& row) {
  using A = Accumulator<S>;
  constexpr int W = lanes<A>;
  const int C = int(a.channels), edges = C > 0 ? W / C : 0;  // edges at a time
  Vec<A> most{};
  for (int64_t k = 0; k < row.count; ++k) {
    const Vec<A> x = load_some(a.source + row.edge(k) * C, C);
    most = k == 0 ? x : max_of(most, x);
  }
  A top[W], sum[W] = {}, y[W];
  store(top, most);
  // f(entry in out, exponential, channel) for all entries
  const auto over_entries = [&](auto&& f) {
    for (int64_t k = 0; k < row.count && C > 0; k += edges) {
      const int count = row.count - k < edges ? int(row.count - k) : edges;
      A x[W] = {}, low[W] = {};
      int64_t at[W];
      for (int q = 0, l = 0; q < count; ++q) {
        const int64_t first = row.edge(k + q) * C;
        for (int c = 0; c < C; ++c, ++l) {
          at[l] = first + c;
          x[l] = load_one(a.source + at[l]);
          low[l] = top[c];
        }
      }
      store(y, share_of<A>(load(x) - load(low)));
      for (int q = 0, l = 0; q < count; ++q)
        for (int c = 0; c < C; ++c, ++l) f(a.out + at[l], y[l], c);
    }
  };
  if constexpr (sizeof(S) == sizeof(A)) {
    over_entries([&](S* out, A share, int c) { sum[c] += * out = share; });
    for (int64_t k = 0; k < row.count; ++k)
      for (int c = 0; c < C; ++c) a.out[row.edge(k) * C + c] /= sum[c];
  } else {  // rounded once: the exponentials are made again
    over_entries([&](S*, A share, int c) { sum[c] += share; });
    over_entries([&](S* out, A share, int c) { store_some(out, splat(share / sum[c]), 1); });
  }
}

template <class S>
void softmax_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  constexpr bool kKeep = sizeof(S) == sizeof(A);  // exponentials wait in the output, unless that would round them
  const int64_t C = a.channels;
  over_nodes(a.graph, false, begin, end, [&](int64_t, const Row& row) {
    if (C < lanes<A>) return narrow_softmax(a, row);
    over_panels<S, 2>(C, [&](auto panel) {
      Vec<A> top[panel.width], sum[panel.width] = {};
      for (int64_t k = 0; k < row.count; ++k)
        for (int v = 0; v < panel.width; ++v) {
          const Vec<A> x = panel.load(a.source + row.edge(k) * C, v);
          top[v] = k == 0 ? x : max_of(top[v], x);  // a NaN may be lost here; it comes back with the sum
        }
      for (int64_t k = 0; k < row.count; ++k)
        for (int v = 0; v < panel.width; ++v) {
          const int64_t e = row.edge(k) * C;
          const Vec<A> y = share_of<A>(panel.load(a.source + e, v) - top[v]);
          if (kKeep) panel.store(a.out + e, v, y);
          sum[v] += y;
        }
      for (int64_t k = 0; k < row.count; ++k) {
        const int64_t e = row.edge(k) * C;
        Vec<A> y[panel.width];  // all are read before one is written: they may overlap
        for (int v = 0; v < panel.width; ++v)
          y[v] = kKeep ? panel.load(a.out + e, v) : share_of<A>(panel.load(a.source + e, v) - top[v]);
        for (int v = 0; v < panel.width; ++v) panel.store(a.out + e, v, y[v] / sum[v]);
      }
    });
  });
}

// out_e = y_e (g_e - sum over e' of y_e' g_e')
template <class S>
void softmax_gradient_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  const int64_t C = a.channels;
  over_nodes(a.graph, false, begin, end, [&](int64_t, const Row& row) {
    over_panels<S, 2>(C, [&](auto panel) {
      Vec<A> dot[panel.width] = {};
      for (int64_t k = 0; k < row.count; ++k)
        for (int v = 0; v < panel.width; ++v) {
          const int64_t e = row.edge(k) * C;
          dot[v] = mul_add(panel.load(a.source + e, v), panel.load(a.other + e, v), dot[v]);
        }
      for (int64_t k = 0; k < row.count; ++k)
        for (int v = 0; v < panel.width; ++v) {
          const int64_t e = row.edge(k) * C;
          panel.store(a.out + e, v, panel.load(a.other + e, v) * (panel.load(a.source + e, v) - dot[v]));
        }
    });
  });
}

}  // namespace
}  // namespace ek
