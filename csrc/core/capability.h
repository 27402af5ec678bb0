// The current CUDA device's compute capability. Host side.
#pragma once

#include <cuda_runtime_api.h>

namespace ek {

// Major and minor version: 90 is 9.0. Without a device, where calls are only planned, the smallest with every kernel.
inline int device_capability() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess)
    return 10 * major + minor;
  return 80;
}

}  // namespace ek
