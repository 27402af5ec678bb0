// Small dense products on a block of edges. A block is a set of rows in scratch, one per edge, channels contiguous and
// padded with zeros to whole vectors; kTile rows at a time meet a panel of weights in registers.
//   multiply:    out[e] = (bias or out[e]) + w^T in[e]      channels of out are lanes, in[e][k] is broadcast
//   outer:       grad[o] += sum over e of g[e][o] in[e]     channels of in are lanes, g[e][o] is broadcast
// Sums over k run in order, whatever the row: a result does not depend on where in a block an edge stands.
#pragma once

#include <type_traits>

#include "simd.h"

namespace ek {
namespace {

constexpr int kTile = 4;  // rows of a register tile
#if defined(__AVX512F__)
constexpr int kPanel = 6;  // vectors of a register tile: 4 x 6 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kPanel = 3;
#else
constexpr int kPanel = 2;
#endif

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Channels of a row in scratch: whole vectors.
template <class T>
constexpr int64_t padded(int64_t channels) {
  return round_up(channels, lanes<T>);
}

// x - 0 is x for every x, so that no instruction but the broadcast is left.
template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// The first `count` lanes of a vector; the others are zero.
template <class T>
inline Bits<T> lane_mask(int64_t count) {
  return lane_numbers<T>() < decltype(Bits<T>{}[0] + 0)(count);
}
template <class T>
inline Vec<T> keep(Vec<T> v, Bits<T> mask) {
  return from_bits(bits(v) & mask);
}
#if defined(__AVX512F__)
inline vfloat load_part(const float* p, int64_t n) { return (vfloat)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
inline vdouble load_part(const double* p, int64_t n) { return (vdouble)_mm512_maskz_loadu_pd((1u << n) - 1, p); }
inline void store_part(float* p, vfloat v, int64_t n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
inline void store_part(double* p, vdouble v, int64_t n) { _mm512_mask_storeu_pd(p, (1u << n) - 1, (__m512d)v); }
#else
template <class T>
inline Vec<T> load_part(const T* p, int64_t n) {
  Vec<T> v{};
  for (int l = 0; l < lanes<T>; ++l)
    if (l < n) v[l] = p[l];
  return v;
}
template <class T>
inline void store_part(T* p, Vec<T> v, int64_t n) {
  for (int l = 0; l < lanes<T>; ++l)
    if (l < n) p[l] = v[l];
}
#endif

// Sum over lanes in the order of sum(), as shuffles.
template <class T>
inline T add_lanes(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_reduce_add_ps((__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_reduce_add_pd((__m512d)v);
#endif
  return sum(v);
}

// Calls f(width, first) for the panels of `vectors` vectors: as few as there can be, as even as they can be.
template <int kMost, class F>
inline void for_panels(int vectors, F&& f) {
  const int panels = (vectors + kMost - 1) / kMost;
  for (int p = 0, first = 0; p < panels; ++p) {
    const int width = vectors * (p + 1) / panels - first;
    switch (width) {
      case 1: f(std::integral_constant<int, 1>{}, first); break;
      case 2: f(std::integral_constant<int, kMost < 2 ? kMost : 2>{}, first); break;
      case 3: f(std::integral_constant<int, kMost < 3 ? kMost : 3>{}, first); break;
      case 4: f(std::integral_constant<int, kMost < 4 ? kMost : 4>{}, first); break;
      case 5: f(std::integral_constant<int, kMost < 5 ? kMost : 5>{}, first); break;
      default: f(std::integral_constant<int, kMost>{}, first);
    }
    first += width;
  }
}

// Rows of a block.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  T* operator[](int64_t e) const { return data + e * stride; }
};

// Weights as panels, each [in][width of the panel]: what multiply() streams through.
template <class T>
int64_t packed_size(int64_t in, int64_t out) {
  return in * padded<T>(out);
}
// element(k, o): the weight from input k to output o.
template <class T, class Element>
void pack_panels(int64_t in, int64_t out, Element&& element, T* packed) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(out) / W), [&](auto width, int first) {
    constexpr int span = decltype(width)::value * W;
    for (int64_t k = 0; k < in; ++k)
      for (int64_t q = 0; q < span; ++q) {
        const int64_t o = int64_t(first) * W + q;
        *packed++ = o < out ? element(k, o) : T(0);
      }
  });
}

template <bool kAccumulate, int kWidth, class T>
inline void multiply_tile(const T* in, int64_t in_stride, int64_t count, const T* w, const T* bias, T* out,
                          int64_t out_stride, Bits<T> last) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kTile][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) acc[r][v] = kAccumulate ? load(out + r * out_stride + v * W) : load(bias + v * W);
  for (int64_t k = 0; k < count; ++k) {
    Vec<T> row[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) row[v] = load(w + (k * kWidth + v) * W);
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) {
      const Vec<T> x = broadcast(in[r * in_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = mul_add(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r) {
    acc[r][kWidth - 1] = keep<T>(acc[r][kWidth - 1], last);
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) store(out + r * out_stride + v * W, acc[r][v]);
  }
}

// Rows of in [rows][in channels], of out [rows][out channels]; `rows` is rounded up to whole tiles.
// bias: padded like a row. Padding lanes of out are zero, even where an input is infinite.
template <bool kAccumulate, class T>
inline void multiply(Rows<T> in, int64_t in_channels, const T* packed, const T* bias, Rows<T> out, int64_t out_channels,
                     int64_t rows) {
  constexpr int W = lanes<T>;
  const int vectors = int(padded<T>(out_channels) / W);
  for_panels<kPanel>(vectors, [&](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t begin = int64_t(first) * W;
    const Bits<T> last = lane_mask<T>(out_channels - (begin + (kWidth - 1) * W));
    for (int64_t e = 0; e < rows; e += kTile)
      multiply_tile<kAccumulate, kWidth>(in[e], in.stride, in_channels, packed, bias + begin, out[e] + begin,
                                         out.stride, last);
    packed += in_channels * kWidth * W;
  });
}

}  // namespace
}  // namespace ek
