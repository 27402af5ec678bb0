// Layers on columns: the products of a tile of edges with a layer's weights, there and back, and what is done to each
// number. A lane keeps its edges, a warp takes some channels of all of them; weights are read as broadcasts.
#pragma once

#include "../../core/launch.cuh"
#include "../../simd/activation.cuh"
#include "../../simd/pack.cuh"
#include "chain.h"

namespace ek {
namespace {

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ inline float inverse_root(float x) { return 1.0f / sqrtf(x); }
__device__ inline double inverse_root(double x) { return 1.0 / sqrt(x); }

__device__ inline int warp() { return threadIdx.x / kWarp; }

template <int k>
using Constant = std::integral_constant<int, k>;

// f(chunk_of(channels)).
template <class F>
__device__ inline void with_chunk(int channels, F&& f) {
  const int chunk = chunk_of(channels);
  if (chunk == 2)
    f(Constant<2>{});
  else if (chunk == 4)
    f(Constant<4>{});
  else
    f(Constant<8>{});
}

// kEdges edges of a lane in the columns of a tile.
template <class T, int kPerLane>
struct Layers {
  static constexpr int kEdges = kPerLane * kWarp, kPack = ChainRoom<T>::kPack, kStride = kEdges + kPack;

  // out = bias + weight in, plus what out holds. Where the last chunk goes beyond the weights, by less than eight rows,
  // it reads what stands there (other weights, or room left for it), and stores nothing of it.
  template <bool kAdd>
  static __device__ void forward(const T* in, int inputs, const T* weight, const T* bias, T* out, int outputs) {
    const int stride = ChainRoom<T>::packed(inputs), own = lane() * kPerLane;
    with_chunk(outputs, [&](auto chunk) {
      constexpr int kOut = decltype(chunk)::value;
      for (int o0 = warp() * kOut; o0 < outputs; o0 += kChainWarps * kOut) {
        T acc[kOut][kPerLane];
#pragma unroll
        for (int o = 0; o < kOut; ++o) {
          T z[kPerLane] = {};
          if (kAdd && o0 + o < outputs) load<T, kPerLane>(out + (o0 + o) * kStride + own, z);
#pragma unroll
          for (int r = 0; r < kPerLane; ++r) acc[o][r] = bias[o0 + o] + z[r];
        }
        const T* const rows = weight + o0 * stride;
#pragma unroll 1
        for (int k = 0; k < inputs; k += kPack) {
          T x[kPack][kPerLane] = {};
#pragma unroll
          for (int j = 0; j < kPack; ++j)
            if (k + j < inputs) load<T, kPerLane>(in + (k + j) * kStride + own, x[j]);
#pragma unroll
          for (int o = 0; o < kOut; ++o) {
            T w[kPack];
            load<T, kPack>(rows + o * stride + k, w);
#pragma unroll
            for (int j = 0; j < kPack; ++j)
#pragma unroll
              for (int r = 0; r < kPerLane; ++r) acc[o][r] = multiply_add(w[j], x[j][r], acc[o][r]);
          }
        }
#pragma unroll
        for (int o = 0; o < kOut; ++o)
          if (o0 + o < outputs) keep(out + (o0 + o) * kStride + own, acc[o]);
      }
    });
  }

  // in = weight^T grad.
  static __device__ void backward(const T* grad, int outputs, const T* weight, T* in, int inputs) {
    const int stride = ChainRoom<T>::packed(inputs), own = lane() * kPerLane;
    with_chunk(inputs, [&](auto chunk) {
      constexpr int kIn = decltype(chunk)::value, kRead = kIn < kPack ? kIn : kPack;
      for (int i0 = warp() * kIn; i0 < inputs; i0 += kChainWarps * kIn) {
        T acc[kIn][kPerLane] = {};
#pragma unroll 2
        for (int o = 0; o < outputs; ++o) {
          T g[kPerLane], w[kIn];
          load<T, kPerLane>(grad + o * kStride + own, g);
#pragma unroll
          for (int i = 0; i < kIn; i += kRead) load<T, kRead>(weight + o * stride + i0 + i, w + i);
#pragma unroll
          for (int i = 0; i < kIn; ++i)
#pragma unroll
            for (int r = 0; r < kPerLane; ++r) acc[i][r] = multiply_add(w[i], g[r], acc[i][r]);
        }
#pragma unroll
        for (int i = 0; i < kIn; ++i)
          if (i0 + i < inputs) keep(in + (i0 + i) * kStride + own, acc[i]);
      }
    });
  }

  // weight += sum over edges of grad in^T, bias += sum over edges of grad.
  static __device__ void outer(const T* grad, int outputs, const T* in, int inputs, T* weight, T* bias) {
    const auto tiles = [&](int rows, int columns) {
      return (outputs + 4 * rows - 1) / (4 * rows) * ((inputs + 8 * columns - 1) / (8 * columns));
    };
    if (tiles(2, 4) >= kChainWarps)
      outer_tiles<2, 4>(grad, outputs, in, inputs, weight, bias);
    else if (tiles(1, 2) >= kChainWarps)
      outer_tiles<1, 2>(grad, outputs, in, inputs, weight, bias);
    else
      outer_tiles<1, 1>(grad, outputs, in, inputs, weight, bias);
  }

  // What follows a product: z <- LayerNorm(z) if asked, its scales 1 / sqrt(variance + eps) to `inverse` if not null,
  // and h <- act(z). h and z may be the same: z is then lost.
  static __device__ void finish(Step step, double slope, T* z, T* h, int channels, T* inverse) {
    if (!step.norm) return activate(step.activation, slope, z, h, channels);
    static_assert(kEdges <= kChainThreads, "an edge is one thread's");
    const int e = threadIdx.x;
    if (e >= kEdges) return;
    const T share = T(1) / T(channels);
    T mean = 0, variance = 0;
#pragma unroll 4
    for (int c = 0; c < channels; ++c) mean += z[c * kStride + e];
    mean *= share;
#pragma unroll 4
    for (int c = 0; c < channels; ++c) {
      const T d = z[c * kStride + e] - mean;
      variance = multiply_add(d, d, variance);
    }
    const T scale = inverse_root(variance * share + T(kNormEpsilon));
    if (inverse) inverse[e] = scale;
    with_device_activation<T>(step.activation, slope, [&](auto act) {
#pragma unroll 4
      for (int c = 0; c < channels; ++c) {
        const int k = c * kStride + e;
        const T y = (z[k] - mean) * scale;
        if (h != z) z[k] = y;
        h[k] = act.value(y);
      }
    });
  }

  // grad: from LayerNorm's output y to its input.
  static __device__ void through_norm(const T* y, const T* inverse, int channels, T* grad) {
    const T share = T(1) / T(channels);
    for (int e = threadIdx.x; e < kEdges; e += kChainThreads) {
      T mean = 0, along = 0;
#pragma unroll 4
      for (int c = 0; c < channels; ++c) {
        const T g = grad[c * kStride + e];
        mean += g;
        along = multiply_add(g, y[c * kStride + e], along);
      }
      mean *= share;
      along *= share;
      const T scale = inverse[e];
#pragma unroll 4
      for (int c = 0; c < channels; ++c) {
        const int k = c * kStride + e;
        grad[k] = scale * (grad[k] - mean - y[k] * along);
      }
    }
  }

  // f(column entry) for all channels of all edges.
  template <class F>
  static __device__ void over_entries(int channels, F&& f) {
    for (int k = threadIdx.x; k < channels * kEdges; k += kChainThreads) f(k / kEdges * kStride + k % kEdges);
  }

  // h <- act(z); they may be the same.
  static __device__ void activate(Activation kind, double slope, const T* z, T* h, int channels) {
    if (z == h && kind == Activation::identity) return;
    with_device_activation<T>(kind, slope,
                              [&](auto act) { over_entries(channels, [&](int k) { h[k] = act.value(z[k]); }); });
  }

  // grad *= act'(z); where the slope is zero nothing passes, not even infinity.
  static __device__ void through_activation(Activation kind, double slope, const T* z, T* grad, int channels) {
    with_device_activation<T>(kind, slope, [&](auto act) {
      over_entries(channels, [&](int k) {
        const T s = act.slope(z[k]);
        grad[k] = s == T(0) ? T(0) : grad[k] * s;
      });
    });
  }

 private:
  // A warp has 4 kOut outputs by 8 kIn inputs, a lane every fourth and every eighth of them: rows that follow each
  // other are a pack apart in banks.
  template <int kOut, int kIn>
  static __device__ void outer_tiles(const T* grad, int outputs, const T* in, int inputs, T* weight, T* bias) {
    const int down = (outputs + 4 * kOut - 1) / (4 * kOut), wide = inputs > 0 ? (inputs + 8 * kIn - 1) / (8 * kIn) : 1;
    for (int t = warp(); t < down * wide; t += kChainWarps) {
      const int o0 = t / wide * (4 * kOut) + lane() / 8, i0 = t % wide * (8 * kIn) + lane() % 8;
      T acc[kOut][kIn] = {}, sum[kOut] = {};
      int from[kOut], by[kIn];
#pragma unroll
      for (int a = 0; a < kOut; ++a) from[a] = (o0 + 4 * a < outputs ? o0 + 4 * a : outputs - 1) * kStride;
#pragma unroll
      for (int b = 0; b < kIn; ++b) by[b] = (i0 + 8 * b < inputs ? i0 + 8 * b : 0) * kStride;
#pragma unroll 2
      for (int e = 0; e < kEdges; e += kPack) {
        T g[kOut][kPack];
#pragma unroll
        for (int a = 0; a < kOut; ++a) {
          load<T, kPack>(grad + from[a] + e, g[a]);
#pragma unroll
          for (int j = 0; j < kPack; ++j) sum[a] += g[a][j];
        }
#pragma unroll
        for (int b = 0; b < kIn; ++b) {
          T x[kPack];
          load<T, kPack>(in + by[b] + e, x);
#pragma unroll
          for (int a = 0; a < kOut; ++a)
#pragma unroll
            for (int j = 0; j < kPack; ++j) acc[a][b] = multiply_add(g[a][j], x[j], acc[a][b]);
        }
      }
#pragma unroll
      for (int a = 0; a < kOut; ++a) {
        const int o = o0 + 4 * a;
        if (o >= outputs) continue;
#pragma unroll
        for (int b = 0; b < kIn; ++b)
          if (i0 + 8 * b < inputs) weight[int64_t(o) * inputs + i0 + 8 * b] += acc[a][b];
        if (i0 == 0) bias[o] += sum[a];
      }
    }
  }

  static __device__ void keep(T* to, const T* from) {
    Pack<T, kPerLane> pack;
#pragma unroll
    for (int r = 0; r < kPerLane; ++r) pack.item[r] = from[r];
    *reinterpret_cast<Pack<T, kPerLane>*>(to) = pack;
  }
};

}  // namespace
}  // namespace ek
