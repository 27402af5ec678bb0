// Small dense products on a block of edges. A block is a set of rows in scratch, one per edge, channels contiguous and
// padded with zeros to whole vectors; kTile rows at a time meet a panel of weights in registers.
//   multiply:    out[e] = (bias or out[e]) + w^T in[e]      channels of out are lanes, in[e][k] is broadcast
//                E: type of the inputs and weights; bfloat16 pairs count as one input and give sums of float32
//   outer:       grad[o] += sum over e of g[e][o] in[e]     channels of in are lanes, g[e][o] is broadcast
// Sums over k run in order, whatever the row: a result does not depend on where in a block an edge stands.
#pragma once

#include <type_traits>

#include "activation.h"
#include "bfloat16.h"
#include "simd.h"

namespace ek {
namespace {

constexpr int kTile = 4;  // rows of a register tile
#if defined(__AVX512F__)
constexpr int kPanel = 6;      // vectors of a register tile: 4 x 6 accumulators of 32 registers
constexpr int kHalfTile = 16;  // rows of a tile half a vector wide
#elif defined(__AVX2__)
constexpr int kPanel = 3, kHalfTile = 8;
#else
constexpr int kPanel = 2, kHalfTile = 8;
#endif

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Channels of a row in scratch: whole vectors.
template <class T>
constexpr int64_t padded(int64_t channels) {
  return round_up(channels, lanes<T>);
}

// The last vector of a node table's row, of which `count` lanes (all, if more) belong to it; the others are zero.
template <class T>
class Tail {
 public:
#if defined(__AVX512F__)
  explicit Tail(int64_t count) : mask_(count < lanes<T> ? (1u << count) - 1 : ~0u) {}
  Vec<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(__mmask16(mask_), p);
    if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(__mmask8(mask_), p);
  }
  void store(T* p, Vec<T> v) const {
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, __mmask16(mask_), (__m512)v);
    if constexpr (sizeof(T) == 8) _mm512_mask_storeu_pd(p, __mmask8(mask_), (__m512d)v);
  }
  Vec<T> keep(Vec<T> v) const {
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_mov_ps(__mmask16(mask_), (__m512)v);
    if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_mov_pd(__mmask8(mask_), (__m512d)v);
  }

 private:
  unsigned mask_;
#else
  explicit Tail(int64_t count) : count_(count < lanes<T> ? int(count) : lanes<T>), mask_(lane_numbers<T>() < count_) {}
  Vec<T> load(const T* p) const {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_maskload_ps(p, (__m256i)mask_);
    if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_maskload_pd(p, (__m256i)mask_);
#endif
    if (count_ == lanes<T>) return ek::load(p);
    Vec<T> v{};
    for (int l = 0; l < count_; ++l) v[l] = p[l];
    return v;
  }
  void store(T* p, Vec<T> v) const {
    if (count_ == lanes<T>) return ek::store(p, v);
    for (int l = 0; l < count_; ++l) p[l] = v[l];
  }
  Vec<T> keep(Vec<T> v) const { return from_bits(bits(v) & mask_); }

 private:
  int count_;
  Bits<T> mask_;
#endif
};

// Sum over lanes, by halves: the order of sum(), as shuffles.
inline float add_lanes(Vec<float> v) {
#if defined(__AVX512F__)
  const auto w = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const auto w = v;
#endif
#if defined(__AVX2__)
  const auto x = __builtin_shufflevector(w, w, 0, 1, 2, 3) + __builtin_shufflevector(w, w, 4, 5, 6, 7);
#else
  const auto x = w;
#endif
  const auto y = x + __builtin_shufflevector(x, x, 2, 3, 2, 3);
  return y[0] + y[1];
}
inline double add_lanes(Vec<double> v) {
#if defined(__AVX512F__)
  const auto w = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  const auto w = v;
#endif
#if defined(__AVX2__)
  const auto x = __builtin_shufflevector(w, w, 0, 1) + __builtin_shufflevector(w, w, 2, 3);
#else
  const auto x = w;
#endif
  return x[0] + x[1];
}

// Calls f(width, first) for the panels of `vectors` vectors: as few as there can be, as even as they can be.
template <int kMost, class F>
inline void for_panels(int vectors, F&& f) {
  const int panels = (vectors + kMost - 1) / kMost;
  for (int p = 0, first = 0; p < panels; ++p) {
    const int width = vectors * (p + 1) / panels - first;
    switch (width) {
      case 1: f(std::integral_constant<int, 1>{}, first); break;
      case 2: f(std::integral_constant < int, kMost<2 ? kMost : 2>{}, first); break;
      case 3: f(std::integral_constant < int, kMost<3 ? kMost : 3>{}, first); break;
      case 4: f(std::integral_constant < int, kMost<4 ? kMost : 4>{}, first); break;
      case 5: f(std::integral_constant < int, kMost<5 ? kMost : 5>{}, first); break;
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

// Where at most half of a row's last vector is in use, multiply() fills the vector with two inputs instead: lanes 2q
// and 2q + 1 belong to output q and take input k and k + 1. Both stand side by side in the row, as one double.
template <class T>
constexpr bool half_tail(int64_t channels) {
  return sizeof(T) == 4 && channels % lanes<T> != 0 && 2 * (channels % lanes<T>) <= lanes<T>;
}
template <class T>
constexpr int whole_vectors(int64_t channels) {
  return int(padded<T>(channels) / lanes<T>) - half_tail<T>(channels);
}

// Weights as multiply() streams through them: panels, each [in][width of the panel], then the half tail.
template <class T>
int64_t packed_size(int64_t in, int64_t out) {
  return round_up(in, 2) * padded<T>(out);
}
// element(k, o): the weight from input k to output o.
template <class T, class Element>
void pack_panels(int64_t in, int64_t out, Element&& element, T* packed) {
  constexpr int W = lanes<T>;
  auto put = [&](int64_t k, int64_t o) { *packed++ = k < in && o < out ? element(k, o) : T(0); };
  for_panels<kPanel>(whole_vectors<T>(out), [&](auto width, int first) {
    for (int64_t k = 0; k < in; ++k)
      for (int64_t q = 0; q < decltype(width)::value * W; ++q) put(k, first * W + q);
  });
  if (half_tail<T>(out))
    for (int64_t k = 0; k < in; k += 2)
      for (int64_t q = 0; q < W; ++q) put(k + q % 2, whole_vectors<T>(out) * W + q / 2);
}

// What becomes of a product: out = it, out = relu(it), out += it.
enum class Into { place, relu, sum };

template <Into kInto, int kWidth, class E, class T>
inline void multiply_tile(const E* in, int64_t in_stride, int64_t count, const E* w, const T* bias, T* out,
                          int64_t out_stride, Tail<T> tail) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kTile][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) acc[r][v] = load(kInto == Into::sum ? out + r * out_stride + v * W : bias + v * W);
  for (int64_t k = 0; k < count; ++k) {
    Vec<E> row[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) row[v] = load(w + (k * kWidth + v) * W);
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) {
      const Vec<E> x = broadcast(in[r * in_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = add_product(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r) {
    acc[r][kWidth - 1] = tail.keep(acc[r][kWidth - 1]);
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v)
      store(out + r * out_stride + v * W, kInto == Into::relu ? max_of(Vec<T>{}, acc[r][v]) : acc[r][v]);
  }
}

// Sums of neighbouring lanes, in the lower half; zeros in the upper.
inline vfloat add_pairs(vfloat v) {
  const vfloat zero{};
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, zero, 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16) +
         __builtin_shufflevector(v, zero, 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, zero, 0, 2, 4, 6, 8, 8, 8, 8) +
         __builtin_shufflevector(v, zero, 1, 3, 5, 7, 8, 8, 8, 8);
#else
  return __builtin_shufflevector(v, zero, 0, 2, 4, 4) + __builtin_shufflevector(v, zero, 1, 3, 4, 4);
#endif
}

template <Into kInto, class E>
inline void multiply_half(const E* in, int64_t in_stride, int64_t count, const E* w, const float* bias, float* out,
                          int64_t out_stride, Tail<float> tail) {
  vfloat acc[kHalfTile] = {};
  for (int64_t k = 0; k < count; k += 2) {
    const Vec<E> row = load(w + k / 2 * lanes<float>);
#pragma GCC unroll 16
    for (int r = 0; r < kHalfTile; ++r) {
      double pair;
      std::memcpy(&pair, in + r * in_stride + k, sizeof pair);
      acc[r] = add_product((Vec<E>)broadcast(pair), row, acc[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kHalfTile; ++r) {
    float* to = out + r * out_stride;
    const vfloat v = tail.keep(add_pairs(acc[r]) + load(kInto == Into::sum ? to : bias));
    store(to, kInto == Into::relu ? max_of(vfloat{}, v) : v);
  }
}

// Rows of in [rows][in channels], of out [rows][out channels]; `rows` is rounded up to whole tiles.
// bias: padded like a row. Padding lanes of out are zero, even where an input is infinite.
template <Into kInto, class E, class T>
inline void multiply(Rows<E> in, int64_t in_channels, const E* packed, const T* bias, Rows<T> out, int64_t out_channels,
                     int64_t rows) {
  static_assert(sizeof(E) == sizeof(T));
  constexpr int W = lanes<T>;
  for_panels<kPanel>(whole_vectors<T>(out_channels), [&](auto width, int first) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t begin = int64_t(first) * W;
    const Tail<T> tail(out_channels - (begin + (kWidth - 1) * W));
    for (int64_t e = 0; e < rows; e += kTile)
      multiply_tile<kInto, kWidth>(in[e], in.stride, in_channels, packed, bias + begin, out[e] + begin, out.stride,
                                   tail);
    packed += in_channels * kWidth * W;
  });
  if constexpr (sizeof(T) == 4) {
    if (!half_tail<T>(out_channels)) return;
    const int64_t begin = int64_t(whole_vectors<T>(out_channels)) * W;
    for (int64_t e = 0; e < rows; e += kHalfTile)
      multiply_half<kInto>(in[e], in.stride, in_channels, packed, bias + begin, out[e] + begin, out.stride,
                           Tail<T>(out_channels - begin));
  }
}

template <int kRows, int kWidth, class T>
inline void outer_tile(const T* g, int64_t g_stride, const T* in, int64_t in_stride, int64_t rows, T* grad,
                       int64_t grad_stride) {
  constexpr int W = lanes<T>;
  Vec<T> acc[kRows][kWidth] = {};
  for (int64_t e = 0; e < rows; ++e) {
    Vec<T> row[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) row[v] = load(in + e * in_stride + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> x = broadcast(g[e * g_stride + r]);
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[r][v] = mul_add(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) {
      T* p = grad + r * grad_stride + v * W;
      store(p, load(p) + acc[r][v]);
    }
}

// grad[o] += sum over e < rows of g[e][o] in[e], o < g_channels; the block's sum is formed first, then added.
template <class T>
inline void outer(Rows<T> g, int64_t g_channels, Rows<T> in, int64_t in_channels, int64_t rows, Rows<T> grad) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(in_channels) / W), [&](auto panel, int first) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t k = int64_t(first) * W;
    int64_t o = 0;
    for (; o + kTile <= g_channels; o += kTile)
      outer_tile<kTile, kWidth>(g[0] + o, g.stride, in[0] + k, in.stride, rows, grad[o] + k, grad.stride);
    for (; o < g_channels; ++o)
      outer_tile<1, kWidth>(g[0] + o, g.stride, in[0] + k, in.stride, rows, grad[o] + k, grad.stride);
  });
}

// grad += sum over e < rows of weight[e] in[e]; a weight of null is one.
template <class T>
inline void add_rows(Rows<T> in, int64_t channels, const T* weight, int64_t rows, T* grad) {
  constexpr int W = lanes<T>;
  for_panels<kPanel>(int(padded<T>(channels) / W), [&](auto panel, int first) {
    constexpr int kWidth = decltype(panel)::value;
    const int64_t k = int64_t(first) * W;
    Vec<T> acc[kWidth] = {};
    for (int64_t e = 0; e < rows; ++e) {
      const Vec<T> x = broadcast(weight ? weight[e] : T(1));
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) acc[v] = mul_add(x, load(in[e] + k + v * W), acc[v]);
    }
    for (int v = 0; v < kWidth; ++v) store(grad + k + v * W, load(grad + k + v * W) + acc[v]);
  });
}

}  // namespace
}  // namespace ek
