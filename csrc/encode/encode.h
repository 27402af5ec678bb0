// Learnable powers of invariants, channel by channel, t > 0:
//   odd     u = sign(z) ((1 + |z|)^t - 1) / t
//   angles  u = ((1e-5 + |z|)^t - 1) / t
// sign(0) is 1. A row costs a logarithm and an exponential a channel; bytes: a row in and a row out.
#pragma once

#include <cstdint>

#include "../core/factorial.h"
#if defined(EK_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

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

// (y exp(y) - (exp(y) - 1)) / y^2, through which the gradient of t goes, is the series sum of (k + 1) / (k + 2)! y^k;
// these are its terms where |y| < 1/2.
template <class T>
constexpr int kSlopeTerms = sizeof(T) == 4 ? 7 : 15;
constexpr double slope_term(int k) { return (k + 1) * inverse_factorial(k + 2); }

// CPU: the rows [begin, end). partial: the sum of these rows' gradients of t.
template <class Isa, class T>
struct EncodeCpu {
  static void forward(const EncodeArgs<T>& args, int64_t begin, int64_t end);
  static void backward(const EncodeArgs<T>& args, T* partial, int64_t begin, int64_t end);
};

#if defined(EK_WITH_CUDA)
// How many sums of the gradient of t the backward kernel leaves in `partials` [shares, channels].
template <class T>
int64_t encode_cuda_shares(const EncodeArgs<T>& args);
template <class T>
cudaError_t encode_forward_cuda(const EncodeArgs<T>& args, cudaStream_t stream);
template <class T>
cudaError_t encode_backward_cuda(const EncodeArgs<T>& args, T* partials, cudaStream_t stream);
#endif

}  // namespace ek
