// From tensors to the encoder's kernels, for any device.
#pragma once

#include <algorithm>
#include <tuple>

#include "../core/tensor.h"
#include "encode.h"

namespace ek {

template <class Device>
class Encode {
 public:
  static Tensor forward(const Tensor& z_in, const Tensor& t_in, bool angles) {
    const Tensor z = as_contiguous(z_in), t = as_contiguous(t_in);
    check("encode", z, t);
    typename Device::Guard guard(z);
    Tensor out = uninitialised(z, {z.size(0), z.size(1)});
    dispatch_floating(z.scalar_type(), "encode", [&](auto zero) {
      using T = decltype(zero);
      auto args = make<T>(z, t, angles);
      args.out = out.mutable_data_ptr<T>();
      if constexpr (Device::cuda)
        Device::launch(z, [&](auto stream) { return encode_forward_cuda(args, stream); });
      else
        Device::share(
            args.rows, [](int64_t r) { return r; },
            [&](auto isa, int64_t begin, int64_t end) { EncodeCpu<decltype(isa), T>::forward(args, begin, end); },
            kChunk);
    });
    return out;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_in, const Tensor& z_in, const Tensor& t_in,
                                             bool angles) {
    const Tensor grad = as_contiguous(grad_in), z = as_contiguous(z_in), t = as_contiguous(t_in);
    check("encode_backward", z, t);
    check_shape(grad, "encode_backward", "grad", {z.size(0), z.size(1)});
    STD_TORCH_CHECK(grad.scalar_type() == z.scalar_type(), "encode_backward: expected tensors of one dtype");
    typename Device::Guard guard(z);
    Tensor grad_z = uninitialised(z, {z.size(0), z.size(1)});
    Tensor grad_t = uninitialised(z, {z.size(1)});
    dispatch_floating(z.scalar_type(), "encode_backward", [&](auto zero) {
      using T = decltype(zero);
      auto args = make<T>(z, t, angles);
      args.grad = grad.const_data_ptr<T>();
      args.grad_z = grad_z.mutable_data_ptr<T>();
      args.grad_t = grad_t.mutable_data_ptr<T>();
      if constexpr (Device::cuda) {
        Tensor partials = uninitialised(z, {encode_cuda_shares(args), args.channels});
        T* sums = partials.mutable_data_ptr<T>();
        Device::launch(z, [&](auto stream) { return encode_backward_cuda(args, sums, stream); });
      } else {
        on_cpu(args, z);
      }
    });
    return {grad_z, grad_t};
  }

 private:
  static constexpr int64_t kChunk = 512;  // rows; sums of chunks are added in order

  template <class T>
  static void on_cpu(const EncodeArgs<T>& args, const Tensor& z) {
    const int64_t chunks = (args.rows + kChunk - 1) / kChunk;
    Tensor buffer = uninitialised(z, {chunks, args.channels});
    T* partials = buffer.mutable_data_ptr<T>();
    Device::share(
        chunks, [](int64_t c) { return c; },
        [&](auto isa, int64_t first, int64_t last) {
          for (int64_t c = first; c < last; ++c)
            EncodeCpu<decltype(isa), T>::backward(args, partials + c * args.channels, c * kChunk,
                                                  std::min(args.rows, (c + 1) * kChunk));
        },
        1);
    for (int64_t k = 0; k < args.channels; ++k) {
      T total = 0;
      for (int64_t c = 0; c < chunks; ++c) total += partials[c * args.channels + k];
      args.grad_t[k] = total;
    }
  }

  static void check(const char* op, const Tensor& z, const Tensor& t) {
    check_shape(z, op, "z", {-1, -1});
    check_shape(t, op, "t", {z.size(1)});
    STD_TORCH_CHECK(z.scalar_type() == t.scalar_type(), op, ": expected tensors of one dtype");
  }
  template <class T>
  static EncodeArgs<T> make(const Tensor& z, const Tensor& t, bool angles) {
    return {z.size(0), z.size(1), angles, z.const_data_ptr<T>(), t.const_data_ptr<T>()};
  }
};

}  // namespace ek
