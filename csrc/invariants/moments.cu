// A warp or a team of lanes per node, as in invariants.cu; the sums are those of moments.cpp.
#include <cuda_runtime.h>

#include "../core/dimension.h"
#include "../core/launch.cuh"
#include "device.cuh"
#include "moments.h"

namespace ek {
namespace {

template <int kDim, class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(MomentsArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x);
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    double x[kDim] = {}, y[kDim] = {};  // zero beyond dim, as the metric is
    load_node<kDim>(wide, args.x + i * dim, dim, x);
    double* out = args.out + i * kMoments;
    // s is symmetric: where every edge has its reverse, both sides add up to the same.
    for (int side = 0; side < (g.complete() ? 1 : 2); ++side) {
      double sum[2] = {}, gram[3] = {};
      const Row row = side == 0 ? g.received(i, event) : g.sent(i, event);
      for (int64_t k = there ? nth : row.count; k < row.count; k += team) {
        load_node<kDim>(wide, args.x + row.node(k) * dim, dim, y);
        double s0, s1;
        invariants_of<kDim, T>(x, y, args.metric, s0, s1);
        if (args.psi) {
          s0 = psi(s0);
          s1 = psi(s1);
        }
        sum[0] += s0;
        sum[1] += s1;
        gram[0] += s0 * s0;
        gram[1] += s0 * s1;
        gram[2] += s1 * s1;
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const double total = team_sum(sum[c], team);
        if (!there || nth != 0) continue;
        out[2 * side + c] = total;
        if (g.complete()) out[2 + c] = total;
      }
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const double total = team_sum(gram[c], team);
        if (there && nth == 0 && side == 0) out[4 + c] = total;
      }
    }
  });
}

// What an edge adds to the cotangents g0, g1 of its invariants s0, s1: its receiver's and its sender's rows of
// grad_out.
__device__ inline void add_cotangents(const double* receiver, const double* sender, double s0, double s1, double& g0,
                                      double& g1) {
  g0 += receiver[0] + sender[2] + 2.0 * receiver[4] * s0 + receiver[5] * s1;
  g1 += receiver[1] + sender[3] + receiver[5] * s0 + 2.0 * receiver[6] * s1;
}

template <int kDim, class T>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(MomentsArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x);
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    double x[kDim] = {}, y[kDim] = {}, grad[kDim] = {};
    load_node<kDim>(wide, args.x + i * dim, dim, x);
    const double* own = args.grad_out + i * kMoments;
    // In a complete graph the two edges between i and j are met together, and the second side has nothing left.
    for (int side = 0; side < (g.complete() ? 1 : 2); ++side) {
      const Row row = side == 0 ? g.received(i, event) : g.sent(i, event);
      for (int64_t k = there ? nth : row.count; k < row.count; k += team) {
        const int64_t j = row.node(k);
        load_node<kDim>(wide, args.x + j * dim, dim, y);
        const double* other = args.grad_out + j * kMoments;
        double interval, product, g0 = 0, g1 = 0;
        invariants_of<kDim, T>(x, y, args.metric, interval, product);
        const double s0 = args.psi ? psi(interval) : interval, s1 = args.psi ? psi(product) : product;
        if (g.complete() || side == 0) add_cotangents(own, other, s0, s1, g0, g1);
        if (g.complete() || side == 1) add_cotangents(other, own, s0, s1, g0, g1);
        if (args.psi) {
          g0 /= 1.0 + fabs(interval);
          g1 /= 1.0 + fabs(product);
        }
#pragma unroll
        for (int c = 0; c < kDim; ++c)
          if (c < dim) grad[c] += 2.0 * g0 * (x[c] - y[c]) + g1 * y[c];
      }
    }
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
      if (c >= dim) continue;
      const double total = team_sum(grad[c], team);
      if (there && nth == 0) args.grad_x[i * dim + c] = T(total * args.metric[c]);
    }
  });
}

}  // namespace

template <class T>
cudaError_t invariants_cuda(const MomentsArgs<T>& args, cudaStream_t stream) {
  if (args.graph.num_nodes == 0) return cudaSuccess;
  return with_dimension(args.dim, [&](auto dim) {
    const auto kernel = args.grad_x ? backward_kernel<dim, T> : forward_kernel<dim, T>;
    const int team = team_of(args.graph);
    return launch(kernel, team_grid(args.graph.num_nodes, team), 0, stream, args, team);
  });
}
template cudaError_t invariants_cuda(const MomentsArgs<float>&, cudaStream_t);
template cudaError_t invariants_cuda(const MomentsArgs<double>&, cudaStream_t);

}  // namespace ek
