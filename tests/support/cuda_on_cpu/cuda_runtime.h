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
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};

// One-dimensional, as every launch of ours.
extern dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulated {

extern int64_t full_grid;  // blocks that fill the GPU, as schedules have it
#define EK_FULL_GRID emulated::full_grid
extern int device;  // the current one

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
// Waits for the lanes in mask; returns what lane `source` came with. `site` tells one meeting point from another. A
// barrier orders memory; shuffles and votes do not.
uint64_t meet_warp(unsigned mask, uint64_t value, int source, int site, bool orders = false);
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
  if (!emulated::is_left_out(site, file)) emulated::meet_warp(mask, 0, int(threadIdx.x % 32), site, true);
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

// Tensor cores: see mma.cpp.
namespace emulated {

struct TensorCores {
  int tf32_terms = 4, bf16_terms = 8, extra_bits = 1;  // an A100; an H100 or H200: 8, 16, 2
};
extern TensorCores tensor_cores;

inline uint32_t round_to_tf32(float x) {  // 11 bits, ties away from zero
  const uint32_t bits = bits_as<uint32_t>(x);
  return (std::isfinite(x) ? bits + 0x1000 : bits) & 0xffffe000;
}

void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int site = __builtin_LINE());
void mma_bf16(float (&c)[4], const uint32_t (&a)[2], uint32_t b, int site = __builtin_LINE());

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
struct Gpu {
  int capability = 90, shared = 227 * 1024;  // an H200, which gives a block 227 kB to a kernel that asks beforehand
};
extern Gpu gpu;
}  // namespace emulated

inline cudaError_t cudaGetDevice(int* device) {
  *device = emulated::device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  const emulated::Gpu& gpu = emulated::gpu;
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = gpu.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = gpu.capability % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = gpu.shared + 1024;
      break;
    default:
      *value = gpu.shared;
  }
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
