// A square of lanes, transposed in registers.
#pragma once

#include <utility>

#include "simd.h"

namespace ek {
namespace {

template <int kDistance, bool kUpper, class V, size_t... I>
inline V exchange(V a, V b, std::index_sequence<I...>) {
  constexpr int W = sizeof...(I);
  // a lane whose bit is clear comes from a, the others from b; the upper of both results takes the other halves
  return __builtin_shufflevector(
      a, b, (I & kDistance) ? int(kUpper ? W + I : W + I - kDistance) : int(kUpper ? I + kDistance : I)...);
}

// r[q][l] <-> r[l][q]
template <class T, int kDistance = lanes<T> / 2>
inline void transpose(Vec<T>* r) {
  using Index = std::make_index_sequence<lanes<T>>;
#pragma GCC unroll 16
  for (int q = 0; q < lanes<T>; ++q)
    if (!(q & kDistance)) {
      const Vec<T> a = r[q], b = r[q + kDistance];
      r[q] = exchange<kDistance, false>(a, b, Index{});
      r[q + kDistance] = exchange<kDistance, true>(a, b, Index{});
    }
  if constexpr (kDistance > 1) transpose<T, kDistance / 2>(r);
}

}  // namespace
}  // namespace ek
