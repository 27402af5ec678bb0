// Blocks of edges: kEdges consecutive edges in the receivers' order, taken across receivers, so that no lane and no
// row of a register tile is lost to rows of odd lengths; and their geometry, in float64, edges as lanes.
#pragma once

#include "../common/dense.h"
#include "../common/graph.h"
#include "../common/minkowski.h"
#include "message.h"

namespace ek {
namespace {

constexpr int kEdges = 48;
static_assert(kEdges % kTile == 0 && kEdges % kHalfTile == 0 && kEdges % lanes<float> == 0);

// Edges of a block with one receiver.
struct Segment {
  int begin, end;  // edges of the block
  int64_t receiver;
  int64_t degree;      // edges the receiver has in all
  bool opens, closes;  // holds the receiver's first edge, its last
};

struct EdgeBlock {
  int count = 0, segments = 0;
  Segment segment[kEdges];
  int64_t sender[kEdges], edge[kEdges];
};

// Walks the edges of the receivers [begin, end).
class EdgeCursor {
 public:
  EdgeCursor(const GraphView& graph, int64_t begin, int64_t end) : graph_(graph), node_(begin), end_(end) {
    if (begin >= end) return;
    event_ = graph.complete() ? graph.event_of(begin) : 0;
    row_ = graph.received(begin, event_);
  }

  // Inlined into a kernel, its loops over a few edges would be vectorized, at a loss.
  __attribute__((noinline)) bool next(EdgeBlock& block) {
    block.count = block.segments = 0;
    while (node_ < end_ && block.count < kEdges) {
      const int64_t left = row_.count - slot_;
      const int take = left < kEdges - block.count ? int(left) : kEdges - block.count;
      if (take > 0) {
        for (int k = 0; k < take; ++k) {
          block.sender[block.count + k] = row_.node(slot_ + k);
          block.edge[block.count + k] = row_.edge(slot_ + k);
        }
        block.segment[block.segments++] = {block.count, block.count + take, node_,
                                           row_.count,  slot_ == 0,         take == left};
        block.count += take;
        slot_ += take;
      }
      if (slot_ == row_.count) advance();
    }
    return block.count > 0;
  }

 private:
  void advance() {
    slot_ = 0;
    if (++node_ >= end_) return;
    while (graph_.complete() && node_ >= graph_.ptr[event_ + 1]) ++event_;
    row_ = graph_.received(node_, event_);
  }

  const GraphView& graph_;
  int64_t node_, end_, event_ = 0, slot_ = 0;
  Row row_;
};

struct DoubleFma {
  static inline vdouble apply(vdouble a, vdouble b, vdouble c) { return fma(a, b, c); }
};

// Four-vectors at both ends of a block's edges, and what the messages need of them. Lanes past the block's last edge
// hold numbers of no meaning.
template <class X>
struct Geometry {
  static constexpr int W = lanes<double>;
  using Lanes = double[kEdges];

  Lanes receiver[kMessageDim] = {}, sender[kMessageDim] = {};
  Lanes interval = {}, product = {};
  Lanes direction[kMessageDim] = {};  // d_ij
  Lanes norm = {};                    // what x_i - x_j is divided by in d_ij, if it is

  template <class T>
  void load_edges(const MessageArgs<T, X>& args, const EdgeBlock& block) {
    const int dim = args.dim;
    for (int s = 0; s < block.segments; ++s) {
      const Segment& segment = block.segment[s];
      for (int c = 0; c < dim; ++c) {
        const double x = args.x[segment.receiver * dim + c];
        for (int e = segment.begin; e < segment.end; ++e) receiver[c][e] = x;
      }
    }
    for (int e = 0; e < block.count; ++e) {
      const X* x = args.x + block.sender[e] * dim;
      for (int c = 0; c < dim; ++c) sender[c][e] = x[c];
    }
  }

  // Products exactly as the invariants op forms them.
  template <class T>
  void products(const MessageArgs<T, X>& args) {
    for (int e = 0; e < kEdges; e += W) {
      vdouble a[kMessageDim], b[kMessageDim], square, dot;
      for (int c = 0; c < args.dim; ++c) {
        a[c] = load(receiver[c] + e);
        b[c] = load(sender[c] + e);
      }
      interval_and_product<sizeof(X) == 8, vdouble, DoubleFma>(a, b, args.metric, args.dim, square, dot);
      store(interval + e, square);
      store(product + e, dot);
    }
  }

  template <class T>
  static void finish(const double* in, bool psi, T* out) {
    X z[kEdges];
    for (int e = 0; e < kEdges; ++e) z[e] = X(in[e]);
    if (psi)
      for (int e = 0; e < kEdges; e += lanes<X>) {
        const Vec<X> v = load(z + e);
        store(z + e, copysign(log1p_of<X>(abs(v)), v));
      }
    for (int e = 0; e < kEdges; ++e) out[e] = T(z[e]);
  }

  // s_ij as rows [invariant][edge].
  template <class T>
  void invariants(const MessageArgs<T, X>& args, T* out) {
    if (args.interval) finish(interval, args.psi, out);
    if (args.product) finish(product, args.psi, out + (args.interval ? kEdges : 0));
  }

  bool has_norm(Direction kind) const { return kind == Direction::detached_unit || kind == Direction::norm_plus_one; }

  template <class T>
  void directions(const MessageArgs<T, X>& args) {
    if (args.direction == Direction::sender) {
      for (int c = 0; c < args.dim; ++c)
        for (int e = 0; e < kEdges; ++e) direction[c][e] = sender[c][e];
      return;
    }
    for (int c = 0; c < args.dim; ++c)
      for (int e = 0; e < kEdges; e += W) store(direction[c] + e, load(receiver[c] + e) - load(sender[c] + e));
    if (!has_norm(args.direction)) return;
    const double offset = args.direction == Direction::detached_unit ? args.epsilon : 1.0;
    for (int e = 0; e < kEdges; ++e) norm[e] = __builtin_sqrt(interval[e]) + offset;
    for (int c = 0; c < args.dim; ++c)
      for (int e = 0; e < kEdges; e += W) store(direction[c] + e, load(direction[c] + e) / load(norm + e));
  }

  template <class T>
  void prepare(const MessageArgs<T, X>& args, const EdgeBlock& block, bool coordinates, T* invariant_rows) {
    if (!coordinates && args.invariants() == 0) return;
    load_edges(args, block);
    if (args.invariants() > 0 || has_norm(args.direction)) products(args);
    invariants(args, invariant_rows);
    if (coordinates) directions(args);
  }
};

// Adds clamp(t d) to the receivers, edge by edge, and writes those that are complete.
template <class T, class X>
inline void aggregate_coordinates(const MessageArgs<T, X>& args, const EdgeBlock& block, Geometry<X>& geometry,
                                  const T* t, double* carry) {
  const vdouble bound = splat(args.clamp);
  for (int c = 0; c < args.dim; ++c) {
    double* y = geometry.direction[c];
    for (int e = 0; e < kEdges; ++e) y[e] *= t[e];
    for (int e = 0; e < kEdges; e += lanes<double>) store(y + e, max_of(-bound, min_of(bound, load(y + e))));
  }
  for (int s = 0; s < block.segments; ++s) {
    const Segment& segment = block.segment[s];
    for (int c = 0; c < args.dim; ++c) {
      double sum = segment.opens ? 0.0 : carry[c];
      for (int e = segment.begin; e < segment.end; ++e) sum += geometry.direction[c][e];
      carry[c] = sum;
      if (segment.closes)
        args.coordinates[segment.receiver * args.dim + c] = X(args.mean_coordinates ? sum / segment.degree : sum);
    }
  }
}

}  // namespace
}  // namespace ek
