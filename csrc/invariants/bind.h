// From tensors to the invariants kernels, for any device.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/reader.h"
#include "invariants.h"

namespace ek {

struct InvariantsInputs {
  Reader& in;
  Tensor x = in.next<Tensor>();
  GraphInputs graph{in};
  std::vector<double> metric = in.next<std::vector<double>>();
  bool psi = in.next<bool>();
};

template <class Device>
struct Invariants {
  static Tensor forward(Reader& in) { return run("invariants", std::nullopt, {in}); }
  static Tensor backward(Reader& in) {
    const Tensor grad = in.next<Tensor>();
    return run("invariants_backward", grad, {in});
  }

 private:
  // Without grad: the values. With grad: the gradient of x.
  static Tensor run(const char* op, std::optional<Tensor> grad, const InvariantsInputs& inputs) {
    const auto& metric = inputs.metric;
    check_shape(inputs.x, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    typename Device::Guard guard(inputs.x);
    const Tensor x = as_contiguous(inputs.x);
    const std::vector<int64_t> shape{inputs.graph.num_edges, 2};
    match(op, grad, "grad", x, "x", shape);
    Tensor out = grad ? uninitialised(x, x.sizes()) : uninitialised(x, shape);
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      InvariantsArgs<T> args;
      args.graph = inputs.graph.view(x.size(0));
      args.x = x.const_data_ptr<T>();
      args.dim = int(metric.size());
      args.psi = inputs.psi;
      std::copy(metric.begin(), metric.end(), args.metric);
      if (grad) {
        args.grad_out = pointer<T>(grad);
        args.grad_x = out.mutable_data_ptr<T>();
      } else {
        args.out = out.mutable_data_ptr<T>();
      }
      if constexpr (Device::cuda) {
        Device::launch(x, [&](auto stream) { return invariants_cuda(args, stream); });
      } else {
        Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
          using Kernel = InvariantsCpu<decltype(isa), T>;
          grad ? Kernel::backward(args, begin, end) : Kernel::forward(args, begin, end);
        });
      }
    });
    return out;
  }
};

}  // namespace ek
