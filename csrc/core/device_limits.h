// What the current CUDA device allows. Host side.
#pragma once

#include <cuda_runtime_api.h>

namespace ek {

struct DeviceLimits {
  int capability = 80;     // major and minor: 90 is 9.0
  int shared = 99 * 1024;  // bytes of a block, for a kernel that asks; every GPU from sm_80 on has these
};

// Without a device, where calls are only planned, those of the smallest one that has every kernel.
inline DeviceLimits device_limits() {
  DeviceLimits found;
  int device = 0, major = 0, minor = 0, shared = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess)
    found = {10 * major + minor, shared};
  return found;
}

}  // namespace ek
