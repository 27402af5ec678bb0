#include "moments.h"

#include "../core/isa.h"
#include "block.h"

namespace ek {
namespace {

// Complete graphs: lanes are edges of one node.

// The event of each node, in turn.
template <class T>
struct Walk {
  const MomentsArgs<T>& args;
  int64_t event;

  Walk(const MomentsArgs<T>& a, int64_t begin, int64_t end)
      : args(a), event(begin < end ? a.graph.event_of(begin) : 0) {}
  // To be called with ascending nodes.
  void enter(int64_t i) {
    while (i >= args.graph.ptr[event + 1]) ++event;
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
    vdouble sum0{}, sum1{}, gram[3] = {};
    over_row(args, block, args.graph.received(i, walk.event),
             [&](int64_t, int, int, auto live, vdouble interval, vdouble product) {
               const vdouble s0 = live ? squash(interval, args.psi) : vdouble{};
               const vdouble s1 = live ? squash(product, args.psi) : vdouble{};
               sum0 += s0;
               sum1 += s1;
               gram[0] += s0 * s0;
               gram[1] += s0 * s1;
               gram[2] += s1 * s1;
             });
    // s is symmetric, and every edge has its reverse: both sides add up to the same.
    out[0] = out[2] = sum(sum0);
    out[1] = out[3] = sum(sum1);
    for (int c = 0; c < 3; ++c) out[4 + c] = sum(gram[c]);
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
    // The two edges between i and j are met together.
    const Row row = args.graph.received(i, walk.event);
    over_row(args, block, row, [&](int64_t k, int l, int count, auto live, vdouble interval, vdouble product) {
      vdouble table[kMoments] = {};
      for (int w = 0; w < W && l + w < count; ++w) {
        const double* other = args.grad_out + row.node(k + l + w) * kMoments;
        for (int c = 0; c < kMoments; ++c) table[c][w] = other[c];
      }
      const vdouble s0 = squash(interval, args.psi), s1 = squash(product, args.psi);
      // i receives
      vdouble g0 = own[0] + table[2] + 2.0 * own[4] * s0 + own[5] * s1;
      vdouble g1 = own[1] + table[3] + own[5] * s0 + 2.0 * own[6] * s1;
      // i sends
      g0 += own[2] + table[0] + 2.0 * table[4] * s0 + table[5] * s1;
      g1 += own[3] + table[1] + table[5] * s0 + 2.0 * table[6] * s1;
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
    for (int c = 0; c < args.dim; ++c) args.grad_x[i * args.dim + c] = T(sum(grad[c]) * args.metric[c]);
  }
}

// CSR graphs: nodes may have an edge or two, so lanes are slots, of whichever nodes. What a slot brings is then added
// to its node's sums in the order of slots, which does not depend on the lanes.
constexpr int kSlots = 64;  // at a time
constexpr int kNodes = 64;  // at a time, in the backward pass

struct Slots {
  int count;
  int64_t owner[kSlots], other[kSlots];
  alignas(64) double x[kMaxDim][kSlots], y[kMaxDim][kSlots];  // of owner and other; 0 up to the next whole vector

  int vectors() const { return (count + W - 1) / W * W; }
  template <bool kCompensated>
  void products(int l, const double* metric, int dim, vdouble& interval, vdouble& product) const {
    vdouble a[kMaxDim], b[kMaxDim];
    for (int c = 0; c < dim; ++c) {
      a[c] = load(x[c] + l);
      b[c] = load(y[c] + l);
    }
    interval_and_product<kCompensated, vdouble, VectorFma>(a, b, metric, dim, interval, product);
  }
};

// body(slots) for the slots of the nodes [begin, end) on one side, kSlots at a time.
template <class T, class F>
inline void over_slots(const MomentsArgs<T>& args, const Side& side, int64_t begin, int64_t end, F&& body) {
  Slots slots;
  int64_t owner = begin;
  for (int64_t first = side.ptr[begin], last = side.ptr[end]; first < last; first += kSlots) {
    slots.count = last - first < kSlots ? int(last - first) : kSlots;
    for (int l = 0; l < slots.count; ++l) {
      while (first + l >= side.ptr[owner + 1]) ++owner;
      slots.owner[l] = owner;
      slots.other[l] = side.other[first + l];
      for (int c = 0; c < args.dim; ++c) {
        slots.x[c][l] = args.x[owner * args.dim + c];
        slots.y[c][l] = args.x[slots.other[l] * args.dim + c];
      }
    }
    for (int l = slots.count; l < slots.vectors(); ++l)
      for (int c = 0; c < args.dim; ++c) slots.x[c][l] = slots.y[c][l] = 0;
    body(slots);
  }
}

template <class T>
void forward_slots(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  alignas(64) double s0[kSlots], s1[kSlots];
  for (int64_t at = begin * kMoments; at < end * kMoments; ++at) args.out[at] = 0;
  for (int side = 0; side < 2; ++side)
    over_slots(args, side == 0 ? args.graph.in : args.graph.out, begin, end, [&](const Slots& slots) {
      for (int l = 0; l < slots.vectors(); l += W) {
        vdouble interval, product;
        slots.products<sizeof(T) == 8>(l, args.metric, args.dim, interval, product);
        store(s0 + l, squash(interval, args.psi));
        store(s1 + l, squash(product, args.psi));
      }
      for (int l = 0; l < slots.count; ++l) {
        double* out = args.out + slots.owner[l] * kMoments;
        out[2 * side] += s0[l];
        out[2 * side + 1] += s1[l];
        if (side == 1) continue;
        out[4] += s0[l] * s0[l];
        out[5] += s0[l] * s1[l];
        out[6] += s1[l] * s1[l];
      }
    });
}

template <class T>
void backward_slots(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  // Of each slot's edge: the gradients of s_0 and s_1 are base + square s + mixed s of the other.
  alignas(64) double base[2][kSlots], square[2][kSlots], mixed[kSlots], term[kMaxDim][kSlots];
  for (int64_t first = begin; first < end; first += kNodes) {
    const int64_t last = end - first < kNodes ? end : first + kNodes;
    double total[kNodes][kMaxDim] = {};
    for (int side = 0; side < 2; ++side)
      over_slots(args, side == 0 ? args.graph.in : args.graph.out, first, last, [&](const Slots& slots) {
        for (int l = 0; l < slots.vectors(); ++l) {
          if (l >= slots.count) {
            base[0][l] = base[1][l] = square[0][l] = square[1][l] = mixed[l] = 0;
            continue;
          }
          const double* receiver = args.grad_out + (side == 0 ? slots.owner : slots.other)[l] * kMoments;
          const double* sender = args.grad_out + (side == 0 ? slots.other : slots.owner)[l] * kMoments;
          for (int s = 0; s < 2; ++s) {
            base[s][l] = receiver[s] + sender[2 + s];
            square[s][l] = 2.0 * receiver[4 + 2 * s];
          }
          mixed[l] = receiver[5];
        }
        for (int l = 0; l < slots.vectors(); l += W) {
          vdouble interval, product;
          slots.products<sizeof(T) == 8>(l, args.metric, args.dim, interval, product);
          const vdouble s0 = squash(interval, args.psi), s1 = squash(product, args.psi);
          vdouble g0 = load(base[0] + l) + load(square[0] + l) * s0 + load(mixed + l) * s1;
          vdouble g1 = load(base[1] + l) + load(mixed + l) * s0 + load(square[1] + l) * s1;
          if (args.psi) {
            g0 = g0 / (1.0 + abs(interval));
            g1 = g1 / (1.0 + abs(product));
          }
          for (int c = 0; c < args.dim; ++c) {
            const vdouble y = load(slots.y[c] + l);
            store(term[c] + l, 2.0 * g0 * (load(slots.x[c] + l) - y) + g1 * y);
          }
        }
        for (int l = 0; l < slots.count; ++l)
          for (int c = 0; c < args.dim; ++c) total[slots.owner[l] - first][c] += term[c][l];
      });
    for (int64_t i = first; i < last; ++i)
      for (int c = 0; c < args.dim; ++c) args.grad_x[i * args.dim + c] = T(total[i - first][c] * args.metric[c]);
  }
}

}  // namespace

template <class Isa, class T>
void MomentsCpu<Isa, T>::forward(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  args.graph.complete() ? forward_range(args, begin, end) : forward_slots(args, begin, end);
}
template <class Isa, class T>
void MomentsCpu<Isa, T>::backward(const MomentsArgs<T>& args, int64_t begin, int64_t end) {
  args.graph.complete() ? backward_range(args, begin, end) : backward_slots(args, begin, end);
}

template struct MomentsCpu<EK_ISA, float>;
template struct MomentsCpu<EK_ISA, double>;

}  // namespace ek
