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

#if defined(__AVX512BF16__)
template <class T>
inline constexpr bool kHasPairs = sizeof(T) == 4;

inline vfloat add_product(Vec<Bfloat16Pair> x, Vec<Bfloat16Pair> w, vfloat sum) {
  return (vfloat)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
// Numbers rounded and packed where they are: `count` of them, and what is left of their last two vectors.
inline Bfloat16Pair* pack_pairs(float* p, int64_t count) {
  constexpr int W = lanes<float>;
  const auto pairs = reinterpret_cast<Bfloat16Pair*>(p);
  for (int64_t k = 0; k < count; k += 2 * W)
    store(pairs + k / 2, (Vec<Bfloat16Pair>)_mm512_cvtne2ps_pbh((__m512)load(p + k + W), (__m512)load(p + k)));
  return pairs;
}
#else
template <class T>
inline constexpr bool kHasPairs = false;
#endif

}  // namespace
}  // namespace ek
