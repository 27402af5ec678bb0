// A node's coordinates are a short vector, components are lanes; edges are walked one by one.
#include "coordinates.h"

#include "../core/dimension.h"
#include "../core/isa.h"
#include "../simd/simd.h"

namespace ek {
namespace {

// Coordinates of one node; lanes from the dimension on hold anything. In parts no wider than a register: the compiler
// takes comparisons of wider vectors apart into scalars.
template <int kDim, class T>
struct Point {
  static constexpr int width = kDim <= 2 ? 2 : kDim <= 4 ? 4 : 8;
  static constexpr int span = width < lanes<T> ? width : lanes<T>;
  static constexpr int parts = width / span;
  typedef T V __attribute__((vector_size(span * sizeof(T))));
  V part[parts];

  // f on the parts of points, one after the other.
  template <class F, class... P>
  static inline Point map(F&& f, const P&... points) {
    Point r;
#pragma GCC unroll 4
    for (int q = 0; q < parts; ++q) r.part[q] = f(points.part[q]...);
    return r;
  }
  inline Point operator+(const Point& other) const {
    return map([](V a, V b) { return a + b; }, *this, other);
  }
  inline T operator[](int c) const { return part[c / span][c % span]; }
};

// A table of points, [count, dim]. A point is read as a whole vector, which runs on into the next rows; the last
// rows, where nothing follows, are read one component at a time.
template <int kDim, class T>
struct Points {
  using P = Point<kDim, T>;
  const T* data;
  int64_t dim, whole;

  Points(const T* data, int64_t count, int dim)
      : data(data), dim(dim), whole(count - (P::width - dim + dim - 1) / dim) {}
  inline P operator[](int64_t row) const {
    P p;
#pragma GCC unroll 4
    for (int q = 0; q < P::parts; ++q) {
      const T* first = data + row * dim + q * P::span;
      if (row < whole) {
        std::memcpy(&p.part[q], first, sizeof p.part[q]);
      } else {
        p.part[q] = typename P::V{};
        for (int l = 0; l < P::span && q * P::span + l < dim; ++l) p.part[q][l] = first[l];
      }
    }
    return p;
  }
};

// Sum of term(k) over the slots of a row. Two sums take turns, so that an addition need not wait for the one before.
template <class P, class Term>
inline P add_up(int64_t count, Term&& term) {
  P one{}, other{};
  for (int64_t k = 0; k < count; ++k) {
    const P next = one + term(k);
    one = other;
    other = next;
  }
  return one + other;
}

template <int kDim, bool kDifference, class T>
void forward_range(const CoordinatesArgs<T>& args, int64_t begin, int64_t end) {
  using P = Point<kDim, T>;
  using V = typename P::V;
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const Points<kDim, T> points(args.x, g.num_nodes, dim);
  const V high = V{} + (args.bounded ? args.bound : T(__builtin_inf())), low = -high;
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    const Row row = g.received(i, event);
    const P x = points[i];
    const P sum = add_up<P>(row.count, [&](int64_t k) {
      const P y = points[row.node(k)];
      const T w = args.weight[row.edge(k)];
      return P::map([&](V a, V b) { return max_of(low, min_of(high, w * (kDifference ? a - b : b))); }, x, y);
    });
    const T divisor = args.mean && row.count > 1 ? T(row.count) : T(1);
    const P out = P::map([&](V a, V s) { return a + args.c * (s / divisor); }, x, sum);
    for (int c = 0; c < dim; ++c) args.out[i * dim + c] = out[c];
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
  const Points<kDim, T> points(args.x, g.num_nodes, dim), grads(args.grad_out, g.num_nodes, dim);
  const V bound = V{} + args.bound;
  // one up to and at the bound, zero beyond, zero for NaN
  auto pass = [&](V t, V grad) -> V {
    if (!args.bounded) return grad;
    grad = t <= bound ? grad : V{};
    return t >= -bound ? grad : V{};
  };
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    const Row in = g.received(i, event), out = g.sent(i, event);
    const P x = points[i], grad = grads[i];
    const T own_scale = args.scale(in.count);
    const P received = add_up<P>(in.count, [&](int64_t k) {
      const T w = args.weight[in.edge(k)];
      const P d = P::map([](V a, V b) { return kDifference ? a - b : b; }, x, points[in.node(k)]);
      const P a = P::map([&](V d, V grad) { return pass(w * d, own_scale * grad); }, d, grad);
      const P product = P::map([](V a, V d) { return a * d; }, a, d);
      T grad_weight = product[0];
      for (int c = 1; c < dim; ++c) grad_weight += product[c];
      args.grad_weight[in.edge(k)] = grad_weight;
      return P::map([&](V a) { return w * a; }, a);
    });
    const P sent = add_up<P>(out.count, [&](int64_t k) {
      const int64_t r = out.node(k);
      const T w = args.weight[out.edge(k)];
      // in an event of a complete graph all nodes hear equally many
      const T scale = g.complete() ? own_scale : args.scale(g.received(r, event).count);
      return P::map([&](V x, V y, V grad) { return w * pass(w * (kDifference ? y - x : x), scale * grad); }, x,
                    points[r], grads[r]);
    });
    const P grad_x = P::map([](V g, V r, V s) { return g + (kDifference ? r - s : s); }, grad, received, sent);
    for (int c = 0; c < dim; ++c) args.out[i * dim + c] = grad_x[c];
  }
}

template <class T>
using RangeFunction = void (*)(const CoordinatesArgs<T>&, int64_t, int64_t);

template <class T>
using RangeFunction = void (*)(const CoordinatesArgs<T>&, int64_t, int64_t);

template <class T>
RangeFunction<T> choose(const CoordinatesArgs<T>& args, bool forward) {
  return with_dimension(args.dim, [&](auto dim) -> RangeFunction<T> {
    if (forward) return args.difference ? forward_range<dim, true, T> : forward_range<dim, false, T>;
    return args.difference ? backward_range<dim, true, T> : backward_range<dim, false, T>;
  });
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
