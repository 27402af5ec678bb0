// Numbers as they lie in memory, and the precision they are added in: 16-bit numbers are only stored, never summed.
#pragma once

#include <cstdint>
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace ek {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class S>
struct AccumulatorOf {
  using type = S;
};
template <>
struct AccumulatorOf<BFloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<Float16> {
  using type = float;
};
template <class S>
using Accumulator = typename AccumulatorOf<S>::type;

#if defined(__CUDACC__)
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(BFloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ inline float widen(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

__device__ inline void narrow(float x, float& out) { out = x; }
__device__ inline void narrow(double x, double& out) { out = x; }
__device__ inline void narrow(float x, BFloat16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ inline void narrow(float x, Float16& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }
#endif

}  // namespace ek
