// Tensor cores: operands and accumulators as PTX lays them out over lanes. Sums are those of arXiv 2512.07004: some
// terms at a time, each aligned with the largest of them and the accumulator and cut off `extra_bits` behind its last
// place; the sum is cut off to 24 bits, not rounded.
#include <algorithm>

#include "cuda_runtime.h"

namespace emulated {

TensorCores tensor_cores;

namespace {

inline int exponent_of(float x) { return int(bits_as<uint32_t>(x) >> 23 & 0xff) - 127; }
inline double power_of_two(int e) { return bits_as<double>(uint64_t(1023 + e) << 52); }

// c + sum of a b over `terms`.
inline float add_terms(float c, const float* a, const float* b, int terms) {
  int top = c == 0 ? -1000 : exponent_of(c);
  float plain = c;
  for (int k = 0; k < terms; ++k) {
    plain += a[k] * b[k];
    if (double(a[k]) * b[k] != 0) top = std::max(top, exponent_of(a[k]) + exponent_of(b[k]));
  }
  if (!std::isfinite(plain) || top == -1000) return plain;
  const int last = top - 23 - tensor_cores.extra_bits;
  const double scale = power_of_two(-last);
  auto sum = int64_t(c * scale);
  for (int k = 0; k < terms; ++k) sum += int64_t(double(a[k]) * b[k] * scale);
  const uint64_t size = uint64_t(sum < 0 ? -sum : sum);
  const int bits = size == 0 ? 0 : 64 - __builtin_clzll(size), over = bits > 24 ? bits - 24 : 0;
  const auto kept = double(size >> over << over) * power_of_two(last);
  return float(sum < 0 ? -kept : kept);
}

struct LaneOfMma {
  float* c;
  const uint32_t *a, *b;
};

// at(lane's part, row, column): A is [16 x 8], B [8 x 8].
template <class A, class B>
inline void multiply(void* const* lanes, int terms, A&& a_at, B&& b_at) {
  const auto lane = [&](int l) { return *static_cast<LaneOfMma*>(lanes[l]); };
  float a[16][8], b[8][8];  // B by columns
  for (int l = 0; l < 32; ++l)
    for (int k = 0; k < 4; ++k) a_at(lane(l), l / 4, l % 4, k, a);
  for (int l = 0; l < 32; ++l)
    for (int k = 0; k < 2; ++k) b_at(lane(l), l / 4, l % 4, k, b);
  terms = std::min(terms, 8);
  for (int l = 0; l < 32; ++l)
    for (int k = 0; k < 4; ++k) {
      float& sum = lane(l).c[k];
      for (int m = 0; m < 8; m += terms)
        sum = add_terms(sum, a[l / 4 + k / 2 * 8] + m, b[l % 4 * 2 + k % 2] + m, terms);
    }
}

}  // namespace

void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int site) {
  LaneOfMma mine{c, a, b};
  const auto work = [](void* const* lanes) {
    const auto number = [](uint32_t bits) { return bits_as<float>(bits & 0xffffe000); };
    multiply(
        lanes, tensor_cores.tf32_terms,
        [&](LaneOfMma l, int g, int t, int k, float (*to)[8]) { to[g + k % 2 * 8][t + k / 2 * 4] = number(l.a[k]); },
        [&](LaneOfMma l, int g, int t, int k, float (*to)[8]) { to[g][t + k * 4] = number(l.b[k]); });
  };
  meet_and_work(work, &mine, site);
}

void mma_bf16(float (&c)[4], const uint32_t (&a)[2], uint32_t b, int site) {
  LaneOfMma mine{c, a, &b};
  const auto work = [](void* const* lanes) {
    const auto number = [](uint32_t pair, int k) { return bits_as<float>(pair >> 16 * k << 16); };
    multiply(
        lanes, tensor_cores.bf16_terms,
        [&](LaneOfMma l, int g, int t, int k, float (*to)[8]) {
          to[g + k / 2 * 8][2 * t + k % 2] = number(l.a[k / 2], k % 2);
        },
        [&](LaneOfMma l, int g, int t, int k, float (*to)[8]) { to[g][2 * t + k] = number(*l.b, k); });
  };
  meet_and_work(work, &mine, site);
}

}  // namespace emulated
