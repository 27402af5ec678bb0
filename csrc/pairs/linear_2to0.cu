// linear_2to0 behind the sums of pairs: a block for each event, forward and backward. The total comes first, then the
// trace.
#include "linear.cuh"

namespace ek {
namespace {

// A number of the layer's input, and what led there.
template <class S>
struct Basis {
  using T = Accumulator<S>;
  T raw, count, normed, factor, value;

  __device__ Basis(const LinearArgs<S>& a, const Event<S>& e, int k, int64_t c)
      : raw(a.event_sums[(k * a.graph.num_events + e.event) * a.in + c]),
        count(k == 0 ? T(e.n) * T(e.n) : T(e.n)),
        normed(over_size(a, e.event, k, ek::normed(a, raw, count, c))),
        factor(e.factors[k * a.in + c]),
        value(activate(normed * factor, a.inner_slope)) {}
  // Of a total for each of two indices that are summed.
  static __device__ T over_size(const LinearArgs<S>& a, int64_t event, int k, T sum) {
    const T each = a.of_events[event * 2];
    return k == 0 ? sum * each * each : sum * each;
  }
};

// shared: a number of each thread, sums and inputs [2, in]
template <class S>
__global__ void __launch_bounds__(kThreads) forward_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  const int C = int(a.in), D = int(a.width);
  T *const shared = block_memory<T>(), *const inputs = shared + kThreads;
  for (int64_t b = blockIdx.x; b < a.graph.num_events; b += gridDim.x) {
    const Event<S> e(a, b);
    sum_rows(e.n, 2 * C, shared, inputs, [&](int64_t r, int u) {
      return widen(a.aggregates[((e.node + r) * 3 + (u < C ? 2 : 0)) * C + (u < C ? u : u - C)]);
    });
    for (int u = threadIdx.x; u < 2 * C; u += kThreads) {
      const int k = u >= C, c = u - k * C;
      a.event_sums[(k * a.graph.num_events + b) * C + c] = inputs[u];
      inputs[u] = Basis<S>(a, e, k, c).value;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += kThreads) {
      T sum = a.bias ? widen(a.bias[d]) : T(0);
#pragma unroll 4
      for (int u = 0; u < 2 * C; ++u) sum = multiply_add(inputs[u], a.made[u * D + d], sum);
      narrow(activate(sum, a.slope), a.out[b * D + d]);
    }
    __syncthreads();
  }
}

// shared: the gradient of the values [width], that of the sums [2, in]
template <class S>
__global__ void __launch_bounds__(kThreads) backward_kernel(LinearArgs<S> a) {
  using T = Accumulator<S>;
  const int C = int(a.in), D = int(a.width);
  T *const values = block_memory<T>(), *const to_sums = values + D;
  for (int64_t b = blockIdx.x; b < a.graph.num_events; b += gridDim.x) {
    const Event<S> e(a, b);
    for (int d = threadIdx.x; d < D; d += kThreads) {
      const T g = widen(a.grad[b * D + d]);
      values[d] = a.activated ? through(g, T(widen(a.activated[b * D + d])), a.slope) : g;
      a.grad_values[b * D + d] = values[d];
    }
    __syncthreads();
    for (int u = threadIdx.x; u < 2 * C; u += kThreads) {
      const int k = u >= C, c = u - k * C;
      const Basis<S> basis(a, e, k, c);
      T g = 0;
#pragma unroll 4
      for (int d = 0; d < D; ++d) g = multiply_add(values[d], a.made[u * D + d], g);
      g = through(g, basis.normed * basis.factor, a.inner_slope);
      const T to_sum = basis.over_size(a, b, k, g * basis.factor);
      const int64_t at = b * 2 * C + u;
      a.event_inputs[at] = basis.value;
      a.grad_factors[at] = g * basis.normed;
      to_sums[u] = to_sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < C; c += kThreads) {
      const Basis<S> total(a, e, 0, c), trace(a, e, 1, c);
      const T first = to_sums[c], second = to_sums[C + c], scale = a.scale ? T(widen(a.scale[c])) : T(1);
      a.of_affine[b * 2 * C + c] = first * total.raw + second * trace.raw;
      a.of_affine[b * 2 * C + C + c] = first * total.count + second * trace.count;
      to_sums[c] = first * scale;
      to_sums[C + c] = second * scale;
    }
    __syncthreads();
    if (a.to_pairs)
      for (int64_t i = e.node; i < e.node + e.n; ++i)
        for (int u = threadIdx.x; u < 3 * C; u += kThreads) {
          const int slot = (u >= C) + (u >= 2 * C), c = u - slot * C;
          narrow(slot == 0 ? to_sums[C + c] : slot == 2 ? to_sums[c] : T(0), a.to_pairs[i * 3 * C + u]);
        }
    __syncthreads();
  }
}

}  // namespace

template <class S>
cudaError_t linear_2to0_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_events == 0) return cudaSuccess;
  const size_t shared = sizeof(Accumulator<S>) * (kThreads + 2 * a.in);
  return launch(forward_kernel<S>, grid_for(a.graph.num_events, 1), shared, stream, a);
}

template <class S>
cudaError_t linear_2to0_backward_cuda(const LinearArgs<S>& a, cudaStream_t stream) {
  if (a.graph.num_events == 0) return cudaSuccess;
  const size_t shared = sizeof(Accumulator<S>) * (a.width + 2 * a.in);
  return launch(backward_kernel<S>, grid_for(a.graph.num_events, 1), shared, stream, a);
}

#define EK_LINEAR(S)                                                         \
  template cudaError_t linear_2to0_cuda(const LinearArgs<S>&, cudaStream_t); \
  template cudaError_t linear_2to0_backward_cuda(const LinearArgs<S>&, cudaStream_t);
EK_LINEAR(float)
EK_LINEAR(double)
EK_LINEAR(BFloat16)
EK_LINEAR(Float16)
#undef EK_LINEAR

}  // namespace ek
