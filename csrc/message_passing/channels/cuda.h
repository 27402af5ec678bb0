// How the fused message op reaches CUDA.
#pragma once

#include "../../core/capability.h"
#include "../../core/tensor.h"
#include "message_cuda.h"

namespace ek {

template <class Device>
struct MessageOnCuda : Device {
  template <class T, class X>
  static void message_forward(const Tensor& on, const MessageArgs<T, X>& args, bool tf32) {
    check<T>(args);
    if constexpr (sizeof(T) == 4)
      Device::launch(on, [&](auto stream) {
        return message_forward_cuda(args, args.bfloat16 ? Multiply::bfloat16 : float32(tf32), stream);
      });
  }

  template <class T, class X>
  static void message_backward(const Tensor& on, const MessageArgs<T, X>& args, bool tf32) {
    check<T>(args);
    if constexpr (sizeof(T) == 4) {
      int64_t size = 0;
      Device::launch(on, [&](auto) { return message_shares_size(args, size); });
      Tensor shares = uninitialised(on, {size});
      Device::launch(on, [&](auto stream) {
        return message_backward_cuda(args, float32(tf32), shares.mutable_data_ptr<float>(), stream);
      });
    }
  }

 private:
  static Multiply float32(bool tf32) { return tf32 ? Multiply::tf32 : Multiply::tf32x3; }

  // The public op does not come here with what the kernels do not take.
  template <class T, class X>
  static void check(const MessageArgs<T, X>& args) {
    STD_TORCH_CHECK(sizeof(T) == 4, "message: receiver: expected float32 on CUDA");
    int64_t widest = args.width > args.head.width ? args.width : args.head.width;
    for (int l = 0; l < args.depth - 1; ++l) widest = args.hidden[l].width > widest ? args.hidden[l].width : widest;
    STD_TORCH_CHECK(widest <= kMessageCudaWidth, "message: a layer of ", widest, " channels: expected at most ",
                    kMessageCudaWidth, " on CUDA");
    STD_TORCH_CHECK(args.edge_width <= kMessageCudaEdgeWidth, "message: edge_attr: expected at most ",
                    kMessageCudaEdgeWidth, " columns on CUDA");
    STD_TORCH_CHECK(device_capability() >= kMessageCudaCapability,
                    "message: expected a device of compute capability 8.0 or more");
  }
};

}  // namespace ek
