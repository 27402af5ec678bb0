// A thread keeps its channels and walks down the rows: the threads of a block read whole rows, and each adds up the
// gradient of t of its channels in a register. Those sums meet in shared memory, those of blocks in a second kernel.
#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "../core/launch.cuh"
#include "../simd/pack.cuh"
#include "encode.h"

namespace ek {
namespace {

// log(base), base = offset + |z|
template <class T>
__device__ inline T log_of_size(T z, bool angles, T& base) {
  const T size = std::fabs(z);
  base = size + (angles ? T(1e-5) : T(1));
  return angles ? std::log(base) : std::log1p(size);
}

template <class T, int kFrom = 0>
__device__ inline T slope_series(T y) {
  constexpr T term = T(slope_term(kFrom));
  if constexpr (kFrom == kSlopeTerms<T>)
    return term;
  else
    return term + y * slope_series<T, kFrom + 1>(y);
}

// The derivative of (exp(t l) - 1) / t by t is l^2 times this at y = t l.
template <class T>
__device__ inline T slope_of_power(T y, T exp) {
  return std::fabs(y) < T(0.5) ? slope_series(y) : (y * exp - std::expm1(y)) / (y * y);
}

// Rows a thread has under way at once.
template <int kVec>
constexpr int kRows = kVec > 1 ? 2 : 4;

// How the threads of a block share rows. A pack is kVec channels.
template <int kVec>
struct Layout {
  int packs;  // of a row at a time
  int teams;  // of packs, each with every teams-th row

  explicit Layout(int64_t channels) {
    const int64_t all = channels / kVec, times = (all + kThreads - 1) / kThreads;
    packs = int((all + times - 1) / times);
    teams = kThreads / packs;
  }
  EK_HD int64_t rows() const { return kRows<kVec> * int64_t(teams); }  // that a block has under way
};

// f(numbers a thread reads at a time, as a constant)
template <class T, class F>
auto with_pack(const EncodeArgs<T>& a, F&& f) {
  constexpr int kMost = 16 / sizeof(T);
  const bool packed =
      a.channels % kMost == 0 && aligned(a.z) && aligned(a.t) && aligned(a.out) && aligned(a.grad) && aligned(a.grad_z);
  return packed ? f(std::integral_constant<int, kMost>{}) : f(std::integral_constant<int, 1>{});
}

template <class T, int kVec>
__global__ void __launch_bounds__(kThreads) forward_kernel(EncodeArgs<T> args, Layout<kVec> layout) {
  const int64_t channels = args.channels, teams = layout.teams;
  const int64_t team = threadIdx.x / layout.packs, pack = threadIdx.x % layout.packs;
  if (team >= teams) return;
  for (int64_t c = pack * kVec; c < channels; c += layout.packs * kVec) {
    T t[kVec];
    load<T, kVec>(args.t + c, t);
    for (int64_t r = blockIdx.x * layout.rows() + team; r < args.rows; r += gridDim.x * layout.rows()) {
      T z[kRows<kVec>][kVec];
#pragma unroll
      for (int m = 0; m < kRows<kVec>; ++m)
        if (r + m * teams < args.rows) load<T, kVec>(args.z + (r + m * teams) * channels + c, z[m]);
#pragma unroll
      for (int m = 0; m < kRows<kVec>; ++m) {
        if (r + m * teams >= args.rows) continue;
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          T base;
          const T u = std::expm1(t[v] * log_of_size(z[m][v], args.angles, base)) / t[v];
          z[m][v] = z[m][v] < T(0) && !args.angles ? -u : u;
        }
        store<T, kVec>(args.out + (r + m * teams) * channels + c, z[m]);
      }
    }
  }
}

// Block s takes the rows of share s, [s, s + 1) * each, and leaves their sum in row s of partials. Two blocks an SM:
// with the compiler's own choice of more, float64 spills.
template <class T, int kVec>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(EncodeArgs<T> args, Layout<kVec> layout, int64_t each, T* partials) {
  T* sums = block_memory<T>();  // [teams, width]
  const int64_t channels = args.channels, teams = layout.teams, width = layout.packs * kVec;
  const int64_t team = threadIdx.x / layout.packs, pack = threadIdx.x % layout.packs;
  for (int64_t share = blockIdx.x; share * each < args.rows; share += gridDim.x) {
    const int64_t last = (share + 1) * each < args.rows ? (share + 1) * each : args.rows;
    for (int64_t c0 = 0; c0 < channels; c0 += width) {
      const int64_t c = c0 + pack * kVec;
      if (team < teams && c < channels) {
        T t[kVec], total[kVec] = {};
        load<T, kVec>(args.t + c, t);
        for (int64_t r = share * each + team; r < last; r += layout.rows()) {
          T z[kRows<kVec>][kVec], g[kRows<kVec>][kVec];
#pragma unroll
          for (int m = 0; m < kRows<kVec>; ++m) {
            if (r + m * teams >= last) continue;
            load<T, kVec>(args.z + (r + m * teams) * channels + c, z[m]);
            load<T, kVec>(args.grad + (r + m * teams) * channels + c, g[m]);
          }
#pragma unroll
          for (int m = 0; m < kRows<kVec>; ++m) {
            if (r + m * teams >= last) continue;
#pragma unroll
            for (int v = 0; v < kVec; ++v) {
              T base;
              const T l = log_of_size(z[m][v], args.angles, base), y = t[v] * l, exp = std::exp(y);
              const T by_t = g[m][v] * (l * l * slope_of_power(y, exp)), by_z = g[m][v] * exp / base;
              const bool negative = z[m][v] < T(0);
              total[v] += negative && !args.angles ? -by_t : by_t;
              z[m][v] = negative && args.angles ? -by_z : by_z;
            }
            store<T, kVec>(args.grad_z + (r + m * teams) * channels + c, z[m]);
          }
        }
#pragma unroll
        for (int v = 0; v < kVec; ++v) sums[team * width + pack * kVec + v] = total[v];
      }
      __syncthreads();
      for (int64_t k = threadIdx.x; k < width && c0 + k < channels; k += kThreads) {
        T total = 0;
        for (int64_t m = 0; m < teams; ++m) total += sums[m * width + k];
        partials[share * channels + c0 + k] = total;
      }
      __syncthreads();
    }
  }
}

// A warp per channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const T* partials, int64_t shares, int64_t channels, T* grad_t) {
  for (int64_t c = first_warp(); c < channels; c += warp_step()) {
    T sum = 0;
    for (int64_t s = lane(); s < shares; s += kWarp) sum += partials[s * channels + c];
    const T total = team_sum(sum, kWarp);
    if (lane() == 0) grad_t[c] = total;
  }
}

// Rows whose gradients of t a block adds up: four times what it has under way, or more, for at most kMostShares blocks.
constexpr int64_t kMostShares = 4096;
template <int kVec>
int64_t share_of(int64_t rows, const Layout<kVec>& layout) {
  const int64_t step = 4 * layout.rows();
  return (rows / (kMostShares * step) + 1) * step;
}

}  // namespace

template <class T>
int64_t encode_cuda_shares(const EncodeArgs<T>& args) {
  if (args.channels == 0) return 0;
  return with_pack(args, [&](auto vec) {
    const int64_t each = share_of(args.rows, Layout<vec>(args.channels));
    return args.rows / each + (args.rows % each != 0);
  });
}

template <class T>
cudaError_t encode_forward_cuda(const EncodeArgs<T>& args, cudaStream_t stream) {
  if (args.rows == 0 || args.channels == 0) return cudaSuccess;
  return with_pack(args, [&](auto vec) {
    const Layout<vec> layout(args.channels);
    return launch(forward_kernel<T, vec>, grid_for(args.rows, layout.rows()), 0, stream, args, layout);
  });
}

template <class T>
cudaError_t encode_backward_cuda(const EncodeArgs<T>& args, T* partials, cudaStream_t stream) {
  if (args.channels == 0) return cudaSuccess;
  const int64_t shares = encode_cuda_shares(args);
  const cudaError_t error = with_pack(args, [&](auto vec) {
    if (shares == 0) return cudaSuccess;
    const Layout<vec> layout(args.channels);
    const size_t shared = sizeof(T) * layout.teams * layout.packs * vec;
    return launch(backward_kernel<T, vec>, grid_for(shares, 1), shared, stream, args, layout,
                  share_of(args.rows, layout), partials);
  });
  if (error != cudaSuccess) return error;
  return launch(finish_kernel<T>, warp_grid(args.channels), 0, stream, partials, shares, args.channels, args.grad_t);
}

template int64_t encode_cuda_shares(const EncodeArgs<float>&);
template int64_t encode_cuda_shares(const EncodeArgs<double>&);
template cudaError_t encode_forward_cuda(const EncodeArgs<float>&, cudaStream_t);
template cudaError_t encode_forward_cuda(const EncodeArgs<double>&, cudaStream_t);
template cudaError_t encode_backward_cuda(const EncodeArgs<float>&, float*, cudaStream_t);
template cudaError_t encode_backward_cuda(const EncodeArgs<double>&, double*, cudaStream_t);

}  // namespace ek
