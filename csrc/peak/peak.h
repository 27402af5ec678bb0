// The ceiling kernels are measured against: independent fused multiply-adds.
#pragma once

#include <cstdint>

namespace ek {

template <class Isa>
struct Peak {
  // Runs the loop and returns the floating-point operations it did (two per lane and multiply-add).
  static double float_multiply_adds(int64_t iterations);
  // The same number of sums' steps with the CPU's products of bfloat16 pairs: Avx512Bf16 alone has them.
  static void bfloat16_products(int64_t iterations);
};

}  // namespace ek
