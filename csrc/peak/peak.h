// The ceiling kernels are measured against: independent fused multiply-adds.
#pragma once

#include <cstdint>

namespace ek {

template <class Isa>
struct Peak {
  // Runs the loop and returns the floating-point operations it did (two per lane and multiply-add).
  static double float_multiply_adds(int64_t iterations);
  // The same with products of bfloat16 numbers, which Avx512Bf16 and Amx alone have; 0 elsewhere, and where the sums
  // are not what they must be.
  static double bfloat16_products(int64_t iterations);
};

}  // namespace ek
