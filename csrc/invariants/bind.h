// From tensors to the invariants kernels, for any device.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/reader.h"
#include "invariants.h"
#include "moments.h"

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
  static Tensor forward(Reader& in) { return of_edges("invariants", std::nullopt, {in}); }
  static Tensor backward(Reader& in) {
    const Tensor grad = in.next<Tensor>();
    return of_edges("invariants_backward", grad, {in});
  }
  static Tensor moments(Reader& in) { return of_nodes("invariant_moments", std::nullopt, {in}); }
  static Tensor moments_backward(Reader& in) {
    const Tensor grad = in.next<Tensor>();
    return of_nodes("invariant_moments_backward", grad, {in});
  }

 private:
  static Tensor of_edges(const char* op, std::optional<Tensor> grad, const InvariantsInputs& inputs) {
    return run<InvariantsArgs, InvariantsCpu>(op, grad, inputs, {inputs.graph.num_edges, 2}, inputs.x.scalar_type());
  }
  static Tensor of_nodes(const char* op, std::optional<Tensor> grad, const InvariantsInputs& inputs) {
    return run<MomentsArgs, MomentsCpu>(op, grad, inputs, {inputs.x.size(0), kMoments}, ScalarType::Double);
  }

  // Without grad: the values, of this shape and type. With grad: the gradient of x.
  template <template <class> class Args, template <class, class> class Kernel>
  static Tensor run(const char* op, std::optional<Tensor> grad, const InvariantsInputs& inputs,
                    std::vector<int64_t> shape, ScalarType type) {
    const auto& metric = inputs.metric;
    check_shape(inputs.x, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    typename Device::Guard guard(inputs.x);
    const Tensor x = as_contiguous(inputs.x);
    if (grad) {
      check_shape(*grad, op, "grad", shape);
      STD_TORCH_CHECK(grad->scalar_type() == type, op, ": grad: unexpected dtype");
      grad = as_contiguous(*grad);
    }
    Tensor out = grad ? torch::stable::new_empty(x, x.sizes()) : torch::stable::new_empty(x, shape, type);
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      Args<T> args;
      args.graph = inputs.graph.view(x.size(0));
      args.x = x.const_data_ptr<T>();
      args.dim = int(metric.size());
      args.psi = inputs.psi;
      std::copy(metric.begin(), metric.end(), args.metric);
      if (grad) {
        args.grad_out = static_cast<decltype(args.grad_out)>(grad->const_data_ptr());
        args.grad_x = out.mutable_data_ptr<T>();
      } else {
        args.out = static_cast<decltype(args.out)>(out.mutable_data_ptr());
      }
      if constexpr (Device::cuda) {
        Device::launch(x, [&](auto stream) { return invariants_cuda(args, stream); });
      } else {
        Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
          grad ? Kernel<decltype(isa), T>::backward(args, begin, end)
               : Kernel<decltype(isa), T>::forward(args, begin, end);
        });
      }
    });
    return out;
  }
};

}  // namespace ek
