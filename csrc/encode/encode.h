// Learnable powers of invariants, channel by channel, t > 0:
//   odd     u = sign(z) ((1 + |z|)^t - 1) / t
//   angles  u = ((1e-5 + |z|)^t - 1) / t
// sign(0) is 1. A row costs a logarithm and an exponential a channel; bytes: a row in and a row out.
#pragma once

#include <cstdint>

namespace ek {

template <class T>
struct EncodeArgs {
  int64_t rows = 0, channels = 0;
  bool angles = false;
  const T* z = nullptr;  // [rows, channels]
  const T* t = nullptr;  // [channels]
  T* out = nullptr;
  const T* grad = nullptr;
  T* grad_z = nullptr;
  T* grad_t = nullptr;  // [channels]
};

// CPU: the rows [begin, end). partial: the sum of these rows' gradients of t.
template <class Isa, class T>
struct EncodeCpu {
  static void forward(const EncodeArgs<T>& args, int64_t begin, int64_t end);
  static void backward(const EncodeArgs<T>& args, T* partial, int64_t begin, int64_t end);
};

}  // namespace ek
