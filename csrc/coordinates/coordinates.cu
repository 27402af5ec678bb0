// A warp, or a team of its lanes, per node: lanes stride over its edges, sums over edges are butterfly sums.
#include <cuda_runtime.h>

#include "../core/dimension.h"
#include "../core/launch.cuh"
#include "../simd/pack.cuh"
#include "coordinates.h"

namespace ek {
namespace {

template <class T>
__device__ inline T clamped(T t, T bound) {  // NaN comes out as NaN
  return t > bound ? bound : t < -bound ? -bound : t;
}

template <int kDim, class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(CoordinatesArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x);
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    const Row row = g.received(i, event);
    T x[kDim] = {}, y[kDim] = {}, sum[kDim] = {};
    load_node<kDim>(wide, args.x + i * dim, dim, x);
    for (int64_t k = there ? nth : row.count; k < row.count; k += team) {
      load_node<kDim>(wide, args.x + row.node(k) * dim, dim, y);
      const T w = args.weight[row.edge(k)];
#pragma unroll
      for (int c = 0; c < kDim; ++c) {
        const T t = w * (args.difference ? x[c] - y[c] : y[c]);
        sum[c] += args.bounded ? clamped(t, args.bound) : t;
      }
    }
    const T divisor = args.mean && row.count > 1 ? T(row.count) : T(1);
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
      if (c >= dim) continue;
      const T total = team_sum(sum[c], team) / divisor;
      if (there && nth == 0) args.out[i * dim + c] = x[c] + args.c * total;
    }
  });
}

// The sums of coordinates.cpp's backward_range.
template <int kDim, class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(CoordinatesArgs<T> args, int team) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  const bool wide = aligned(args.x), wide_grad = aligned(args.grad_out);
  // one up to and at the bound, zero beyond, zero for NaN
  auto pass = [&](T t, T grad) { return !args.bounded || (t <= args.bound && t >= -args.bound) ? grad : T(0); };
  over_nodes(g, team, [&](int64_t i, int64_t event, int nth, bool there) {
    T x[kDim] = {}, y[kDim] = {}, grad[kDim] = {}, sum[kDim] = {};
    load_node<kDim>(wide, args.x + i * dim, dim, x);

    const Row in = g.received(i, event);
    const T own_scale = args.scale(in.count);
    load_node<kDim>(wide_grad, args.grad_out + i * dim, dim, grad);
    for (int64_t k = there ? nth : in.count; k < in.count; k += team) {
      load_node<kDim>(wide, args.x + in.node(k) * dim, dim, y);
      const T w = args.weight[in.edge(k)];
      T grad_weight = 0;
#pragma unroll
      for (int c = 0; c < kDim; ++c) {
        if (c >= dim) continue;
        const T d = args.difference ? x[c] - y[c] : y[c];
        const T a = pass(w * d, own_scale * grad[c]);
        grad_weight += a * d;
        if (args.difference) sum[c] += w * a;
      }
      args.grad_weight[in.edge(k)] = grad_weight;
    }

    const Row out = g.sent(i, event);
    for (int64_t k = there ? nth : out.count; k < out.count; k += team) {
      const int64_t r = out.node(k);
      load_node<kDim>(wide, args.x + r * dim, dim, y);
      load_node<kDim>(wide_grad, args.grad_out + r * dim, dim, grad);
      const T w = args.weight[out.edge(k)];
      // in an event of a complete graph all nodes hear equally many
      const T scale = g.complete() ? own_scale : args.scale(g.received(r, event).count);
#pragma unroll
      for (int c = 0; c < kDim; ++c) {
        if (c >= dim) continue;
        const T a = pass(w * (args.difference ? y[c] - x[c] : x[c]), scale * grad[c]);
        sum[c] += args.difference ? -w * a : w * a;
      }
    }
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
      if (c >= dim) continue;
      const T total = team_sum(sum[c], team);
      if (there && nth == 0) args.out[i * dim + c] = args.grad_out[i * dim + c] + total;
    }
  });
}

template <class T>
cudaError_t run(const CoordinatesArgs<T>& args, bool forward, cudaStream_t stream) {
  if (args.graph.num_nodes == 0) return cudaSuccess;
  return with_dimension(args.dim, [&](auto dim) {
    const auto kernel = forward ? forward_kernel<dim, T> : backward_kernel<dim, T>;
    const int team = team_of(args.graph);
    return launch(kernel, team_grid(args.graph.num_nodes, team), 0, stream, args, team);
  });
}

}  // namespace

template <class T>
cudaError_t coordinates_forward_cuda(const CoordinatesArgs<T>& args, cudaStream_t stream) {
  return run(args, true, stream);
}
template <class T>
cudaError_t coordinates_backward_cuda(const CoordinatesArgs<T>& args, cudaStream_t stream) {
  return run(args, false, stream);
}
template cudaError_t coordinates_forward_cuda(const CoordinatesArgs<float>&, cudaStream_t);
template cudaError_t coordinates_forward_cuda(const CoordinatesArgs<double>&, cudaStream_t);
template cudaError_t coordinates_backward_cuda(const CoordinatesArgs<float>&, cudaStream_t);
template cudaError_t coordinates_backward_cuda(const CoordinatesArgs<double>&, cudaStream_t);

}  // namespace ek
