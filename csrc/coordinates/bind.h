// From tensors to the coordinates kernels, for any device.
#pragma once

#include <tuple>

#include "../core/tensor.h"
#include "coordinates.h"

namespace ek {

template <class Device>
struct Coordinates {
  static Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& graph, int64_t num_edges, int64_t kind,
                        double c, std::optional<double> clamp, bool mean, bool difference) {
    return std::get<0>(run(std::nullopt, x, weight, graph, num_edges, kind, c, clamp, mean, difference));
  }
  static std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                             const Tensor& graph, int64_t num_edges, int64_t kind, double c,
                                             std::optional<double> clamp, bool mean, bool difference) {
    return run(grad, x, weight, graph, num_edges, kind, c, clamp, mean, difference);
  }

 private:
  // Without grad: (out, an empty tensor). With grad: (grad_x, grad_weight).
  static std::tuple<Tensor, Tensor> run(std::optional<Tensor> grad, const Tensor& x_in, const Tensor& weight_in,
                                        const Tensor& graph, int64_t num_edges, int64_t kind, double c,
                                        std::optional<double> clamp, bool mean, bool difference) {
    const char* op = grad ? "coordinates_backward" : "coordinates";
    check_shape(x_in, op, "x", {-1, -1});
    STD_TORCH_CHECK(x_in.size(1) >= 1 && x_in.size(1) <= kMaxDim, op, ": x: expected 1 to 8 coordinates");
    check_shape(weight_in, op, "weight", {num_edges});
    STD_TORCH_CHECK(weight_in.scalar_type() == x_in.scalar_type(), op, ": weight: expected the dtype of x");
    typename Device::Guard guard(x_in);
    const Tensor x = dense(x_in);
    const Tensor weight = dense(weight_in);
    if (grad) {
      check_shape(*grad, op, "grad", {x.size(0), x.size(1)});
      STD_TORCH_CHECK(grad->scalar_type() == x.scalar_type(), op, ": grad: expected the dtype of x");
      grad = dense(*grad);
    }
    Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
    Tensor grad_weight = torch::stable::new_empty(x, {grad ? num_edges : 0});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      CoordinatesArgs<T> args;
      args.graph = graph_view(graph, x.size(0), num_edges, kind);
      args.x = x.const_data_ptr<T>();
      args.weight = weight.const_data_ptr<T>();
      args.grad_out = grad ? grad->template const_data_ptr<T>() : nullptr;
      args.out = out.mutable_data_ptr<T>();
      args.grad_weight = grad_weight.mutable_data_ptr<T>();
      args.dim = int(x.size(1));
      args.c = T(c);
      args.bound = T(clamp.value_or(0));
      args.bounded = clamp.has_value();
      args.mean = mean;
      args.difference = difference;
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
