// Lanes are channels: a panel of vectors stays in registers while the edges of one node go by.
#include "segment.h"

#include <utility>

#include "../core/isa.h"
#include "../simd/simd_storage.h"

namespace ek {
namespace {

// Vectors of a panel, for sums and for extrema, which have two registers each: of 32 registers, or of 16.
#if defined(__AVX512F__)
constexpr int kSumPanel = 10, kExtremumPanel = 10;
#else
constexpr int kSumPanel = 6, kExtremumPanel = 3;
#endif

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

// w_e x for lanes of edge e.
template <Weight kWeight, class S, class P, class V>
inline V weighted(const SegmentArgs<S>& a, int64_t e, const P& panel, int v, V x) {
  if constexpr (kWeight == Weight::edge) return x * load_one(a.weight + e);
  if constexpr (kWeight == Weight::channel) return x * panel.load(a.weight + e * a.channels, v);
  return x;
}

template <bool kEdges, Weight kWeight, bool kArg, class S>
void sum_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  const bool sent = a.rows == RowsOf::receivers;
  const int64_t C = a.channels;
  const Side& side = sent ? a.graph.out : a.graph.in;
  const int64_t* end_of_rows = (kEdges ? side.edge : side.other) + a.graph.num_edges;
  over_nodes(a.graph, sent, begin, end, [&](int64_t i, const Row& row) {
    const int64_t* rows = kEdges ? row.edges : row.other;
    over_panels<S, (kArg || sizeof(S) == 2 ? 3 : kSumPanel)>(C, [&](auto panel) {
      Vec<A> acc[panel.width] = {};
      for (int64_t k = 0; k < row.count; ++k) {
        if (rows && panel.first == 0) ask_ahead(a, rows + k, end_of_rows);
        const int64_t e = kEdges || kArg || kWeight != Weight::none ? row.edge(k) : 0;
        const S* source = a.source + (kEdges ? e : row.node(k)) * C;
        const int64_t* arg = kArg ? a.arg + (sent ? row.node(k) : i) * C : nullptr;
#pragma GCC unroll 10
        for (int v = 0; v < panel.width; ++v) {
          Vec<A> x = weighted<kWeight>(a, e, panel, v, panel.load(source, v));
          if constexpr (kArg) x = panel.select(arg, v, e, x);
          acc[v] += x;
        }
      }
      const A count = a.mean && row.count > 0 ? A(row.count) : A(1);
#pragma GCC unroll 10
      for (int v = 0; v < panel.width; ++v) panel.store(a.out + i * C, v, a.mean ? acc[v] / count : acc[v]);
    });
  });
}

template <bool kArg, class S>
void gather_to_edges_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  const int64_t C = a.channels;
  over_nodes(a.graph, false, begin, end, [&](int64_t i, const Row& row) {
    over_panels<S, 3>(C, [&](auto panel) {
      Vec<A> x[panel.width];
#pragma GCC unroll 6
      for (int v = 0; v < panel.width; ++v) x[v] = panel.load(a.source + i * C, v);
      for (int64_t k = 0; k < row.count; ++k) {
        const int64_t e = row.edge(k);
#pragma GCC unroll 6
        for (int v = 0; v < panel.width; ++v)
          panel.store(a.out + e * C, v, kArg ? panel.select(a.arg + i * C, v, e, x[v]) : x[v]);
      }
    });
  });
}

// The same without arg for the edges [begin, end), one after the other.
template <class S>
void gather_in_order(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  over_panels<S, kSumPanel>(a.channels, [&](auto panel) {
    for (int64_t e = begin; e < end; ++e)
#pragma GCC unroll 10
      for (int v = 0; v < panel.width; ++v)
        panel.store(a.out + e * a.channels, v, panel.load(a.source + a.receiver[e] * a.channels, v));
  });
}

template <bool kArg, class S>
void edge_dot_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  const int64_t C = a.channels;
  over_nodes(a.graph, false, begin, end, [&](int64_t i, const Row& row) {
    for (int64_t k = 0; k < row.count; ++k) {
      const int64_t e = row.edge(k);
      const S *left = a.source + i * C, *right = a.other + row.node(k) * C;
      Vec<A> total{};
      over_panels<S, 1>(C, [&](auto panel) {
        Vec<A> x = panel.load(left, 0) * panel.load(right, 0);
        if constexpr (kArg) x = panel.select(a.arg + i * C, 0, e, x);
        if (a.per_channel) return panel.store(a.out + e * C, 0, x);
        // without the lanes that the vector before has had
        total += from_bits(bits(x) & (lane_numbers<A>() >= decltype(Bits<A>{}[0] + 0)(panel.first - panel.last)));
      });
      if (!a.per_channel) store_some(a.out + e, splat(sum(total)), 1);
    }
  });
}

// Takes x, number k, where it is better than the best so far: larger (or smaller), or the first NaN. Of equals the
// first stays.
template <bool kLargest, class V, class B>
inline void take_better(V x, B k, V& best, B& number) {
  const B better = ~(kLargest ? x <= best : x >= best) & (best == best);
  best = better ? x : best;
  number = better ? k : number;
}
#if defined(__AVX512F__)  // the same in masks: two comparisons and two moves
template <bool kLargest>
inline void take_better(vfloat x, Bits<float> k, vfloat& best, Bits<float>& number) {
  const __mmask16 counts = _mm512_cmp_ps_mask((__m512)best, (__m512)best, _CMP_ORD_Q);
  const __mmask16 better =
      _mm512_mask_cmp_ps_mask(counts, (__m512)x, (__m512)best, kLargest ? _CMP_NLE_UQ : _CMP_NGE_UQ);
  best = (vfloat)_mm512_mask_mov_ps((__m512)best, better, (__m512)x);
  number = (Bits<float>)_mm512_mask_mov_epi32((__m512i)number, better, (__m512i)k);
}
template <bool kLargest>
inline void take_better(vdouble x, Bits<double> k, vdouble& best, Bits<double>& number) {
  const __mmask8 counts = _mm512_cmp_pd_mask((__m512d)best, (__m512d)best, _CMP_ORD_Q);
  const __mmask8 better =
      _mm512_mask_cmp_pd_mask(counts, (__m512d)x, (__m512d)best, kLargest ? _CMP_NLE_UQ : _CMP_NGE_UQ);
  best = (vdouble)_mm512_mask_mov_pd((__m512d)best, better, (__m512d)x);
  number = (Bits<double>)_mm512_mask_mov_epi64((__m512i)number, better, (__m512i)k);
}
#endif

template <bool kEdges, Weight kWeight, bool kLargest, class S>
void extremum_range(const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  using A = Accumulator<S>;
  constexpr int64_t kBlock = int64_t(1) << 30;  // numbers of edges are lanes of 32 bits
  const int64_t C = a.channels;
  const int64_t* end_of_rows = (kEdges ? a.graph.in.edge : a.graph.in.other) + a.graph.num_edges;
  over_nodes(a.graph, false, begin, end, [&](int64_t i, const Row& row) {
    const int64_t* rows = kEdges ? row.edges : row.other;
    over_panels<S, kExtremumPanel>(C, [&](auto panel) {
      Vec<A> best[panel.width];
      // Nothing is worse than this; where nothing is better, the first edge has it, too.
      for (int v = 0; v < panel.width; ++v)
        best[v] = splat(row.count == 0 ? A(0) : kLargest ? -A(__builtin_inf()) : A(__builtin_inf()));
      if (row.count == 0)
        for (int v = 0; v < panel.width; ++v) panel.each_lane(v, [&](int64_t c, int) { a.arg_out[i * C + c] = -1; });
      for (int64_t block = 0; block < row.count; block += kBlock) {
        const int64_t count = row.count - block < kBlock ? row.count - block : kBlock;
        Bits<A> slot[panel.width];  // where in this block the best is, -1 where it is not in this block
        for (int v = 0; v < panel.width; ++v) slot[v] = Bits<A>{} - (block > 0 ? 1 : 0);
        for (int64_t k = 0; k < count; ++k) {
          if (rows && panel.first == 0) ask_ahead(a, rows + block + k, end_of_rows);
          const int64_t e = kEdges || kWeight != Weight::none ? row.edge(block + k) : 0;
          const S* source = a.source + (kEdges ? e : row.node(block + k)) * C;
          const Bits<A> number = Bits<A>{} + decltype(slot[0][0] + 0)(k);
#pragma GCC unroll 10
          for (int v = 0; v < panel.width; ++v)
            take_better<kLargest>(weighted<kWeight>(a, e, panel, v, panel.load(source, v)), number, best[v], slot[v]);
        }
        for (int v = 0; v < panel.width; ++v) {
          decltype(slot[v][0] + 0) at[panel.W];
          std::memcpy(at, &slot[v], sizeof at);
          panel.each_lane(v, [&](int64_t c, int lane) {
            if (at[lane] >= 0) a.arg_out[i * C + c] = row.edge(block + at[lane]);
          });
        }
      }
      for (int v = 0; v < panel.width; ++v) panel.store(a.out + i * C, v, best[v]);
    });
  });
}

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

template <bool kEdges, Weight kWeight, class S>
void sum_or_extremum(bool extremum, const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  if (extremum)
    return a.largest ? extremum_range<kEdges, kWeight, true>(a, begin, end)
                     : extremum_range<kEdges, kWeight, false>(a, begin, end);
  a.arg ? sum_range<kEdges, kWeight, true>(a, begin, end) : sum_range<kEdges, kWeight, false>(a, begin, end);
}

template <class S>
void reduce(bool extremum, const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  if (a.rows == RowsOf::edges) return sum_or_extremum<true, Weight::none>(extremum, a, begin, end);
  switch (a.weights) {
    case Weight::none: return sum_or_extremum<false, Weight::none>(extremum, a, begin, end);
    case Weight::edge: return sum_or_extremum<false, Weight::edge>(extremum, a, begin, end);
    case Weight::channel: return sum_or_extremum<false, Weight::channel>(extremum, a, begin, end);
  }
}

}  // namespace

template <class Isa, class S>
void SegmentCpu<Isa, S>::run(SegmentKernel kernel, const SegmentArgs<S>& a, int64_t begin, int64_t end) {
  switch (kernel) {
    case SegmentKernel::sum: return reduce(false, a, begin, end);
    case SegmentKernel::extremum: return reduce(true, a, begin, end);
    case SegmentKernel::gather_to_edges:
      if (a.receiver) return gather_in_order(a, begin, end);
      return a.arg ? gather_to_edges_range<true>(a, begin, end) : gather_to_edges_range<false>(a, begin, end);
    case SegmentKernel::edge_dot:
      return a.arg ? edge_dot_range<true>(a, begin, end) : edge_dot_range<false>(a, begin, end);
    case SegmentKernel::softmax: return softmax_range(a, begin, end);
    case SegmentKernel::softmax_gradient: return softmax_gradient_range(a, begin, end);
  }
}

template struct SegmentCpu<EK_ISA, float>;
template struct SegmentCpu<EK_ISA, double>;
template struct SegmentCpu<EK_ISA, BFloat16>;
template struct SegmentCpu<EK_ISA, Float16>;

}  // namespace ek
