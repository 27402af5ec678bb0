// One warp per node: lanes stride over its edges, stores to out are coalesced, grad_x is a butterfly sum.
#include <cuda_runtime.h>

#include "../common/launch.cuh"
#include "../common/minkowski.h"
#include "invariants.h"

namespace ek {
namespace {

struct DeviceFma {
  static __device__ inline double apply(double a, double b, double c) { return ::fma(a, b, c); }
};

__device__ inline float psi(float z) { return copysignf(log1pf(fabsf(z)), z); }
__device__ inline double psi(double z) { return copysign(log1p(fabs(z)), z); }

template <int kDim, class T>
__device__ inline void load_row(const T* row, int dim, double* out) {
#pragma unroll
  for (int c = 0; c < kDim; ++c)
    if (c < dim) out[c] = row[c];
}

template <int kDim, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(InvariantsArgs<T> args) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  for (int64_t i = first_warp(); i < g.num_nodes; i += warp_step()) {
    const Row row = g.received(i, g.complete() ? g.event_of(i) : 0);
    double x[kDim] = {}, y[kDim] = {};  // zero beyond dim, as the metric is
    load_row<kDim>(args.x + i * dim, dim, x);
    for (int64_t k = lane(); k < row.count; k += kWarp) {
      load_row<kDim>(args.x + row.node(k) * dim, dim, y);
      double interval, product;
      interval_and_product<sizeof(T) == 8, double, DeviceFma>(x, y, args.metric, kDim, interval, product);
      T* out = args.out + row.edge(k) * 2;
      out[0] = args.psi ? psi(T(interval)) : T(interval);
      out[1] = args.psi ? psi(T(product)) : T(product);
    }
  }
}

// Two blocks an SM: with the compiler's own choice of three, D = 3 in float32 spills on sm_90.
template <int kDim, class T>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(InvariantsArgs<T> args) {
  const GraphView& g = args.graph;
  const int dim = kDim < kMaxDim ? kDim : args.dim;
  for (int64_t i = first_warp(); i < g.num_nodes; i += warp_step()) {
    const int64_t event = g.complete() ? g.event_of(i) : 0;
    double x[kDim] = {}, y[kDim] = {}, grad[kDim];
    load_row<kDim>(args.x + i * dim, dim, x);
#pragma unroll
    for (int c = 0; c < kDim; ++c) grad[c] = 0;
    for (int side = 0; side < 2; ++side) {
      const Row row = side == 0 ? g.received(i, event) : g.sent(i, event);
      for (int64_t k = lane(); k < row.count; k += kWarp) {
        load_row<kDim>(args.x + row.node(k) * dim, dim, y);
        const T* go = args.grad_out + row.edge(k) * 2;
        double a = 2.0 * go[0], b = go[1];
        if (args.psi) {
          double interval, product;
          interval_and_product<sizeof(T) == 8, double, DeviceFma>(x, y, args.metric, kDim, interval, product);
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
      const double total = warp_sum(grad[c]);
      if (lane() == 0) args.out[i * dim + c] = T(total * args.metric[c]);
    }
  }
}

template <class T>
cudaError_t launch(const InvariantsArgs<T>& args, bool forward, cudaStream_t stream) {
  if (args.graph.num_nodes == 0) return cudaSuccess;
  const dim3 grid(warp_grid(args.graph.num_nodes));
#define EK_LAUNCH(DIM)                                              \
  do {                                                              \
    if (forward)                                                    \
      forward_kernel<DIM, T><<<grid, kThreads, 0, stream>>>(args);  \
    else                                                            \
      backward_kernel<DIM, T><<<grid, kThreads, 0, stream>>>(args); \
  } while (0)
  switch (args.dim) {
    case 2: EK_LAUNCH(2); break;
    case 3: EK_LAUNCH(3); break;
    case 4: EK_LAUNCH(4); break;
    default: EK_LAUNCH(kMaxDim);
  }
#undef EK_LAUNCH
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t invariants_forward_cuda(const InvariantsArgs<T>& args, cudaStream_t stream) {
  return launch(args, true, stream);
}
template <class T>
cudaError_t invariants_backward_cuda(const InvariantsArgs<T>& args, cudaStream_t stream) {
  return launch(args, false, stream);
}
template cudaError_t invariants_forward_cuda(const InvariantsArgs<float>&, cudaStream_t);
template cudaError_t invariants_forward_cuda(const InvariantsArgs<double>&, cudaStream_t);
template cudaError_t invariants_backward_cuda(const InvariantsArgs<float>&, cudaStream_t);
template cudaError_t invariants_backward_cuda(const InvariantsArgs<double>&, cudaStream_t);

}  // namespace ek
