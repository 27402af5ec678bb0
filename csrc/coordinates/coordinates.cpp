// Compiled once per instruction set; no torch header and no standard container in here.
// A node's coordinates are one short vector, components are lanes; edges are walked one by one in kChains interleaved
// sums, so that the additions of one edge do not wait for those of the edge before.
#include "coordinates.h"

#include "../common/isa.h"
#include "../common/simd.h"

namespace ek {
namespace {

constexpr int kChains = 4;

// Coordinates of one node; lanes from `dim` on are zero when loaded and are never stored.
template <int kDim, class T>
struct Point {
  static constexpr int width = kDim <= 2 ? 2 : kDim <= 4 ? 4 : 8;
  typedef T V __attribute__((vector_size(width * sizeof(T))));

  static inline V read(const T* row, int dim) {
    V v{};
    if (kDim == width && kDim < kMaxDim) {
      std::memcpy(&v, row, sizeof v);
    } else {
      for (int l = 0; l < dim; ++l) v[l] = row[l];
    }
    return v;
  }
  static inline void write(T* row, V v, int dim) {
    for (int l = 0; l < dim; ++l) row[l] = v[l];
  }
  static inline T total(V v) {
    for (int w = width / 2; w > 0; w /= 2)
      for (int l = 0; l < w; ++l) v[l] += v[l + w];
    return v[0];
  }
};

// Sum of term(k) over the slots of a row, in kChains interleaved chains.
template <class V, class Term>
inline V add_up(int64_t count, Term&& term) {
  V chain[kChains] = {};
  int64_t k = 0;
  for (; k + kChains <= count; k += kChains)
#pragma GCC unroll 4
    for (int l = 0; l < kChains; ++l) chain[l] += term(k + l);
#pragma GCC unroll 4
  for (int l = 0; l < kChains - 1; ++l)
    if (k + l < count) chain[l] += term(k + l);
  return (chain[0] + chain[1]) + (chain[2] + chain[3]);
}

template <int kDim, bool kDifference, class T>
void forward_range(const CoordinatesArgs<T>& args, int64_t begin, int64_t end) {
  using P = Point<kDim, T>;
  using V = typename P::V;
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const V high = V{} + (args.bounded ? args.bound : T(__builtin_inf())), low = -high;
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    const Row row = g.received(i, event);
    const V x = P::read(args.x + i * dim, dim);
    V sum = add_up<V>(row.count, [&](int64_t k) {
      const V y = P::read(args.x + row.node(k) * dim, dim);
      const V t = args.weight[row.edge(k)] * (kDifference ? x - y : y);
      return max_of(low, min_of(high, t));
    });
    if (args.mean && row.count > 1) sum /= T(row.count);
    P::write(args.out + i * dim, x + args.c * sum, dim);
  }
}

// With s_i = c / count_i (mean) or c, and a_ij = s_i grad_i where the clamp lets it through:
//   grad_w_ij = a_ij . d_ij,   grad_x_i = grad_i + sum over received w_ij a_ij - sum over sent w_ki a_ki  (difference)
//                              grad_x_i = grad_i + sum over sent w_ki a_ki                                (sender)
template <int kDim, bool kDifference, class T>
void backward_range(const CoordinatesArgs<T>& args, int64_t begin, int64_t end) {
  using P = Point<kDim, T>;
  using V = typename P::V;
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const V bound = V{} + args.bound;
  // torch.clamp's rule: one up to and at the bound, zero beyond, zero for NaN
  auto pass = [&](V t, V grad) -> V {
    if (!args.bounded) return grad;
    return (t <= bound) & (t >= -bound) ? grad : V{};
  };
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    const Row in = g.received(i, event), out = g.sent(i, event);
    const V x = P::read(args.x + i * dim, dim), grad = P::read(args.grad_out + i * dim, dim);
    const T own_scale = args.scale(in.count);
    const V scaled = own_scale * grad;
    const V received = add_up<V>(in.count, [&](int64_t k) {
      const V y = P::read(args.x + in.node(k) * dim, dim);
      const V d = kDifference ? x - y : y;
      const T w = args.weight[in.edge(k)];
      const V a = pass(w * d, scaled);
      args.grad_weight[in.edge(k)] = P::total(a * d);
      return w * a;
    });
    const V sent = add_up<V>(out.count, [&](int64_t k) {
      const int64_t r = out.node(k);
      const V d = kDifference ? P::read(args.x + r * dim, dim) - x : x;
      const T w = args.weight[out.edge(k)];
      // in an event of a complete graph all nodes hear equally many
      const T scale = g.complete() ? own_scale : args.scale(g.received(r, event).count);
      return w * pass(w * d, scale * P::read(args.grad_out + r * dim, dim));
    });
    P::write(args.out + i * dim, grad + (kDifference ? received - sent : sent), dim);
  }
}

template <class T>
using RangeFunction = void (*)(const CoordinatesArgs<T>&, int64_t, int64_t);

// Dimensions 2, 3 and 4 are unrolled; the others share one loop.
template <class T>
RangeFunction<T> choose(const CoordinatesArgs<T>& args, bool forward) {
#define EK_CHOOSE(DIM)                                                                      \
  (forward ? (args.difference ? forward_range<DIM, true, T> : forward_range<DIM, false, T>) \
           : (args.difference ? backward_range<DIM, true, T> : backward_range<DIM, false, T>))
  switch (args.dim) {
    case 2: return EK_CHOOSE(2);
    case 3: return EK_CHOOSE(3);
    case 4: return EK_CHOOSE(4);
    default: return EK_CHOOSE(kMaxDim);
  }
#undef EK_CHOOSE
}

}  // namespace

template <class Isa, class T>
void CoordinatesCpu<Isa, T>::forward(const CoordinatesArgs<T>& args, int64_t begin, int64_t end) {
  choose(args, true)(args, begin, end);
}
template <class Isa, class T>
void CoordinatesCpu<Isa, T>::backward(const CoordinatesArgs<T>& args, int64_t begin, int64_t end) {
  choose(args, false)(args, begin, end);
}

template struct CoordinatesCpu<EK_ISA, float>;
template struct CoordinatesCpu<EK_ISA, double>;

}  // namespace ek
