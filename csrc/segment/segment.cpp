// Sums, extrema and gathers over the edges of each node; lanes are channels.
#include "segment.h"

#include "../core/isa.h"
#include "softmax.h"
#include "walk.h"

namespace ek {
namespace {

// Vectors of a panel, for sums and for extrema, which have two registers each: of 32 registers, or of 16.
#if defined(__AVX512F__)
constexpr int kSumPanel = 10, kExtremumPanel = 10;
#else
constexpr int kSumPanel = 6, kExtremumPanel = 3;
#endif

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
