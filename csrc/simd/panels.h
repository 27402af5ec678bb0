// Rows of channels and the weights that meet them, as the products of dense.h and tiles.h read them.
#pragma once

#include <type_traits>

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
  void store(T* p, Vec<T> v) const { store_first(p, v, count_); }
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
  return sizeof(T) == 4 && !kByTiles<T> && channels % lanes<T> != 0 && 2 * (channels % lanes<T>) <= lanes<T>;
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

}  // namespace
}  // namespace ek
