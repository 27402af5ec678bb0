// From tensors to the coordinates kernels, for any device.
#pragma once

#include <tuple>

#include "../core/reader.h"
#include "coordinates.h"

namespace ek {

struct CoordinatesInputs {
  Reader& in;
  Tensor x = in.next<Tensor>();
  Tensor weight = in.next<Tensor>();
  GraphInputs graph{in};
  double c = in.next<double>();
  std::optional<double> clamp = in.next<std::optional<double>>();
  bool mean = in.next<bool>();
  bool difference = in.next<bool>();
};

template <class Device>
struct Coordinates {
  static Tensor forward(Reader& in) { return std::get<0>(run("coordinates", std::nullopt, {in})); }
  static std::tuple<Tensor, Tensor> backward(Reader& in) {
    const Tensor grad = in.next<Tensor>();
    return run("coordinates_backward", grad, {in});
  }

 private:
  // Without grad: (out, an empty tensor). With grad: (grad_x, grad_weight).
  static std::tuple<Tensor, Tensor> run(const char* op, std::optional<Tensor> grad, const CoordinatesInputs& inputs) {
    check_shape(inputs.x, op, "x", {-1, -1});
    STD_TORCH_CHECK(inputs.x.size(1) >= 1 && inputs.x.size(1) <= kMaxDim, op, ": x: expected 1 to 8 coordinates");
    check_shape(inputs.weight, op, "weight", {inputs.graph.num_edges});
    STD_TORCH_CHECK(inputs.weight.scalar_type() == inputs.x.scalar_type(), op, ": weight: expected the dtype of x");
    typename Device::Guard guard(inputs.x);
    const Tensor x = as_contiguous(inputs.x), weight = as_contiguous(inputs.weight);
    match(op, grad, "grad", x, "x", {x.size(0), x.size(1)});
    Tensor out = uninitialised(x, {x.size(0), x.size(1)});
    Tensor grad_weight = uninitialised(x, {grad ? inputs.graph.num_edges : 0});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      CoordinatesArgs<T> args;
      args.graph = inputs.graph.view(x.size(0));
      args.x = x.const_data_ptr<T>();
      args.weight = weight.const_data_ptr<T>();
      args.grad_out = pointer<T>(grad);
      args.out = out.mutable_data_ptr<T>();
      args.grad_weight = grad_weight.mutable_data_ptr<T>();
      args.dim = int(x.size(1));
      args.c = T(inputs.c);
      args.bound = T(inputs.clamp.value_or(0));
      args.bounded = inputs.clamp.has_value();
      args.mean = inputs.mean;
      args.difference = inputs.difference;
      if constexpr (Device::cuda) {
        Device::launch(x, [&](auto stream) {
          return grad ? coordinates_backward_cuda(args, stream) : coordinates_forward_cuda(args, stream);
        });
      } else {
        Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
          using Kernel = CoordinatesCpu<decltype(isa), T>;
          grad ? Kernel::backward(args, begin, end) : Kernel::forward(args, begin, end);
        });
      }
    });
    return {out, grad_weight};
  }
};

}  // namespace ek
