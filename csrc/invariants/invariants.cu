// A warp, or a team of its lanes, per node: lanes stride over its edges, stores to out are coalesced, grad_x is a
// butterfly sum.
#include <cuda_runtime.h>

#include "../core/dimension.h"
#include "../core/launch.cuh"
#include "device.cuh"
#include "invariants.h"

namespace ek {
namespace {

template <int kDim, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(InvariantsArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x);
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    const Row row = g.received(i, event);
    double x[kDim] = {}, y[kDim] = {};  // zero beyond dim, as the metric is
    load_node<kDim>(wide, args.x + i * dim, dim, x);
    for (int64_t k = there ? nth : row.count; k < row.count; k += team) {
      load_node<kDim>(wide, args.x + row.node(k) * dim, dim, y);
      double interval, product;
      invariants_of<kDim, T>(x, y, args.metric, interval, product);
      const T s[2] = {args.psi ? psi(T(interval)) : T(interval), args.psi ? psi(T(product)) : T(product)};
      store<T, 2>(args.out + row.edge(k) * 2, s);
    }
  });
}

// Two blocks an SM: with the compiler's own choice of three, D = 3 in float32 spills on sm_90.
template <int kDim, class T>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(InvariantsArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x);
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    double x[kDim] = {}, y[kDim] = {}, grad[kDim];
    load_node<kDim>(wide, args.x + i * dim, dim, x);
#pragma unroll
    for (int c = 0; c < kDim; ++c) grad[c] = 0;
    for (int side = 0; side < 2; ++side) {
      const Row row = side == 0 ? g.received(i, event) : g.sent(i, event);
      for (int64_t k = there ? nth : row.count; k < row.count; k += team) {
        load_node<kDim>(wide, args.x + row.node(k) * dim, dim, y);
        const T* go = args.grad_out + row.edge(k) * 2;
        double a = 2.0 * go[0], b = go[1];
        if (args.psi) {
          double interval, product;
          invariants_of<kDim, T>(x, y, args.metric, interval, product);
          a /= 1.0 + fabs(interval);
          b /= 1.0 + fabs(product);
        }
#pragma unroll
        for (int c = 0; c < kDim; ++c)
          if (c < dim) grad[c] += a * (x[c] - y[c]) + b * y[c];
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
cudaError_t invariants_cuda(const InvariantsArgs<T>& args, cudaStream_t stream) {
  if (args.graph.num_nodes == 0) return cudaSuccess;
  return with_dimension(args.dim, [&](auto dim) {
    const auto kernel = args.grad_x ? backward_kernel<dim, T> : forward_kernel<dim, T>;
    const int team = team_of(args.graph);
    return launch(kernel, team_grid(args.graph.num_nodes, team), 0, stream, args, team);
  });
}
template cudaError_t invariants_cuda(const InvariantsArgs<float>&, cudaStream_t);
template cudaError_t invariants_cuda(const InvariantsArgs<double>&, cudaStream_t);

}  // namespace ek
