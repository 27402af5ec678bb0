// What stands around the products of rows: sums of parts, gradients through an activation, the batch norm.
#include "products.h"
#include "tile.cuh"

namespace ek {
namespace {

// A thread for a number of the result and every kDown-th part.
constexpr int kDown = 8, kAcross = kThreads / kDown;

template <class T, class O>
__global__ void __launch_bounds__(kThreads, 2) add_up_kernel(AddUpArgs<T, O> a) {
  T* const shared = block_memory<T>();  // [kDown, kAcross]
  const int down = threadIdx.x / kAcross, across = threadIdx.x % kAcross;
  int64_t blocks = 0;
#pragma unroll
  for (int k = 0; k < a.kMost; ++k) {
    const Parts<T, O>& p = a.of[k];
    const int64_t first = blocks;
    blocks += (p.size + kAcross - 1) / kAcross;
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
      if (block < first) continue;
      const int64_t at = (block - first) * kAcross + across;
      T sum = 0;
      if (at < p.size)
        for (int64_t part = down; part < p.count; part += kDown) sum += p.parts[part * p.stride + at];
      shared[threadIdx.x] = sum;
      __syncthreads();
      if (down == 0 && at < p.size) {
        for (int other = 1; other < kDown; ++other) sum += shared[other * kAcross + across];
        const unsigned columns = unsigned(p.columns), k = unsigned(at);
        narrow(sum, p.out[columns ? k % columns * (unsigned(p.size) / columns) + k / columns : at]);
      }
      __syncthreads();
    }
  }
}

template <class S, int kVec>
__global__ void __launch_bounds__(kThreads) through_kernel(ThroughArgs<S> a) {
  using T = Accumulator<S>;
  const int64_t count = a.rows * a.width / kVec, step = int64_t(gridDim.x) * kThreads, width = a.width / kVec;
  int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x, channel = a.statistics ? at % width : 0;
  const int64_t next = a.statistics ? step % width : 0;
  for (; at < count; at += step) {
    T out[kVec], grad[kVec] = {};
    load<S, kVec>(a.activated + at * kVec, out);
    if (a.grad) load<S, kVec>(a.grad + at * kVec, grad);
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      if (a.statistics) {
        const double *const to = a.statistics + channel * kVec + v, apart = double(out[v]) - to[2 * a.width];
        grad[v] += T(multiply_add(to[a.width], apart, to[0]));
      }
      grad[v] = through(grad[v], out[v], a.slope);
    }
    store<S, kVec>(a.out + at * kVec, grad);
    channel += next;
    if (channel >= width) channel -= width;
  }
}

constexpr int64_t kMomentRows = 128, kMostShares = 512;
inline int64_t rows_of_share(int64_t rows) {
  const int64_t even = (rows + kMostShares - 1) / kMostShares;
  return even < kMomentRows ? kMomentRows : even;
}
// About this number: what is then added is as small as the spread.
template <class S>
__device__ inline double centre_of(const S* x, int64_t channel) {
  const double first = double(widen(x[channel]));
  return first - first == 0 ? first : 0;
}

// Sums of x - centre and of its square over a block's rows. Lanes go across channels.
template <class S>
__global__ void __launch_bounds__(kThreads) moments_kernel(NormArgs<S> a, int64_t shares, int64_t rows_each) {
  double* const shared = block_memory<double>();  // [2, kThreads]
  const int64_t C = a.width;
  const int units = C < kThreads ? int(C) : kThreads, teams = kThreads / units;
  const int unit = threadIdx.x % units, team = threadIdx.x / units;
  for (int64_t share = blockIdx.x; share < shares; share += gridDim.x) {
    const int64_t begin = share * rows_each, end = begin + rows_each < a.rows ? begin + rows_each : a.rows;
    for (int64_t first = 0; first < C; first += units) {
      const int64_t c = first + unit;
      double sum = 0, square = 0;
      if (c < C && team < teams) {
        const double centre = centre_of(a.x, c);
#pragma unroll 4
        for (int64_t r = begin + team; r < end; r += teams) {
          const double x = double(widen(a.x[r * C + c])) - centre;
          sum += x;
          square = multiply_add(x, x, square);
        }
      }
      shared[threadIdx.x] = sum;
      shared[kThreads + threadIdx.x] = square;
      __syncthreads();
      if (team == 0 && c < C) {
        for (int other = 1; other < teams; ++other) {
          sum += shared[other * units + unit];
          square += shared[kThreads + other * units + unit];
        }
        a.parts[share * 2 * C + c] = sum;
        a.parts[(share * 2 + 1) * C + c] = square;
      }
      __syncthreads();
    }
  }
}

// scale = gamma / sqrt(variance + eps), shift = beta - mean scale, in the precision of the statistics.
template <class D, class S>
__device__ inline void write_affine(const NormArgs<S>& a, int64_t c, D mean, D variance) {
  using T = Accumulator<S>;
  D scale = D(1) / D(sqrt(variance + D(a.eps)));
  if (a.gamma) scale = scale * D(widen(a.gamma[c]));
  const D moved = mean * scale;
  narrow(T(scale), a.affine[c]);
  narrow(T(a.beta ? D(widen(a.beta[c])) - moved : -moved), a.affine[a.width + c]);
}

// A warp for each channel.
template <class S>
__global__ void __launch_bounds__(kThreads) norm_kernel(NormArgs<S> a, int64_t shares) {
  using T = Accumulator<S>;
  const int64_t C = a.width;
  for (int64_t c = first_warp(); c < C; c += warp_step()) {
    if (!a.of_batch()) {
      if (lane() == 0) write_affine<T>(a, c, widen(a.mean[c]), widen(a.variance[c]));
      continue;
    }
    double sum = 0, square = 0;
    for (int64_t share = lane(); share < shares; share += kWarp) {
      sum += a.parts[share * 2 * C + c];
      square += a.parts[(share * 2 + 1) * C + c];
    }
    sum = team_sum(sum, kWarp);
    square = team_sum(square, kWarp);
    if (lane() != 0) continue;
    const double rows = double(a.rows > 0 ? a.rows : 1), moved = sum / rows;
    const double mean = (a.rows > 0 ? centre_of(a.x, c) : 0) + moved, spread = square / rows - moved * moved;
    const double variance = spread < 0 ? 0 : spread;
    a.moments[c] = mean;
    a.moments[C + c] = variance;
    narrow(T(mean), a.running[c]);
    narrow(T(variance * (double(a.rows) / double(a.rows - 1))), a.running[C + c]);
    write_affine<double>(a, c, mean, variance);
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) norm_backward_kernel(NormArgs<S> a) {
  using T = Accumulator<S>;
  const int64_t C = a.width;
  for (int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x; c < C; c += int64_t(gridDim.x) * kThreads) {
    const bool batch = a.of_batch();
    const double centre = batch ? a.moments[c] : a.mean ? double(widen(a.mean[c])) : 0;
    double of[4] = {};  // gamma, beta, mean, variance
    if (a.grad_affine) {
      const double spread = batch ? a.moments[C + c] : double(widen(a.variance[c]));
      const double inverse = 1 / sqrt(spread + a.eps), factor = a.gamma ? double(widen(a.gamma[c])) : 1;
      of[1] = double(widen(a.grad_affine[C + c]));
      const double to_scale = double(widen(a.grad_affine[c])) - of[1] * centre;
      of[0] = to_scale * inverse;
      of[2] = -of[1] * (inverse * factor);
      of[3] = -0.5 * (to_scale * factor) * (inverse * inverse * inverse);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (a.to[k]) narrow(batch && k > 1 ? T(0) : T(of[k]), a.to[k][c]);
    if (!a.statistics) continue;
    // d mean = d out / rows, d variance = 2 (out - mean) d out / rows
    const double rows = double(a.rows > 0 ? a.rows : 1);
    a.statistics[c] = of[2] / rows;
    a.statistics[C + c] = 2 * of[3] / rows;
    a.statistics[2 * C + c] = centre;
  }
}

}  // namespace

template <class T, class O>
cudaError_t add_up_cuda(const AddUpArgs<T, O>& a, cudaStream_t stream) {
  int64_t blocks = 0;
  for (const Parts<T, O>& p : a.of) blocks += (p.size + kAcross - 1) / kAcross;
  return launch(add_up_kernel<T, O>, grid_for(blocks, 1), sizeof(T) * kThreads, stream, a);
}

template <class S>
cudaError_t through_cuda(const ThroughArgs<S>& a, cudaStream_t stream) {
  constexpr int kVec = kPackOf<Accumulator<S>>;
  const int64_t count = a.rows * a.width;
  if (count == 0) return cudaSuccess;
  const bool packs =
      (a.statistics ? a.width : count) % kVec == 0 && aligned(a.grad) && aligned(a.activated) && aligned(a.out);
  const auto run = [&](auto kernel, int vec) {
    return launch(kernel, grid_for(count, int64_t(kThreads) * vec), 0, stream, a);
  };
  if (!packs) return run(through_kernel<S, 1>, 1);
  return run(through_kernel<S, kVec>, kVec);
}

int64_t moments_shares(int64_t rows) { return rows == 0 ? 0 : (rows + rows_of_share(rows) - 1) / rows_of_share(rows); }

template <class S>
cudaError_t moments_cuda(const NormArgs<S>& a, cudaStream_t stream) {
  const int64_t shares = moments_shares(a.rows);
  if (shares == 0 || a.width == 0) return cudaSuccess;
  return launch(moments_kernel<S>, grid_for(shares, 1), sizeof(double) * 2 * kThreads, stream, a, shares,
                rows_of_share(a.rows));
}

template <class S>
cudaError_t norm_cuda(const NormArgs<S>& a, cudaStream_t stream) {
  if (a.width == 0) return cudaSuccess;
  return launch(norm_kernel<S>, warp_grid(a.width), 0, stream, a, moments_shares(a.rows));
}

template <class S>
cudaError_t norm_backward_cuda(const NormArgs<S>& a, cudaStream_t stream) {
  if (a.width == 0) return cudaSuccess;
  return launch(norm_backward_kernel<S>, grid_for(a.width, kThreads), 0, stream, a);
}

#define EK_NORMS(S)                                                       \
  template cudaError_t through_cuda(const ThroughArgs<S>&, cudaStream_t); \
  template cudaError_t moments_cuda(const NormArgs<S>&, cudaStream_t);    \
  template cudaError_t norm_cuda(const NormArgs<S>&, cudaStream_t);       \
  template cudaError_t norm_backward_cuda(const NormArgs<S>&, cudaStream_t);
EK_NORMS(float)
EK_NORMS(double)
EK_NORMS(BFloat16)
EK_NORMS(Float16)
#undef EK_NORMS
#define EK_ADD_UP(T, O) template cudaError_t add_up_cuda(const AddUpArgs<T, O>&, cudaStream_t);
EK_ADD_UP(float, float)
EK_ADD_UP(double, double)
EK_ADD_UP(float, BFloat16)
EK_ADD_UP(float, Float16)
#undef EK_ADD_UP

}  // namespace ek
