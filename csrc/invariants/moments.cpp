#include "moments.h"

#include "../core/isa.h"
#include "block.h"

namespace ek {
namespace {

template <class T>
struct Walk {
  const MomentsArgs<T>& args;
  int64_t event;

  Walk(const MomentsArgs<T>& a, int64_t begin, int64_t end)
      : args(a), event(a.graph.complete() && begin < end ? a.graph.event_of(begin) : 0) {}
  // To be called with ascending nodes.
  void enter(int64_t i) {
    while (args.graph.complete() && i >= args.graph.ptr[event + 1]) ++event;
  }
};

inline vdouble squash(vdouble z, bool psi) { return psi ? copysign(log1p_of<double>(abs(z)), z) : z; }

// Calls body(l, live, s0, s1) for each vector of edges of a row; live is false in lanes past its end.
template <class T, class F>
inline void over_row(const MomentsArgs<T>& args, Block<kMaxDim>& block, const Row& row, F&& body) {
  for (int64_t k = 0; k < row.count; k += kBlock) {
    const int count = row.count - k < kBlock ? int(row.count - k) : kBlock;
    block.load_neighbours(args.x, row, k, count, args.dim);
    block.template products<sizeof(T) == 8>(args.metric, args.dim);
    for (int l = 0; l < count; l += W)
      body(k, l, count, lane_numbers<double>() < int64_t(count - l), load(block.interval + l), load(block.product + l));
  }
}

template <class T>
void forward_range(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  Block<kMaxDim> block;
  Walk<T> walk(args, begin, end);
  for (int64_t i = begin; i < end; ++i) {
    walk.enter(i);
    block.load_node(args.x + i * args.dim, args.dim);
    double* out = args.out + i * kMoments;
    for (int side = 0; side < 2; ++side) {
      // s is symmetric: where every edge has its reverse, both sides add up to the same.
      if (side == 1 && args.graph.complete()) {
        out[2] = out[0];
        out[3] = out[1];
        break;
      }
      vdouble sum0{}, sum1{}, gram[3] = {};
      const Row row = side == 0 ? args.graph.received(i, walk.event) : args.graph.sent(i, walk.event);
      over_row(args, block, row, [&](int64_t, int, int, auto live, vdouble interval, vdouble product) {
        const vdouble s0 = live ? squash(interval, args.psi) : vdouble{};
        const vdouble s1 = live ? squash(product, args.psi) : vdouble{};
        sum0 += s0;
        sum1 += s1;
        gram[0] += s0 * s0;
        gram[1] += s0 * s1;
        gram[2] += s1 * s1;
      });
      out[2 * side] = sum(sum0);
      out[2 * side + 1] = sum(sum1);
      if (side == 0)
        for (int c = 0; c < 3; ++c) out[4 + c] = sum(gram[c]);
    }
  }
}

// The cotangent of s of an edge j -> i is  R_i + T_j + ds of the Gram entries of i,  R, T the cotangents of the sums
// over received and sent edges; grad_x then follows as in invariants.cpp.
template <class T>
void backward_range(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  Block<kMaxDim> block;
  Walk<T> walk(args, begin, end);
  for (int64_t i = begin; i < end; ++i) {
    walk.enter(i);
    block.load_node(args.x + i * args.dim, args.dim);
    const double* own = args.grad_out + i * kMoments;
    vdouble grad[kMaxDim] = {};
    // In a complete graph the two edges between i and j are met together, and the second side has nothing left.
    const bool both = args.graph.complete();
    for (int side = 0; side < (both ? 1 : 2); ++side) {
      const Row row = side == 0 ? args.graph.received(i, walk.event) : args.graph.sent(i, walk.event);
      over_row(args, block, row, [&](int64_t k, int l, int count, auto live, vdouble interval, vdouble product) {
        vdouble table[kMoments] = {};
        for (int w = 0; w < W && l + w < count; ++w) {
          const double* other = args.grad_out + row.node(k + l + w) * kMoments;
          for (int c = 0; c < kMoments; ++c) table[c][w] = other[c];
        }
        const vdouble s0 = squash(interval, args.psi), s1 = squash(product, args.psi);
        vdouble g0{}, g1{};
        if (both || side == 0) {  // i receives
          g0 += own[0] + table[2] + 2.0 * own[4] * s0 + own[5] * s1;
          g1 += own[1] + table[3] + own[5] * s0 + 2.0 * own[6] * s1;
        }
        if (both || side == 1) {  // i sends
          g0 += own[2] + table[0] + 2.0 * table[4] * s0 + table[5] * s1;
          g1 += own[3] + table[1] + table[5] * s0 + 2.0 * table[6] * s1;
        }
        if (args.psi) {
          g0 = g0 / (1.0 + abs(interval));
          g1 = g1 / (1.0 + abs(product));
        }
        for (int c = 0; c < args.dim; ++c) {
          const vdouble y = load(block.y[c] + l);
          const vdouble term = 2.0 * g0 * (block.x[c] - y) + g1 * y;
          grad[c] += live ? term : vdouble{};
        }
      });
    }
    for (int c = 0; c < args.dim; ++c) args.grad_x[i * args.dim + c] = T(sum(grad[c]) * args.metric[c]);
  }
}

}  // namespace

template <class Isa, class T>
void MomentsCpu<Isa, T>::forward(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  forward_range(args, begin, end);
}
template <class Isa, class T>
void MomentsCpu<Isa, T>::backward(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  backward_range(args, begin, end);
}

template struct MomentsCpu<EK_ISA, float>;
template struct MomentsCpu<EK_ISA, double>;

}  // namespace ek
