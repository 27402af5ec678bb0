// y = act(scale z + shift) on rows, scale and shift by channel: a batch norm, its statistics known, and what follows.
#pragma once

#include <cstdint>

#include "../simd/activation_kind.h"

namespace ek {

template <class T>
struct RowActivationArgs {
  int64_t rows = 0, channels = 0;
  const T* z = nullptr;                        // [rows, channels]
  const T *scale = nullptr, *shift = nullptr;  // [channels], both or neither
  Activation activation = Activation::identity;
  double slope = 0;
  T* out = nullptr;   // [rows, channels]
  T* grad = nullptr;  // backward: the gradient of y, which becomes that of z at fixed scale and shift
};

// CPU: the rows [begin, end).
template <class Isa, class T>
struct RowActivationCpu {
  static void forward(const RowActivationArgs<T>& args, int64_t begin, int64_t end);
  // sums [2, channels]: of the gradient of scale z + shift, and of that times z.
  static void backward(const RowActivationArgs<T>& args, int64_t begin, int64_t end, double* sums);
};

}  // namespace ek
