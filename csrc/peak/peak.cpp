#include "peak.h"

#include "../core/isa.h"
#include "../simd/tiles.h"

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
double Peak<Isa>::bfloat16_products([[maybe_unused]] int64_t iterations) {
#if defined(EK_TILES)
  Bfloat16Pair ones[kTileRows * kTilePairs];
  float sums[kTileRows * lanes<float>];
  for (Bfloat16Pair& pair : ones) pair = bfloat16_pair(1, 1);
  const TileSizes sizes(0);
  EK_TILE_SIZES(&sizes);
  EK_TILE_ZERO(0);
  EK_TILE_ZERO(1);
  EK_TILE_ZERO(2);
  EK_TILE_LOAD(3, ones, kTilePairs);
  EK_TILE_LOAD(4, ones, kTilePairs);
  for (int64_t i = 0; i < iterations; ++i) {
    EK_TILE_PRODUCT(0, 3, 4);
    EK_TILE_PRODUCT(1, 3, 4);
    EK_TILE_PRODUCT(2, 3, 4);
  }
  EK_TILE_STORE(2, sums, lanes<float>);
  release_tiles();
  for (float x : sums)
    if (x != float(2 * kTilePairs * iterations)) return 0;
  return 2.0 * 3 * kTileRows * lanes<float> * 2 * kTilePairs * double(iterations);
#elif defined(__AVX512BF16__)
  volatile int32_t factor = 0x3f803f80;  // two ones
  const Vec<Bfloat16Pair> ones = splat<Bfloat16Pair>(factor);
  vfloat sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = splat<float>(float(factor & 1) + k);
  for (int64_t i = 0; i < iterations; ++i)
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = add_product(ones, ones, sums[k]);
  for (int k = 0; k < kSums; ++k)
    if (sum(sums[k]) != lanes<float> * float(2 * iterations + k)) return 0;
  return 4.0 * lanes<float> * kSums * double(iterations);
#else
  return 0;
#endif
}

template struct Peak<EK_ISA>;

}  // namespace ek
