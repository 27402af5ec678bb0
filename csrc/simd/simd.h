// SIMD lanes as compiler vector extensions; their width follows the instruction set this file is compiled for.
// Everything here has internal linkage: the same header serves several instruction sets in one library.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define EK_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define EK_VECTOR_BYTES 32
#else
#define EK_VECTOR_BYTES 16
#endif

namespace ek {
namespace {

template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(EK_VECTOR_BYTES)));
  typedef int32_t bits __attribute__((vector_size(EK_VECTOR_BYTES)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(EK_VECTOR_BYTES)));
  typedef int64_t bits __attribute__((vector_size(EK_VECTOR_BYTES)));
};
template <>
struct VecOf<int32_t> {
  typedef VecOf<float>::bits type;
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
using Bits = typename VecOf<T>::bits;  // integer lanes of the same width; also what a comparison gives

template <class T>
inline constexpr int lanes = EK_VECTOR_BYTES / sizeof(T);

using vfloat = Vec<float>;
using vdouble = Vec<double>;

template <class T>
inline Vec<T> splat(T x) {
  return Vec<T>{} + x;
}
template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// The first `words` numbers of four bytes, by halves: a masked store takes AMD's processors up to 42 operations.
inline void store_words(char* p, __m256i v, int64_t words) {
  if (words >= 8) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  __m128i x = _mm256_castsi256_si128(v);
  if (words & 4) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
    p += 16;
    x = _mm256_extracti128_si256(v, 1);
  }
  if (words & 2) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), x);
    p += 8;
    x = _mm_unpackhi_epi64(x, x);
  }
  if (words & 1) _mm_storeu_si32(p, x);
}
#endif

// The first `count` lanes, all if there are not so many; memory behind them is not touched.
template <class T>
inline void store_first(T* p, Vec<T> v, int64_t count) {
#if defined(__AVX512F__)
  const unsigned mask = count < lanes<T> ? (1u << count) - 1 : ~0u;
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)v);
  if constexpr (sizeof(T) == 8) _mm512_mask_storeu_pd(p, __mmask8(mask), (__m512d)v);
#elif defined(__AVX2__)
  store_words(reinterpret_cast<char*>(p), (__m256i)v, count * int64_t(sizeof(T) / 4));
#else
  if (count >= lanes<T>) return store(p, v);
  for (int l = 0; l < count; ++l) p[l] = v[l];
#endif
}

// fma(a, b, c) = a * b + c with one rounding, also where the instruction set has no such instruction.
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#if defined(__AVX512F__)
inline vfloat fma(vfloat a, vfloat b, vfloat c) { return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline vdouble fma(vdouble a, vdouble b, vdouble c) {
  return (vdouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__AVX2__)
inline vfloat fma(vfloat a, vfloat b, vfloat c) { return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline vdouble fma(vdouble a, vdouble b, vdouble c) {
  return (vdouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#else
inline vfloat fma(vfloat a, vfloat b, vfloat c) {
  for (int l = 0; l < lanes<float>; ++l) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
  return c;
}
inline vdouble fma(vdouble a, vdouble b, vdouble c) {
  for (int l = 0; l < lanes<double>; ++l) c[l] = __builtin_fma(a[l], b[l], c[l]);
  return c;
}
#endif

// a * b + c, with one rounding where that costs nothing. Kernels are compiled without contraction: a fused
// multiply-add happens exactly where it is written.
template <class V>
inline V mul_add(V a, V b, V c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// Sum over lanes in a fixed order (pairwise halves).
inline float sum(vfloat v) {
  for (int w = lanes<float> / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) v[l] += v[l + w];
  return v[0];
}
inline double sum(vdouble v) {
  for (int w = lanes<double> / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) v[l] += v[l + w];
  return v[0];
}

// NaN in x comes out as NaN: comparisons with NaN are false, and the false branch is x.
template <class V>
inline V max_of(V bound, V x) {
  return bound > x ? bound : x;
}
template <class V>
inline V min_of(V bound, V x) {
  return bound < x ? bound : x;
}
#if defined(__AVX512F__)  // the same in one instruction: its second operand wins where they do not compare
inline vfloat max_of(vfloat bound, vfloat x) {
  return (vfloat)_mm512_maskz_max_ps(__mmask16(-1), (__m512)bound, (__m512)x);
}
inline vfloat min_of(vfloat bound, vfloat x) {
  return (vfloat)_mm512_maskz_min_ps(__mmask16(-1), (__m512)bound, (__m512)x);
}
#elif defined(__AVX2__)
inline vfloat max_of(vfloat bound, vfloat x) { return (vfloat)_mm256_max_ps((__m256)bound, (__m256)x); }
inline vfloat min_of(vfloat bound, vfloat x) { return (vfloat)_mm256_min_ps((__m256)bound, (__m256)x); }
inline vdouble max_of(vdouble bound, vdouble x) { return (vdouble)_mm256_max_pd((__m256d)bound, (__m256d)x); }
inline vdouble min_of(vdouble bound, vdouble x) { return (vdouble)_mm256_min_pd((__m256d)bound, (__m256d)x); }
#endif

// 0, 1, 2, ... one number a lane.
template <class T>
inline Bits<T> lane_numbers() {
  Bits<T> n;
  for (int l = 0; l < lanes<T>; ++l) n[l] = l;
  return n;
}

inline Bits<float> bits(vfloat v) { return (Bits<float>)v; }
inline Bits<double> bits(vdouble v) { return (Bits<double>)v; }
inline vfloat from_bits(Bits<float> b) { return (vfloat)b; }
inline vdouble from_bits(Bits<double> b) { return (vdouble)b; }

// Which lanes a comparison found true: bit l stands for lane l.
template <class T>
inline unsigned lane_mask(Bits<T> found) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)found);
  if constexpr (sizeof(T) == 8) return _mm512_movepi64_mask((__m512i)found);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return unsigned(_mm256_movemask_ps((__m256)found));
  if constexpr (sizeof(T) == 8) return unsigned(_mm256_movemask_pd((__m256d)found));
#else
  unsigned mask = 0;
  for (int l = 0; l < lanes<T>; ++l) mask |= unsigned(found[l] & 1) << l;
  return mask;
#endif
}
// The other way: all bits of the lanes whose bit is set, of the mask's lowest ones.
template <class T>
inline Bits<T> masked_lanes(unsigned mask) {
  using L = decltype(Bits<T>{}[0] + 0);
  const Bits<T> own = (Bits<T>{} + L(1)) << lane_numbers<T>();
  return ((Bits<T>{} + L(mask)) & own) != Bits<T>{};
}

template <class V>
inline V abs(V x) {
  using B = decltype(bits(x));
  const B sign = bits(-V{});  // -0.0: the sign bit alone
  return from_bits(bits(x) & ~sign);
}
template <class V>
inline V copysign(V magnitude, V x) {
  using B = decltype(bits(x));
  const B sign = bits(-V{});
  return from_bits((bits(magnitude) & ~sign) | (bits(x) & sign));
}

// Constants of log and exp per precision. The logarithm's series in s = f / (2 + f) and the exponential's Taylor
// series are cut where their remainder is below half a unit in the last place.
template <class T>
struct Series;
template <>
struct Series<float> {
  static constexpr int mantissa = 23;
  static constexpr int32_t bias = 127, sqrt_half = 0x3f3504f3;
  static constexpr float ln2_hi = 0.693145751953125f, ln2_lo = 1.42860677e-6f, log2e = 1.44269504f;
  static constexpr float exp_max = 88.72284f, exp_min = -103.97208f;
  static constexpr float round_magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int log_terms = 5, exp_terms = 7;
};
template <>
struct Series<double> {
  static constexpr int mantissa = 52;
  static constexpr int64_t bias = 1023, sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double log2e = 1.44269504088896338700;
  static constexpr double exp_max = 709.782712893384, exp_min = -745.1332191019412;
  static constexpr double round_magic = 6755399441055744.;
  static constexpr int log_terms = 11, exp_terms = 13;
};

template <class T, class V = Vec<T>>
inline V log_of(V x) {  // finite x > 0, normal
  using S = Series<T>;
  using B = Bits<T>;
  // x = 2^e * m with m in [sqrt(1/2), sqrt(2))
  const B shifted = bits(x) - S::sqrt_half;
  const B e = shifted >> S::mantissa;
  const V m = from_bits(bits(x) - (e << S::mantissa));
  const V f = m - T(1), s = f / (f + T(2)), s2 = s * s;
  V p = splat<T>(T(2) / T(2 * S::log_terms + 1));
#pragma GCC unroll 16  // makes the coefficients constants: otherwise each of them is a division
  for (int k = S::log_terms - 1; k >= 1; --k) p = mul_add(p, s2, splat<T>(T(2) / T(2 * k + 1)));
  // log m = 2 s + s^3 p = f - s (f - s2 p), which keeps the leading term exact
  const V log_m = f - s * (f - s2 * p);
  const V ef = __builtin_convertvector(e, V);
  return mul_add(ef, splat<T>(S::ln2_hi), mul_add(ef, splat<T>(S::ln2_lo), log_m));
}

// log(1 + z) for z >= 0, inf and NaN: relative accuracy is kept for small z.
template <class T, class V = Vec<T>>
inline V log1p_of(V z) {
  const V u = z + T(1);
  const V r = log_of<T>(u) + (z - (u - T(1))) / u;
  return z <= splat(sizeof(T) == 4 ? T(3.4028234663852886e38) : T(1.7976931348623157e308)) ? r : z;
}

template <class T, class V = Vec<T>>
inline V exp_of(V x) {
  using S = Series<T>;
  using B = Bits<T>;
  const V c = max_of(splat(S::exp_min), min_of(splat(S::exp_max), x));
  const V shifted = c * S::log2e + S::round_magic;
  const V k = shifted - S::round_magic;
  const V r = mul_add(k, splat<T>(-S::ln2_lo), mul_add(k, splat<T>(-S::ln2_hi), c));
  T inverse_factorial = T(1);
  T coefficient[S::exp_terms + 1];
#pragma GCC unroll 16  // as above
  for (int i = 0; i <= S::exp_terms; ++i) {
    coefficient[i] = inverse_factorial;
    inverse_factorial /= T(i + 1);
  }
  V p = splat(coefficient[S::exp_terms]);
#pragma GCC unroll 16
  for (int i = S::exp_terms - 1; i >= 0; --i) p = mul_add(p, r, splat<T>(coefficient[i]));
  // 2^k in two factors, so that neither leaves the range of the exponent
  const B n = bits(shifted) - bits(splat(S::round_magic));
  const B half = n >> 1;
  const V a = from_bits((half + S::bias) << S::mantissa), b = from_bits((n - half + S::bias) << S::mantissa);
  const V y = p * a * b;
  return x > splat(S::exp_max) ? y / T(0) : y;
}

}  // namespace
}  // namespace ek
