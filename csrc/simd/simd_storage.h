// Rows of stored numbers as SIMD lanes of their accumulator: loads widen, stores round to nearest even.
#pragma once

#include "../core/storage.h"
#include "simd.h"

namespace ek {
namespace {

template <class S>
inline constexpr int row_lanes = lanes<Accumulator<S>>;

typedef uint16_t Words __attribute__((vector_size(2 * lanes<float>)));
typedef uint32_t Unsigned __attribute__((vector_size(EK_VECTOR_BYTES)));

inline vfloat widen(Words w, BFloat16) { return (vfloat)(__builtin_convertvector(w, Unsigned) << 16); }

// Neither a subnormal half nor the way to one passes through a subnormal float: flushing them changes nothing.
inline vfloat widen(Words w, Float16) {
  const Unsigned h = __builtin_convertvector(w, Unsigned), magnitude = h & 0x7fff;
  const vfloat subnormal = __builtin_convertvector((Bits<float>)magnitude, vfloat) * 0x1p-24f;
  const Unsigned rebias = magnitude >= 0x7c00 ? Unsigned{} + (224u << 23) : Unsigned{} + (112u << 23);
  const Unsigned normal = (magnitude << 13) + rebias;
  const Unsigned value = magnitude < 0x400 ? (Unsigned)subnormal : normal;
  return (vfloat)(value | (h & 0x8000) << 16);
}

inline Words narrow(vfloat v, BFloat16) {
  const Unsigned b = (Unsigned)v;
  const Unsigned rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : Unsigned{} + 0x7fc0, Words);
}

inline Words narrow(vfloat v, Float16) {
  const Unsigned b = (Unsigned)v, a = b & 0x7fffffff;
  const Unsigned normal = (a + 0xfff + ((a >> 13) & 1) - (112u << 23)) >> 13;
  const vfloat half = splat(0.5f);  // adding it rounds to multiples of 2^-24
  const Unsigned subnormal = (Unsigned)((vfloat)a + half) - (Unsigned)half;
  const Unsigned finite = a < (113u << 23) ? subnormal : normal;
  const Unsigned value = a >= (143u << 23) ? (v == v ? Unsigned{} + 0x7c00 : Unsigned{} + 0x7e00) : finite;
  return __builtin_convertvector(value | (b & 0x80000000) >> 16, Words);
}

inline vfloat load_row(const float* p) { return load(p); }
inline vdouble load_row(const double* p) { return load(p); }
inline void store_row(float* p, vfloat v) { store(p, v); }
inline void store_row(double* p, vdouble v) { store(p, v); }
template <class S>
inline vfloat load_row(const S* p) {
  Words w;
  std::memcpy(&w, p, sizeof w);
  return widen(w, S{});
}
template <class S>
inline void store_row(S* p, vfloat v) {
  const Words w = narrow(v, S{});
  std::memcpy(p, &w, sizeof w);
}

// The first n lanes, n <= row_lanes; the others are zero, and memory behind the row is not touched.
template <class S>
inline Vec<Accumulator<S>> load_some(const S* p, int n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4) return (vfloat)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
  if constexpr (sizeof(S) == 8) return (vdouble)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#elif defined(__AVX2__)
  if constexpr (sizeof(S) == 4) return (vfloat)_mm256_maskload_ps(p, (__m256i)(lane_numbers<float>() < n));
  if constexpr (sizeof(S) == 8) return (vdouble)_mm256_maskload_pd(p, (__m256i)(lane_numbers<double>() < int64_t(n)));
#endif
  S row[row_lanes<S>] = {};
  for (int l = 0; l < n; ++l) row[l] = p[l];
  return load_row(row);
}
template <class S>
inline void store_some(S* p, Vec<Accumulator<S>> v, int n) {
  if constexpr (sizeof(S) >= 4) return store_first(p, v, n);
  S row[row_lanes<S>];
  store_row(row, v);
  for (int l = 0; l < n; ++l) p[l] = row[l];
}

}  // namespace
}  // namespace ek
