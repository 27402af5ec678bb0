// Blocks of edges: kEdges consecutive edges in the receivers' order, taken across receivers, so that no lane and no
// row of a register tile is lost to rows of odd lengths; and their geometry, in float64, edges as lanes.
#pragma once

#include "../../core/graph.h"
#include "../../core/minkowski.h"
#include "../../simd/dense.h"
#include "../../simd/vector_fma.h"
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
  static constexpr int kAhead = 8;  // entries written at a time, and so past the last edge

  int count = 0, segments = 0;
  Segment segment[kEdges];
  int64_t sender[kEdges], edge[kEdges], receiver[kEdges + kAhead];
  // Of short rows only: what of a sum goes on at an edge, all bits or, at a receiver's first edge, none.
  int64_t keep[kEdges], degree[kEdges + kAhead];
  bool sparse = false;

  // Where rows are a few edges long, loops over each are mispredicted: sums are then formed and written edge by edge,
  // the last of a receiver last.
  bool short_rows() const { return sparse && 4 * segments > count; }
};

// Walks the edges of the receivers [begin, end).
class EdgeCursor {
 public:
  EdgeCursor(const GraphView& graph, int64_t begin, int64_t end) : graph_(graph), node_(begin), end_(end) {
    if (begin >= end) return;
    if (!graph.complete()) {
      slot_ = graph.in.ptr[begin];
      return;
    }
    event_ = graph.event_of(begin);
    row_ = graph.received(begin, event_);
  }

  // Inlined into a kernel, its loops over a few edges would be vectorized, at a loss.
  __attribute__((noinline)) bool next(EdgeBlock& block) {
    block.count = block.segments = 0;
    if (!graph_.complete()) return next_sparse(block);
    while (node_ < end_ && block.count < kEdges) {
      const int64_t left = row_.count - slot_;
      const int take = left < kEdges - block.count ? int(left) : kEdges - block.count;
      if (take > 0) {
        for (int k = 0; k < take; ++k) {
          block.sender[block.count + k] = row_.node(slot_ + k);
          block.edge[block.count + k] = row_.edge(slot_ + k);
          block.receiver[block.count + k] = node_;
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
  // Nothing here depends on how long a row is, which could not be foreseen.
  bool next_sparse(EdgeBlock& block) {
    block.sparse = true;
    if (node_ >= end_) return false;
    const int64_t *const ptr = graph_.in.ptr, first = slot_, left = ptr[end_] - first;
    const int count = left < kEdges ? int(left) : kEdges;
    for (int k = 0; k < count; ++k) block.sender[k] = graph_.in.other[first + k];
    for (int k = 0; k < count; ++k) block.edge[k] = graph_.in.edge[first + k];
    for (int64_t& keep : block.keep) keep = -1;
    int at = 0, segments = 0;
    while (at < count) {
      const int64_t begin = ptr[node_], end = ptr[node_ + 1], here = first + at;
      const int take = end - here < count - at ? int(end - here) : count - at;
      const bool closes = here + take == end;
      block.segment[segments] = {at, at + take, node_, end - begin, here == begin, closes};
      block.keep[at] = here == begin ? 0 : -1;
      for (int k = 0; k < EdgeBlock::kAhead; ++k) block.receiver[at + k] = node_;
      for (int k = 0; k < EdgeBlock::kAhead; ++k) block.degree[at + k] = end - begin;
      for (int k = EdgeBlock::kAhead; k < take; ++k) {
        block.receiver[at + k] = node_;
        block.degree[at + k] = end - begin;
      }
      segments += take > 0;
      node_ += closes;
      at += take;
    }
    slot_ = first + count;
    block.count = count;
    block.segments = segments;
    return count > 0;
  }

  void advance() {
    slot_ = 0;
    if (++node_ >= end_) return;
    while (node_ >= graph_.ptr[event_ + 1]) ++event_;
    row_ = graph_.received(node_, event_);
  }

  const GraphView& graph_;
  int64_t node_, end_, event_ = 0;
  int64_t slot_ = 0;  // next edge: of the row; of a sparse graph, of all rows
  Row row_;           // complete graphs
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
    for (int e = 0; e < block.count; ++e) {
      const X *xi = args.x + block.receiver[e] * dim, *xj = args.x + block.sender[e] * dim;
      for (int c = 0; c < dim; ++c) {
        receiver[c][e] = xi[c];
        sender[c][e] = xj[c];
      }
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
      interval_and_product<sizeof(X) == 8, vdouble, VectorFma>(a, b, args.metric, args.dim, square, dot);
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
    const double inside = args.norm_inside, offset = args.norm_offset;
    for (int e = 0; e < kEdges; ++e) norm[e] = __builtin_sqrt(interval[e] + inside) + offset;
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

// Sums of edges' points [dim][kEdges] at their receivers, written when complete; carry: of the last receiver so far.
template <class X>
inline void sum_points(const EdgeBlock& block, const double (*points)[kEdges], int dim, bool mean, double* carry,
                       X* table) {
  if (block.short_rows()) {
    for (int c = 0; c < dim; ++c) {
      double sum = carry[c];
      for (int e = 0; e < block.count; ++e) {
        sum = points[c][e] + (block.keep[e] ? sum : 0.0);
        table[block.receiver[e] * dim + c] = X(mean ? sum / block.degree[e] : sum);
      }
      carry[c] = sum;
    }
    return;
  }
  for (int s = 0; s < block.segments; ++s) {
    const Segment& segment = block.segment[s];
    for (int c = 0; c < dim; ++c) {
      double sum = segment.opens ? 0.0 : carry[c];
      for (int e = segment.begin; e < segment.end; ++e) sum += points[c][e];
      carry[c] = sum;
      if (segment.closes) table[segment.receiver * dim + c] = X(mean ? sum / segment.degree : sum);
    }
  }
}

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
  sum_points(block, geometry.direction, args.dim, args.mean_coordinates, carry, args.coordinates);
}

}  // namespace
}  // namespace ek
