// What a block of edges passes back to the points at both ends: through the coordinates' update, and through the
// invariants. Edges are lanes.
#pragma once

#include "edges.h"

namespace ek {
namespace {

template <class X>
struct PointGradient {
  using Lanes = typename Geometry<X>::Lanes;

  Lanes to_receiver[kMessageDim], to_sender[kMessageDim];
  double carry[kMessageDim] = {};  // the receiver whose edges are spread over blocks

  void clear(int dim) {
    for (int c = 0; c < dim; ++c)
      for (int e = 0; e < kEdges; ++e) to_receiver[c][e] = to_sender[c][e] = 0;
  }

  // Through X = sum clamp(t d): the gradient of t, and what d passes on to x. Edges are lanes.
  template <class T>
  void through_update(const MessageArgs<T, X>& args, const EdgeBlock& block, Geometry<X>& geometry, const T* t_rows,
                      T* grad_t) {
    const int dim = args.dim;
    Lanes t, grad_y[kMessageDim], sum = {};
    for (int e = 0; e < kEdges; ++e) t[e] = t_rows[e];
    for (int c = 0; c < dim; ++c) {
      double *const g = grad_y[c], *const d = geometry.direction[c];
      for (int k = 0; k < block.segments; ++k) {
        const Segment& segment = block.segment[k];
        double seed = args.grad_coordinates[segment.receiver * dim + c];
        if (args.mean_coordinates) seed /= segment.degree;
        for (int e = segment.begin, end = segment.end; e < end; ++e) g[e] = seed;
      }
      for (int e = block.count; e < kEdges; ++e) g[e] = 0;
      if (args.clamp < __builtin_inf()) {
        const double bound = args.clamp;
        for (int e = 0; e < kEdges; ++e) g[e] = __builtin_fabs(t[e] * d[e]) <= bound ? g[e] : 0.0;
      }
      for (int e = 0; e < kEdges; ++e) sum[e] += g[e] * d[e];
    }
    for (int e = 0; e < kEdges; ++e) grad_t[e] = T(sum[e]);
    if (!args.grad_x) return;
    if (args.direction == Direction::sender) {
      for (int c = 0; c < dim; ++c)
        for (int e = 0; e < kEdges; ++e) to_sender[c][e] = grad_y[c][e] * t[e];
      return;
    }
    if (has_norm(args.direction)) {
      Lanes along = {};  // what the norm itself passes on
      if (args.direction == Direction::normed)
        for (int e = 0; e < kEdges; ++e) {
          const double root = geometry.norm[e] - args.norm_offset;
          along[e] = root == 0 ? 0.0 : sum[e] / root;
        }
      for (int c = 0; c < dim; ++c)
        for (int e = 0; e < kEdges; ++e)
          grad_y[c][e] = grad_y[c][e] / geometry.norm[e] - along[e] * args.metric[c] * geometry.direction[c][e];
    }
    // of a self-loop x_i - x_j is 0, whatever x: no gradient, even over a small norm
    for (int e = 0; e < block.count; ++e)
      if (block.sender[e] == block.receiver[e])
        for (int c = 0; c < dim; ++c) grad_y[c][e] = 0;
    for (int c = 0; c < dim; ++c)
      for (int e = 0; e < kEdges; ++e) {
        to_receiver[c][e] = grad_y[c][e] * t[e];
        to_sender[c][e] = -to_receiver[c][e];
      }
  }

  // From the gradient g of an invariant, 0 the interval, 1 the product.
  template <class T>
  void through_invariant(const MessageArgs<T, X>& args, const Geometry<X>& geometry, int which, const T* g) {
    const double* z = which == 0 ? geometry.interval : geometry.product;
    Lanes slope;
    for (int e = 0; e < kEdges; ++e) slope[e] = args.psi ? g[e] / (1.0 + __builtin_fabs(z[e])) : double(g[e]);
    for (int d = 0; d < args.dim; ++d) {
      const double *const xi = geometry.receiver[d], *const xj = geometry.sender[d], eta = args.metric[d];
      double *const gi = to_receiver[d], *const gj = to_sender[d];
      for (int e = 0; e < kEdges; ++e) {
        const double scale = slope[e] * eta, difference = 2.0 * scale * (xi[e] - xj[e]);
        gi[e] += which == 0 ? difference : scale * xj[e];
        gj[e] += which == 0 ? -difference : scale * xi[e];
      }
    }
  }

  // The block's sum of each receiver, written when complete; what senders get, to rows from node `low` on.
  template <class T>
  void add(const MessageArgs<T, X>& args, const EdgeBlock& block, double* partial, int64_t low) {
    const int dim = args.dim;
    sum_points(block, to_receiver, dim, false, carry, args.grad_x);
    for (int e = 0; e < block.count; ++e) {
      double* to = partial + (block.sender[e] - low) * dim;
      for (int c = 0; c < dim; ++c) to[c] += to_sender[c][e];
    }
  }
};

}  // namespace
}  // namespace ek
