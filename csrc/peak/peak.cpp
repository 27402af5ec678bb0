#include "peak.h"

#include "../core/isa.h"
#include "../simd/simd.h"

namespace ek {

template <class Isa>
double Peak<Isa>::float_multiply_adds(int64_t iterations) {
  // Twelve independent sums cover latency times throughput of every CPU in sight, and leave registers for the factors.
  constexpr int kSums = 12;
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

template struct Peak<EK_ISA>;

}  // namespace ek
