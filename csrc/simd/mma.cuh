// Products of small matrices on tensor cores: a warp's accumulators [16 x 8] += A [16 x 8] B [8 x 8].
//
// Lane 4 g + t (g = 0 .. 7, t = 0 .. 3) holds, of
//   the accumulators  rows g and g + 8, columns 2 t and 2 t + 1: c[0], c[1] in row g, c[2], c[3] in row g + 8
//   A                 the same places of the same rows: the accumulators of one product are the A of the next
//   B                 rows 2 t and 2 t + 1 of column g
// This is the layout of PTX's mma.m16n8k8 in bfloat16. In TF32 lanes hold rows t and t + 4 of B instead: there the
// terms of the sum are taken in another order, row 2 t in the place of t and 2 t + 1 in that of t + 4, for A and B
// alike.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "multiply.h"

namespace ek {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // tensor cores without these formats: hosts start no such kernel
__device__ inline uint32_t round_to_tf32(float x) { return __float_as_uint(x); }
__device__ inline void mma_tf32(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]) { __trap(); }
__device__ inline void mma_bf16(float (&)[4], const uint32_t (&)[2], uint32_t) { __trap(); }
#elif defined(__NVCC__)
__device__ inline uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
__device__ inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b));
}
#else  // the tests' emulator
using emulated::mma_bf16;
using emulated::mma_tf32;
using emulated::round_to_tf32;
#endif

__device__ inline uint32_t bfloat16_pair(float first, float second) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(first)) | uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(second)))
                                                                << 16;
}

// kCount numbers of a lane as the instruction takes them.
template <Multiply kHow, int kCount>
struct Operand {
  uint32_t high[kCount], low[kCount];

  __device__ void set(int place, float x) {
    if (kHow == Multiply::tf32) {
      high[place] = round_to_tf32(x);
    } else {  // rounded in two instructions, not five: what they make of a NaN does not matter, for `low` is one then
      high[place] = (__float_as_uint(x) + 0x1000) & 0xffffe000;
      low[place] = __float_as_uint(x - __uint_as_float(high[place]));  // of which tensor cores take 11 bits
    }
  }
};
template <int kCount>
struct Operand<Multiply::bfloat16, kCount> {
  uint32_t pair[kCount / 2];
};

// A lane's part of A: two numbers of row g, two of row g + 8.
template <Multiply kHow>
__device__ inline Operand<kHow, 4> operand_a(float c0, float c1, float c2, float c3) {
  Operand<kHow, 4> a;
  if constexpr (kHow == Multiply::bfloat16) {
    a.pair[0] = bfloat16_pair(c0, c1);
    a.pair[1] = bfloat16_pair(c2, c3);
  } else {
    a.set(0, c0);
    a.set(1, c2);
    a.set(2, c1);
    a.set(3, c3);
  }
  return a;
}
// A lane's part of B: two numbers of column g.
template <Multiply kHow>
__device__ inline Operand<kHow, 2> operand_b(float first, float second) {
  Operand<kHow, 2> b;
  if constexpr (kHow == Multiply::bfloat16) {
    b.pair[0] = bfloat16_pair(first, second);
  } else {
    b.set(0, first);
    b.set(1, second);
  }
  return b;
}

// c += A B. Tensor cores cut sums off where other instructions round, always towards 0: over many products into one
// accumulator these errors add up. Of three products the sum is therefore taken apart, the small ones first, and added
// to c with rounding. This is as accurate as float32.
template <Multiply kHow>
__device__ inline void multiply_add(float (&c)[4], const Operand<kHow, 4>& a, const Operand<kHow, 2>& b) {
  if constexpr (kHow == Multiply::bfloat16) {
    mma_bf16(c, a.pair, b.pair[0]);
  } else if constexpr (kHow == Multiply::tf32) {
    mma_tf32(c, a.high, b.high);
  } else {
    float sum[4] = {};
    mma_tf32(sum, a.low, b.high);
    mma_tf32(sum, a.high, b.low);
    mma_tf32(sum, a.high, b.high);
#pragma unroll
    for (int k = 0; k < 4; ++k) c[k] += sum[k];
  }
}

}  // namespace ek
