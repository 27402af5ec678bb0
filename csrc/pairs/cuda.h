// How the rank-2 ops reach CUDA: room for row sums of events wider than a block takes. Mixing is not here.
#pragma once

#include "sums_op.h"

namespace ek {

template <class Device>
struct Rank2OnCuda : Device {
  template <class S>
  static void rank2(const Tensor& on, Rank2Kernel kernel, const Rank2Args<S>& args) {
    using T = Accumulator<S>;
    constexpr ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
    const bool reduces = kernel != Rank2Kernel::broadcast, picks = kernel == Rank2Kernel::extremum;
    const int64_t rows = reduces ? rank2_cuda_parts(args) : 0;
    Tensor parts = uninitialised(on, {rows, args.channels}, type);
    Tensor from = uninitialised(on, {picks ? rows : 0, args.channels}, ScalarType::Int);
    Device::launch(on, [&](auto stream) {
      return rank2_cuda(kernel, args, rows ? parts.mutable_data_ptr<T>() : nullptr,
                        rows && picks ? from.mutable_data_ptr<int32_t>() : nullptr, stream);
    });
  }
};

}  // namespace ek
