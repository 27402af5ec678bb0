#include "peak.h"

#include "../core/isa.h"
#include "../simd/bfloat16.h"
#include "../simd/simd.h"

namespace ek {

// Twelve independent sums cover latency times throughput of every CPU in sight, and leave registers for the factors.
constexpr int kSums = 12;

template <class Isa>
double Peak<Isa>::float_multiply_adds(int64_t iterations) {
  vfloat sums[kSums];
  volatile float seed = 0.999f;
  for (int k = 0; k < kSums; ++k) sums[k] = splat<float>(seed + k);  // all different, or the compiler keeps but one
  const vfloat a = splat<float>(seed), b = splat<float>(1 - seed);
  for (int64_t i = 0; i < iterations; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = mul_add(sums[k], a, b);
  vfloat total{};
  for (int k = 0; k < kSums; ++k) total += sums[k];
  volatile float keep = sum(total);
  (void)keep;
  return 2.0 * lanes<float> * kSums * double(iterations);
}

template <class Isa>
void Peak<Isa>::bfloat16_products([[maybe_unused]] int64_t iterations) {
#if defined(__AVX512BF16__)
  volatile int32_t factor = 0x3f803f80;  // two ones
  const Vec<Bfloat16Pair> ones = splat<Bfloat16Pair>(factor);
  vfloat sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = splat<float>(float(factor & 1) + k);
  for (int64_t i = 0; i < iterations; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = add_product(ones, ones, sums[k]);
  vfloat total{};
  for (int k = 0; k < kSums; ++k) total += sums[k];
  volatile float keep = sum(total);
  (void)keep;
#endif
}

template struct Peak<EK_ISA>;

}  // namespace ek
