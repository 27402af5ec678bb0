// CUDA's dialect for a C++ compiler: the kernels of csrc, as they are, run on the CPU. Every thread of a block is a
// fiber that yields where threads meet; emulator.cpp has the rules. Only what the kernels use is here: anything else
// does not compile.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>  // and memcpy without a namespace, as CUDA has it
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __noinline__
#define __host__
#define __shared__  // only as `extern __shared__`: the memory that a launch asks for
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using cudaStream_t = struct EmulatedStream*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorInvalidConfiguration,
  cudaErrorLaunchFailure,
  cudaErrorNotSupported
};
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};

// One-dimensional, as every launch of ours.
extern dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulated {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Runs body(data) as every thread of every block.
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, void (*body)(void*), void* data);
constexpr int kVote = -1;  // in place of a source: which lanes came with something else than 0
// Waits for the lanes in mask; returns what lane `source` came with. `site` tells one meeting point from another.
uint64_t meet_warp(unsigned mask, uint64_t value, int source, int site);
void meet_block(int site);
// Whether the tests have a barrier left out, to see that it is missed.
bool is_left_out(int site, const char* file);
// All lanes of a warp bring something; one call of work gets all they brought.
void meet_and_work(void (*work)(void* const* lanes), void* mine, int site);

template <class T>
inline T shuffle(unsigned mask, T v, int source, int site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  return bits_as<T>(Word(meet_warp(mask, bits_as<Word>(v), source, site)));
}

}  // namespace emulated

inline void __syncthreads(int site = __builtin_LINE(), const char* file = __builtin_FILE()) {
  if (!emulated::is_left_out(site, file)) emulated::meet_block(site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int site = __builtin_LINE(), const char* file = __builtin_FILE()) {
  if (!emulated::is_left_out(site, file)) emulated::meet_warp(mask, 0, int(threadIdx.x % 32), site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int w, int site = __builtin_LINE()) {
  return emulated::shuffle(mask, v, int(threadIdx.x % 32) ^ w, site);
}
template <class T>
inline T __shfl_sync(unsigned mask, T v, int source, int site = __builtin_LINE()) {
  return emulated::shuffle(mask, v, source % 32, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, int by, int site = __builtin_LINE()) {
  const int lane = int(threadIdx.x % 32);
  return emulated::shuffle(mask, v, lane < by ? lane : lane - by, site);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, int site = __builtin_LINE()) {
  return unsigned(emulated::meet_warp(mask, vote, emulated::kVote, site));
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class T>
inline void __stwb(T* to, T value) {
  *to = value;
}
inline float __uint_as_float(uint32_t bits) { return emulated::bits_as<float>(bits); }
inline uint32_t __float_as_uint(float x) { return emulated::bits_as<uint32_t>(x); }

// Tensor cores: operands and accumulators as PTX lays them out over lanes. Sums are those of arXiv 2512.07004: some
// terms at a time, each aligned with the largest of them and the accumulator and cut off `extra_bits` behind its last
// place; the sum is cut off to 24 bits, not rounded.
namespace emulated {

struct TensorCores {
  int tf32_terms = 4, bf16_terms = 8, extra_bits = 1;  // an A100; an H100 or H200: 8, 16, 2
};
extern TensorCores tensor_cores;

inline uint32_t round_to_tf32(float x) {  // 11 bits, ties away from zero
  const uint32_t bits = bits_as<uint32_t>(x);
  return (std::isfinite(x) ? bits + 0x1000 : bits) & 0xffffe000;
}

inline int exponent_of(float x) { return int(bits_as<uint32_t>(x) >> 23 & 0xff) - 127; }
inline double power_of_two(int e) { return bits_as<double>(uint64_t(1023 + e) << 52); }

// c + sum of a b over `terms`.
inline float add_terms(float c, const float* a, const float* b, int terms) {
  int top = c == 0 ? -1000 : exponent_of(c);
  float plain = c;
  for (int k = 0; k < terms; ++k) {
    plain += a[k] * b[k];
    if (a[k] * b[k] != 0) top = std::max(top, exponent_of(a[k]) + exponent_of(b[k]));
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

inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int site = __builtin_LINE()) {
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

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[2], uint32_t b, int site = __builtin_LINE()) {
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

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
namespace emulated {
struct Device {
  int capability = 90, shared = 227 * 1024;  // an H200, which gives a block 227 kB to a kernel that asks beforehand
};
extern Device device;
}  // namespace emulated

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulated::Device& device = emulated::device;
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? device.capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? device.capability % 10
                                                            : device.shared;
  return cudaSuccess;
}

template <class... P, class... A>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... args) {
  auto call = std::make_pair(kernel, std::tuple<P...>(std::forward<A>(args)...));
  return emulated::launch(
      reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim, config->dynamicSmemBytes,
      [](void* p) {
        auto copy = *static_cast<decltype(call)*>(p);  // every thread has parameters of its own
        std::apply(copy.first, copy.second);
      },
      &call);
}
