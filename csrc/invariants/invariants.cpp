#include "invariants.h"

#include "../core/dimension.h"
#include "../core/isa.h"
#include "block.h"

namespace ek {
namespace {

template <class T, bool kPsi>
inline void finish(const double* in, T* out) {
  T z[kBlock];
  for (int l = 0; l < kBlock; ++l) z[l] = T(in[l]);
  for (int l = 0; l < kBlock; l += lanes<T>) {
    const Vec<T> v = load(z + l);
    store(out + l, kPsi ? copysign(log1p_of<T>(abs(v)), v) : v);
  }
}

template <int kDim, bool kPsi, class T>
void forward_range(const InvariantsArgs<T>& args, int64_t begin, int64_t end) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  Block<kDim> block;
  T z[2][kBlock];
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    const Row row = g.received(i, event);
    block.load_node(args.x + i * dim, dim);
    for (int64_t k = 0; k < row.count; k += kBlock) {
      const int count = row.count - k < kBlock ? int(row.count - k) : kBlock;
      block.load_neighbours(args.x, row, k, count, dim);
      block.template products<sizeof(T) == 8>(args.metric, dim);
      finish<T, kPsi>(block.interval, z[0]);
      finish<T, kPsi>(block.product, z[1]);
      for (int l = 0; l < count; ++l) {
        T* out = args.out + row.edge(k + l) * 2;
        out[0] = z[0][l];
        out[1] = z[1][l];
      }
    }
  }
}

// grad_x_i = eta * ( sum over edges of i, either end, of  2 g0 psi'(z0) (x_i - x_j) + g1 psi'(z1) x_j ),
// psi'(z) = 1 / (1 + |z|): the same for both ends, so one loop body serves received and sent edges.
template <int kDim, bool kPsi, class T>
void backward_range(const InvariantsArgs<T>& args, int64_t begin, int64_t end) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  int64_t event = g.complete() && begin < end ? g.event_of(begin) : 0;
  Block<kDim> block;
  for (int64_t i = begin; i < end; ++i) {
    while (g.complete() && i >= g.ptr[event + 1]) ++event;
    block.load_node(args.x + i * dim, dim);
    vdouble grad[kDim] = {};
    for (int side = 0; side < 2; ++side) {
      const Row row = side == 0 ? g.received(i, event) : g.sent(i, event);
      for (int64_t k = 0; k < row.count; k += kBlock) {
        const int count = row.count - k < kBlock ? int(row.count - k) : kBlock;
        block.load_neighbours(args.x, row, k, count, dim);
        if (kPsi) block.template products<sizeof(T) == 8>(args.metric, dim);
        double g0[kBlock] = {}, g1[kBlock] = {};
        for (int l = 0; l < count; ++l) {
          const T* go = args.grad_out + row.edge(k + l) * 2;
          g0[l] = go[0];
          g1[l] = go[1];
        }
        for (int l = 0; l < kBlock; l += W) {
          vdouble a = load(g0 + l) * 2.0, b = load(g1 + l);
          if (kPsi) {
            a = a / (1.0 + abs(load(block.interval + l)));
            b = b / (1.0 + abs(load(block.product + l)));
          }
          for (int c = 0; c < dim; ++c) {
            const vdouble y = load(block.y[c] + l);
            vdouble term = a * (block.x[c] - y) + b * y;
            // a lane past the end has weight zero, but zero times an infinite neighbour is NaN
            grad[c] += lane_numbers<double>() < int64_t(count - l) ? term : vdouble{};
          }
        }
      }
    }
    for (int c = 0; c < dim; ++c) args.grad_x[i * dim + c] = T(sum(grad[c]) * args.metric[c]);
  }
}

template <class T>
using RangeFunction = void (*)(const InvariantsArgs<T>&, int64_t, int64_t);

template <class T>
using RangeFunction = void (*)(const InvariantsArgs<T>&, int64_t, int64_t);

template <class T>
RangeFunction<T> choose(const InvariantsArgs<T>& args, bool forward) {
  return with_dimension(args.dim, [&](auto dim) -> RangeFunction<T> {
    if (forward) return args.psi ? forward_range<dim, true, T> : forward_range<dim, false, T>;
    return args.psi ? backward_range<dim, true, T> : backward_range<dim, false, T>;
  });
}

}  // namespace

template <class Isa, class T>
void InvariantsCpu<Isa, T>::forward(const InvariantsArgs<T>& args, int64_t begin, int64_t end) {
  choose(args, true)(args, begin, end);
}
template <class Isa, class T>
void InvariantsCpu<Isa, T>::backward(const InvariantsArgs<T>& args, int64_t begin, int64_t end) {
  choose(args, false)(args, begin, end);
}

template struct InvariantsCpu<EK_ISA, float>;
template struct InvariantsCpu<EK_ISA, double>;

}  // namespace ek
