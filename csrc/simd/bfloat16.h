// bfloat16 operands of float32 sums: rounded numbers in their own type, or, where the CPU multiplies them, in pairs.
#pragma once

#include "simd.h"

namespace ek {
namespace {

// To the nearest, ties to even; a NaN stays one.
inline uint16_t bfloat16_bits(float x) {
  uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  return x == x ? uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16) : uint16_t(b >> 16 | 0x40);
}
template <class T>
inline T round_to_bfloat16(T x) {
  const uint32_t b = uint32_t(bfloat16_bits(float(x))) << 16;
  float rounded;
  std::memcpy(&rounded, &b, sizeof rounded);
  return T(rounded);
}

// Two neighbours of a sum, the first in the low half.
using Bfloat16Pair = int32_t;
inline Bfloat16Pair bfloat16_pair(float first, float second) {
  return Bfloat16Pair(uint32_t(bfloat16_bits(second)) << 16 | bfloat16_bits(first));
}

// One step of a sum: a product of numbers, or the two of a pair.
template <class V>
inline V add_product(V x, V w, V sum) {
  return mul_add(x, w, sum);
}

// Products of pairs, by dot products of registers or by tiles. EK_PLAIN_TILES: tiles in plain C++, for tests.
#if defined(__AMX_BF16__) || defined(EK_PLAIN_TILES)
#define EK_TILES 1
#endif
#if defined(__AVX512BF16__) || defined(EK_TILES)
template <class T>
inline constexpr bool kHasPairs = sizeof(T) == 4;
#else
template <class T>
inline constexpr bool kHasPairs = false;
#endif
template <class E>
inline constexpr bool kByTiles = false;
#if defined(EK_TILES)
template <>
inline constexpr bool kByTiles<Bfloat16Pair> = true;
#endif

#if defined(__AVX512BF16__)
inline vfloat add_product(Vec<Bfloat16Pair> x, Vec<Bfloat16Pair> w, vfloat sum) {
  return (vfloat)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
inline Vec<Bfloat16Pair> pairs_of(vfloat low, vfloat high) {
  return (Vec<Bfloat16Pair>)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}
// The numbers of two vectors lane by lane: pairs of a sum over rows.
inline Vec<Bfloat16Pair> interleaved(vfloat first, vfloat second) {
  static_assert(lanes<float> == 16);
  constexpr __mmask32 kAll = ~__mmask32(0);
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder), numbers = (__m512i)pairs_of(first, second);
  return (Vec<Bfloat16Pair>)_mm512_maskz_permutexvar_epi16(kAll, order, numbers);
}
inline vfloat rounded_to_bfloat16(vfloat x) {
  constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of what the functions without a mask leave undefined
  return (vfloat)_mm512_maskz_slli_epi32(kAll,
                                         _mm512_maskz_cvtepu16_epi32(kAll, (__m256i)_mm512_cvtneps_pbh((__m512)x)), 16);
}
#elif defined(EK_TILES)
inline Vec<Bfloat16Pair> pairs_of(vfloat low, vfloat high) {
  constexpr int W = lanes<float>;
  float x[2 * W];
  Bfloat16Pair pairs[W];
  store(x, low);
  store(x + W, high);
  for (int l = 0; l < W; ++l) pairs[l] = bfloat16_pair(x[2 * l], x[2 * l + 1]);
  return load(pairs);
}
inline Vec<Bfloat16Pair> interleaved(vfloat first, vfloat second) {
  Vec<Bfloat16Pair> pairs;
  for (int l = 0; l < lanes<float>; ++l) pairs[l] = bfloat16_pair(first[l], second[l]);
  return pairs;
}
inline vfloat rounded_to_bfloat16(vfloat x) {
  for (int l = 0; l < lanes<float>; ++l) x[l] = round_to_bfloat16(float(x[l]));
  return x;
}
#endif

#if defined(__AVX512BF16__) || defined(EK_TILES)
// Numbers rounded and packed in `to`, which may be where they are: `count` of them, and what is left of their last two
// vectors. kRest: what rounding takes away, rounded and packed there; of an infinity a NaN.
template <bool kRest = false>
inline Bfloat16Pair* pack_pairs(const float* p, int64_t count, float* to, float* rest = nullptr) {
  constexpr int W = lanes<float>;
  const auto pairs = reinterpret_cast<Bfloat16Pair*>(to);
  const auto lost = [](vfloat x) { return x - rounded_to_bfloat16(x); };
  for (int64_t k = 0; k < count; k += 2 * W) {
    const vfloat low = load(p + k), high = load(p + k + W);
    if constexpr (kRest) store(reinterpret_cast<Bfloat16Pair*>(rest) + k / 2, pairs_of(lost(low), lost(high)));
    store(pairs + k / 2, pairs_of(low, high));
  }
  return pairs;
}
#endif

}  // namespace
}  // namespace ek
