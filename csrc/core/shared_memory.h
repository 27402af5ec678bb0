// Shared memory of the current device. Host side, for nvcc and the C++ compiler.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <mutex>
#include <set>
#include <utility>

namespace ek {

constexpr int64_t kUnaskedShared = 48 * 1024;  // bytes that any block may have

// Bytes that a block can ask for, and that a multiprocessor has.
struct SharedLimits {
  int device = 0, block = 0, processor = 0;
};
inline cudaError_t shared_limits(SharedLimits& limits) {
  auto error = cudaGetDevice(&limits.device);
  const auto ask = [&](int& to, cudaDeviceAttr what) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&to, what, limits.device);
  };
  ask(limits.block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(limits.processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  return error;
}

// Allows a kernel all that a block of the device can have: once, so that host threads do not undo each other's
// requests.
inline cudaError_t ask_for_shared(const void* kernel) {
  static std::mutex one_at_a_time;
  static std::set<std::pair<const void*, int>> asked;
  SharedLimits limits;
  if (const auto error = shared_limits(limits); error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const std::pair<const void*, int> key{kernel, limits.device};
  if (asked.count(key)) return cudaSuccess;
  const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.block);
  if (error == cudaSuccess) asked.insert(key);
  return error;
}

}  // namespace ek
