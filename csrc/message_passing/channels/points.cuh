// What an edge passes back to the points at both ends: through the coordinates' update, and through the invariants.
#pragma once

#include "tile.cuh"

namespace ek {
namespace {

// Gradients of the steps y = clamp(t d) of one edge, 0 where the clamp bites.
template <int kDim, class X>
struct StepGradient {
  double norm, d[kDim] = {}, g[kDim] = {}, of_t = 0;

  __device__ StepGradient(const MessageArgs<float, X>& args, const Pair<kDim, X>& pair, int64_t receiver,
                          int64_t degree, double t)
      : norm(pair.norm(args)) {
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
      if (c >= args.dim) continue;
      d[c] = pair.direction(args.direction, norm, c);
      g[c] = args.grad_coordinates[receiver * args.dim + c];
      if (args.mean_coordinates) g[c] /= double(degree);
      if (args.clamp < __builtin_inf() && !(fabs(t * d[c]) <= args.clamp)) g[c] = 0;
      of_t += g[c] * d[c];
    }
  }
};

// rows.factor: from t before its tanh, to the gradient of it; t stays in t. A whole warp calls it.
template <class X>
__device__ inline void through_steps(const MessageArgs<float, X>& args, bool receiving, TileRows& rows, float* t) {
  __syncwarp();
  const int r = lane();
  if (r < kRows) {
    const float value = args.head_tanh ? tanhf(rows.factor[r]) : rows.factor[r];
    t[r] = value;
    float grad = 0.f;
    if (rows.owner[r] >= 0)
      with_room(args.dim, [&](auto dim) {
        const int64_t i = receiving ? rows.owner[r] : rows.other[r];
        const Pair<dim, X> pair(args, i, receiving ? rows.other[r] : rows.owner[r]);
        grad = float(StepGradient<dim, X>(args, pair, i, rows.degree[r], value).of_t);
      });
    rows.factor[r] = args.head_tanh ? grad * (1.f - value * value) : grad;
  }
  __syncwarp();
}

// The gradient of the owner's point of each edge, in rows of kMessageDim. slopes: the gradients of s_ij. A whole warp
// calls it.
template <class X>
__device__ inline void find_points(const MessageArgs<float, X>& args, bool receiving, const TileRows& rows, bool head,
                                   const float* t, const float (*slopes)[kRows], double* points) {
  __syncwarp();
  const int r = lane();
  if (r < kRows && rows.owner[r] >= 0)
    with_room(args.dim, [&](auto dim) {
      const int64_t i = receiving ? rows.owner[r] : rows.other[r], j = receiving ? rows.other[r] : rows.owner[r];
      const Pair<dim, X> pair(args, i, j);
      double sum[dim] = {};
      if (head) {
        const StepGradient<dim, X> step(args, pair, i, rows.degree[r], t[r]);
        double along = 0;  // what the norm itself passes on
        const double root = step.norm - args.norm_offset;
        if (args.direction == Direction::normed && root != 0) along = step.of_t / root;
#pragma unroll
        for (int c = 0; c < dim; ++c) {
          if (args.direction == Direction::sender)
            sum[c] = receiving ? 0.0 : step.g[c] * t[r];
          else if (i != j)  // of a self-loop x_i - x_j is 0, whatever x: no gradient, even over a small norm
            sum[c] = (step.g[c] / step.norm - along * args.metric[c] * step.d[c]) * t[r] * (receiving ? 1.0 : -1.0);
        }
      }
      double interval = args.interval ? slopes[0][r] : 0.0, product = args.product ? slopes[args.interval][r] : 0.0;
      if (args.psi) {
        interval /= 1.0 + fabs(pair.interval);
        product /= 1.0 + fabs(pair.product);
      }
#pragma unroll
      for (int c = 0; c < dim; ++c) {
        const double between = pair.receiver[c] - pair.sender[c];
        if (args.interval) sum[c] += 2.0 * interval * args.metric[c] * (receiving ? between : -between);
        if (args.product) sum[c] += product * args.metric[c] * (receiving ? pair.sender[c] : pair.receiver[c]);
        points[r * kMessageDim + c] = sum[c];
      }
    });
  __syncwarp();
}

}  // namespace
}  // namespace ek
