// Walks nodes of a graph and channels of a row: a panel of vectors stays in registers while the edges of a node go by.
#pragma once

#include <utility>

#include "../simd/simd_storage.h"
#include "segment.h"

namespace ek {
namespace {

// The lanes of x whose edge is e; the others are zero.
inline vdouble keep_edge(const int64_t* edges, int64_t e, vdouble x) {
  Bits<double> named;
  std::memcpy(&named, edges, sizeof named);
  return from_bits(bits(x) & (named == e));
}
template <int... kLane>
inline Bits<float> even_lanes(Bits<float> a, Bits<float> b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, 2 * kLane...);
}
inline vfloat keep_edge(const int64_t* edges, int64_t e, vfloat x) {
  Bits<double> low, high;
  std::memcpy(&low, edges, sizeof low);
  std::memcpy(&high, edges + lanes<double>, sizeof high);
  const auto all = std::make_integer_sequence<int, lanes<float>>();
  return from_bits(bits(x) & even_lanes((Bits<float>)(low == e), (Bits<float>)(high == e), all));
}

// kWidth neighbouring vectors of a row. The last vector of a row ends at its last channel and may overlap the one
// before: both hold the same numbers. A row shorter than a vector is one vector in part.
template <class S, int kWidth, bool kPart>
struct Panel {
  using A = Accumulator<S>;
  static constexpr int width = kWidth, W = lanes<A>;
  int64_t first;  // channel of the first vector
  int64_t last;   // channel of the last vector
  int part;       // kPart: channels of the row

  int64_t channel(int v) const { return v + 1 < kWidth ? first + v * W : last; }
  template <class U>
  auto load(const U* row, int v) const {
    return kPart ? load_some(row, part) : load_row(row + channel(v));
  }
  template <class U>
  void store(U* row, int v, Vec<A> x) const {
    kPart ? store_some(row, x, part) : store_row(row + channel(v), x);
  }
  // f(channel, lane) for the lanes of a vector that are channels.
  template <class F>
  void each_lane(int v, F&& f) const {
    for (int l = 0; l < (kPart ? part : W); ++l) f(kPart ? l : channel(v) + l, l);
  }
  // x where arg names edge e, else 0.
  Vec<A> select(const int64_t* arg, int v, int64_t e, Vec<A> x) const {
    if constexpr (!kPart) return keep_edge(arg + channel(v), e, x);
    int64_t row[W];
    for (int l = 0; l < W; ++l) row[l] = l < part ? arg[l] : -1;
    return keep_edge(row, e, x);
  }
};

// f(a panel of `width` vectors), 1 <= width <= kMost.
template <class S, int kMost, class F>
inline void with_panel(int width, int64_t first, int64_t channels, F& f) {
  constexpr int64_t W = row_lanes<S>;
  if constexpr (kMost > 1)
    if (width < kMost) return with_panel<S, kMost - 1>(width, first, channels, f);
  const int64_t last = first + (kMost - 1) * W;
  f(Panel<S, kMost, false>{first, last < channels - W ? last : channels - W, 0});
}

// f(panel) for all channels of a row, in as few panels of at most kMost vectors as there can be, as even as they can.
template <class S, int kMost, class F>
inline void over_panels(int64_t channels, F&& f) {
  constexpr int64_t W = row_lanes<S>;
  if (channels < W) return f(Panel<S, 1, true>{0, 0, int(channels)});
  const int64_t vectors = (channels + W - 1) / W, panels = (vectors + kMost - 1) / kMost;
  for (int64_t p = 0, first = 0; p < panels; ++p) {
    const int64_t end = vectors * (p + 1) / panels;
    with_panel<S, kMost>(int(end - first), first * W, channels, f);
    first = end;
  }
}

// f(node, its edges) for the nodes [begin, end).
template <class F>
inline void over_nodes(const GraphView& g, bool sent, int64_t begin, int64_t end, F&& f) {
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    f(i, sent ? g.sent(i, event) : g.received(i, event));
  }
}

// The rows that a node of a CSR graph reads lie anywhere in memory: each is asked for some edges before its turn, where
// `rows` (numbers of rows, up to `end`) goes on to the next nodes.
template <class S>
inline void ask_ahead(const SegmentArgs<S>& a, const int64_t* rows, const int64_t* end) {
  constexpr int64_t kAhead = 8, kLine = 64;
  if (end - rows <= kAhead) return;
  const char* row = reinterpret_cast<const char*>(a.source + rows[kAhead] * a.channels);
  for (int64_t at = 0; at < a.channels * int64_t(sizeof(S)); at += kLine) __builtin_prefetch(row + at);
}

template <class S>
inline Accumulator<S> load_one(const S* p) {
  if constexpr (sizeof(S) > 2)
    return *p;
  else
    return load_some(p, 1)[0];
}

}  // namespace
}  // namespace ek
