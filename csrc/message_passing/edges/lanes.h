// Small dense layers with edges as lanes: a channel is kEdges numbers, one per edge, so that no lane is lost to narrow
// layers and LayerNorm needs no sum across lanes. Node tables and edge memory, whose channels are contiguous, are
// transposed on their way in and out.
#pragma once

#include <utility>

#include "../../simd/dense.h"
#include "../../simd/transpose.h"
#include "../channels/edges.h"

namespace ek {
namespace {

#if defined(__AVX512F__)
constexpr int kMostOut = 8;  // channels of a register tile, kGroup vectors each
#else
constexpr int kMostOut = 4;
#endif
constexpr int kGroup = 3;
static_assert(kEdges % (kGroup * lanes<float>) == 0 && kEdges % (kGroup * lanes<double>) == 0);

inline float sqrt_of(float x) { return __builtin_sqrtf(x); }
inline double sqrt_of(double x) { return __builtin_sqrt(x); }
template <class T>
inline Vec<T> root(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)v);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_sqrt_pd(__mmask8(-1), (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_sqrt_ps((__m256)v);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_sqrt_pd((__m256d)v);
#endif
  for (int l = 0; l < lanes<T>; ++l) v[l] = sqrt_of(v[l]);
  return v;
}

// 1 / sqrt(x) for x > 1e-6 or NaN, to a unit or two in the last place; of infinity 0.
template <class T>
inline Vec<T> inverse_root(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {  // an estimate of 14 bits and a Newton step
    const Vec<T> r = (Vec<T>)_mm512_maskz_rsqrt14_ps(__mmask16(-1), (__m512)x);
    return x > T(1e37) ? r : mul_add(mul_add(-x * r, r, broadcast<T>(1)), r * T(0.5), r);
  }
#endif
  return T(1) / root<T>(x);
}

// Calls f(width, first) for tiles of kMostOut channels and, at the end, of smaller powers of two.
template <class F>
inline void for_tiles(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + kMostOut <= channels; c += kMostOut) f(std::integral_constant<int, kMostOut>{}, c);
  if (kMostOut > 4 && c + 4 <= channels) {
    f(std::integral_constant<int, 4>{}, c);
    c += 4;
  }
  if (c + 2 <= channels) {
    f(std::integral_constant<int, 2>{}, c);
    c += 2;
  }
  if (c < channels) f(std::integral_constant<int, 1>{}, c);
}

// Weights in the order in which apply() reads them: tiles, each [in][channels of the tile].
// element(k, o): the weight from input k to output o.
template <class T, class Element>
void pack_tiles(int64_t in, int64_t out, Element&& element, T* packed) {
  for_tiles(out, [&](auto tile, int64_t first) {
    for (int64_t k = 0; k < in; ++k)
      for (int q = 0; q < decltype(tile)::value; ++q) *packed++ = element(k, first + q);
  });
}

// What a product begins with: nothing, the bias, the bias and what out holds.
enum class From { nothing, bias, sum };

template <From kFrom, bool kRelu, int kOut, class T>
inline void apply_tile(const T* in, int64_t count, const T* w, const T* bias, T* out) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kOut][kGroup];
#pragma GCC unroll 8
  for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < kGroup; ++v) {
      acc[o][v] = kFrom == From::nothing ? Vec<T>{} : broadcast(bias[o]);
      if (kFrom == From::sum) acc[o][v] += load(out + o * kEdges + v * W);
    }
  for (int64_t k = 0; k < count; ++k) {
    Vec<T> x[kGroup];
#pragma GCC unroll 8
    for (int v = 0; v < kGroup; ++v) x[v] = load(in + k * kEdges + v * W);
#pragma GCC unroll 8
    for (int o = 0; o < kOut; ++o) {
      const Vec<T> weight = broadcast(w[k * kOut + o]);
#pragma GCC unroll 8
      for (int v = 0; v < kGroup; ++v) acc[o][v] = mul_add(weight, x[v], acc[o][v]);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < kGroup; ++v) store(out + o * kEdges + v * W, kRelu ? max_of(Vec<T>{}, acc[o][v]) : acc[o][v]);
}

// out = bias + w^T in, channels [..][kEdges]; with kRelu, of what is positive.
template <From kFrom, bool kRelu = false, class T>
inline void apply(const T* in, int64_t in_channels, const T* packed, const T* bias, T* out, int64_t out_channels) {
  for_tiles(out_channels, [&](auto tile, int64_t first) {
    constexpr int kOut = decltype(tile)::value;
    const T* from = kFrom == From::nothing ? nullptr : bias + first;
    for (int e = 0; e < kEdges; e += kGroup * lanes<T>)
      apply_tile<kFrom, kRelu, kOut>(in + e, in_channels, packed, from, out + first * kEdges + e);
    packed += in_channels * kOut;
  });
}

// Rows [kEdges][stride], padded to whole vectors, to channels [channels][kEdges].
template <bool kAdd, class T>
inline void to_channels(Rows<T> rows, int64_t channels, T* out) {
  constexpr int W = lanes<T>;
  for (int64_t c = 0; c < channels; c += W) {
    const int count = channels - c < W ? int(channels - c) : W;
    for (int e = 0; e < kEdges; e += W) {
      Vec<T> r[W];
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q) r[q] = load(rows[e + q] + c);
      transpose<T>(r);
      T* to = out + c * kEdges + e;
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q)
        if (q < count) store(to + q * kEdges, kAdd ? load(to + q * kEdges) + r[q] : r[q]);
    }
  }
}

// Channels [channels][kEdges] to rows [kEdges][stride], padded with zeros to whole vectors.
template <class T>
inline void to_rows(const T* in, int64_t channels, Rows<T> rows) {
  constexpr int W = lanes<T>;
  for (int64_t c = 0; c < channels; c += W) {
    const int count = channels - c < W ? int(channels - c) : W;
    for (int e = 0; e < kEdges; e += W) {
      Vec<T> r[W];
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q) r[q] = q < count ? load(in + (c + q) * kEdges + e) : Vec<T>{};
      transpose<T>(r);
#pragma GCC unroll 16
      for (int q = 0; q < W; ++q) store(rows[e + q] + c, r[q]);
    }
  }
}

// z <- LayerNorm(z) over channels, and 1 / sqrt(variance + eps) of each edge.
template <class T>
inline void normalise(T* z, int64_t channels, T* inverse) {
  constexpr int W = lanes<T>;
  const T share = T(1) / T(channels);
  for (int e = 0; e < kEdges; e += kGroup * W) {
    Vec<T> mean[kGroup] = {}, scale[kGroup] = {};
    T* const from = z + e;
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kGroup; ++v) mean[v] += load(from + c * kEdges + v * W);
#pragma GCC unroll 4
    for (int v = 0; v < kGroup; ++v) mean[v] *= share;
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kGroup; ++v) {
        const Vec<T> d = load(from + c * kEdges + v * W) - mean[v];
        scale[v] = mul_add(d, d, scale[v]);
      }
#pragma GCC unroll 4
    for (int v = 0; v < kGroup; ++v) {
      scale[v] = inverse_root<T>(scale[v] * share + T(kNormEpsilon));
      store(inverse + e + v * W, scale[v]);
    }
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kGroup; ++v) {
        T* const p = from + c * kEdges + v * W;
        store(p, (load(p) - mean[v]) * scale[v]);
      }
  }
}

// grad: back through an activation of slope d; of h itself instead, where h is max(0, .). Where the slope is zero
// nothing passes, not even infinity.
template <class T>
struct Slope {
  const T *d, *h;
  bool any() const { return d || h; }
  Vec<T> operator()(int64_t at, Vec<T> grad) const {
    if (h) return load(h + at) <= T(0) ? Vec<T>{} : grad;
    if (!d) return grad;
    const Vec<T> slope = load(d + at);
    return slope == T(0) ? Vec<T>{} : grad * slope;
  }
};

// grad: from an activation's output to LayerNorm's output y, and to its input.
template <class T>
inline void through_norm(Slope<T> slope, const T* y, const T* inverse, int64_t channels, T* grad) {
  constexpr int W = lanes<T>;
  const T share = T(1) / T(channels);
  for (int e = 0; e < kEdges; e += kGroup * W) {
    Vec<T> mean[kGroup] = {}, along[kGroup] = {}, scale[kGroup];
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kGroup; ++v) {
        const int64_t at = c * kEdges + e + v * W;
        const Vec<T> g = slope(at, load(grad + at));
        store(grad + at, g);
        mean[v] += g;
        along[v] = mul_add(g, load(y + at), along[v]);
      }
#pragma GCC unroll 4
    for (int v = 0; v < kGroup; ++v) {
      mean[v] *= share;
      along[v] *= share;
      scale[v] = load(inverse + e + v * W);
    }
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < kGroup; ++v) {
        T* const g = grad + c * kEdges + e + v * W;
        store(g, scale[v] * (load(g) - mean[v] - load(y + c * kEdges + e + v * W) * along[v]));
      }
  }
}

template <int kOut, int kWidth, class T>
inline void weights_tile(const T* g, const T* in, int64_t in_stride, T* grad, int64_t grad_stride) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kOut][kWidth] = {};
  for (int e = 0; e < kEdges; ++e) {
    Vec<T> x[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) x[v] = load(in + e * in_stride + v * W);
#pragma GCC unroll 8
    for (int o = 0; o < kOut; ++o) {
      const Vec<T> weight = broadcast(g[o * kEdges + e]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[o][v] = mul_add(weight, x[v], acc[o][v]);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOut; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) {
      T* p = grad + o * grad_stride + v * W;
      store(p, load(p) + acc[o][v]);
    }
}

// grad[o] += sum over edges of g[o][e] in[e]; in: rows, padded; grad: rows of padded(in_channels).
template <class T>
inline void add_weights(const T* g, int64_t out_channels, Rows<T> in, int64_t in_channels, T* grad) {
  constexpr int W = lanes<T>;
  const int64_t stride = padded<T>(in_channels);
  for_panels<2>(int(stride / W), [&](auto panel, int first) {
    for_tiles(out_channels, [&](auto tile, int64_t o) {
      weights_tile<decltype(tile)::value, decltype(panel)::value>(g + o * kEdges, in[0] + first * W, in.stride,
                                                                  grad + o * stride + first * W, stride);
    });
  });
}

// grad[o] += sum over edges of g[o][e]
template <class T>
inline void add_bias(const T* g, int64_t channels, T* grad) {
  for (int64_t o = 0; o < channels; ++o) {
    Vec<T> sum{};
    for (int e = 0; e < kEdges; e += lanes<T>) sum += load(g + o * kEdges + e);
    grad[o] += add_lanes(sum);
  }
}

}  // namespace
}  // namespace ek
