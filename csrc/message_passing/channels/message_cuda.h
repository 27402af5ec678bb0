// The message op's CUDA kernels: float32 features.
#pragma once

#include "../../simd/multiply.h"
#include "message.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ek {

inline constexpr int64_t kMessageCudaWidth = 72;      // channels of a layer
inline constexpr int64_t kMessageCudaEdgeWidth = 32;  // columns of edge_attr
inline constexpr int kMessageCudaCapability = 80;     // tensor cores that take TF32 and bfloat16

#if defined(EK_WITH_CUDA)
template <class X>
cudaError_t message_forward_cuda(const MessageArgs<float, X>& args, Multiply multiply, cudaStream_t stream);
// Numbers that the backward pass needs as scratch.
template <class X>
cudaError_t message_shares_size(const MessageArgs<float, X>& args, int64_t& size);
template <class X>
cudaError_t message_backward_cuda(const MessageArgs<float, X>& args, Multiply multiply, float* shares,
                                  cudaStream_t stream);
#endif

}  // namespace ek
