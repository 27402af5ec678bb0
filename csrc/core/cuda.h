// CUDA as a device: guard, stream, launch checks. Host side; compiled by the C++ compiler, not nvcc.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensor.h"

namespace ek {

struct Cuda {
  static constexpr bool cuda = true;
  using DeviceGuard = torch::stable::accelerator::DeviceGuard;
  struct Guard : DeviceGuard {
    explicit Guard(const Tensor& t) : DeviceGuard(t.get_device_index()) {}
  };

  // Calls launcher(stream) with the current stream of the tensor's device; the error it returns is checked.
  template <class F>
  static void launch(const Tensor& on, F&& launcher) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    STD_CUDA_CHECK(launcher(static_cast<cudaStream_t>(stream)));
  }
};

}  // namespace ek
