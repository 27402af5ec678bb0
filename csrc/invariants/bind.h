// From tensors to the invariants kernels, for any device.
#pragma once

#include "../core/tensor.h"
#include "invariants.h"
#include "moments.h"

namespace ek {

template <class Device>
struct Invariants {
  using Metric = const std::vector<double>&;

  static Tensor forward(const Tensor& x_in, const Tensor& graph, int64_t num_edges, int64_t kind, Metric metric,
                        bool psi) {
    const Tensor x = checked("invariants", x_in, metric);
    typename Device::Guard guard(x);
    Tensor out = torch::stable::new_empty(x, {num_edges, 2});
    dispatch_floating(x.scalar_type(), "invariants", [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<InvariantsArgs<T>, T>(x, graph, num_edges, kind, metric, psi);
      args.out = out.mutable_data_ptr<T>();
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return invariants_forward_cuda(args, stream); });
      else
        over_nodes<InvariantsCpu, T>(args, [](auto kernel, auto... a) { kernel.forward(a...); });
    });
    return out;
  }

  static Tensor backward(const Tensor& grad_in, const Tensor& x_in, const Tensor& graph, int64_t num_edges,
                         int64_t kind, Metric metric, bool psi) {
    const char* op = "invariants_backward";
    const Tensor x = checked(op, x_in, metric);
    typename Device::Guard guard(x);
    const Tensor grad = cotangent(op, grad_in, {num_edges, 2}, x.scalar_type());
    Tensor out = torch::stable::new_empty(x, x.sizes());
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<InvariantsArgs<T>, T>(x, graph, num_edges, kind, metric, psi);
      args.grad_out = grad.const_data_ptr<T>();
      args.out = out.mutable_data_ptr<T>();
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return invariants_backward_cuda(args, stream); });
      else
        over_nodes<InvariantsCpu, T>(args, [](auto kernel, auto... a) { kernel.backward(a...); });
    });
    return out;
  }

  static Tensor moments(const Tensor& x_in, const Tensor& graph, int64_t num_edges, int64_t kind, Metric metric,
                        bool psi) {
    const Tensor x = checked("invariant_moments", x_in, metric);
    typename Device::Guard guard(x);
    Tensor out = torch::stable::new_empty(x, {x.size(0), kMoments}, ScalarType::Double);
    dispatch_floating(x.scalar_type(), "invariant_moments", [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<MomentsArgs<T>, T>(x, graph, num_edges, kind, metric, psi);
      args.out = out.mutable_data_ptr<double>();
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return moments_cuda(args, true, stream); });
      else
        over_nodes<MomentsCpu, T>(args, [](auto kernel, auto... a) { kernel.forward(a...); });
    });
    return out;
  }

  static Tensor moments_backward(const Tensor& grad_in, const Tensor& x_in, const Tensor& graph, int64_t num_edges,
                                 int64_t kind, Metric metric, bool psi) {
    const char* op = "invariant_moments_backward";
    const Tensor x = checked(op, x_in, metric);
    typename Device::Guard guard(x);
    const Tensor grad = cotangent(op, grad_in, {x.size(0), kMoments}, ScalarType::Double);
    Tensor out = torch::stable::new_empty(x, x.sizes());
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<MomentsArgs<T>, T>(x, graph, num_edges, kind, metric, psi);
      args.grad_out = grad.const_data_ptr<double>();
      args.grad_x = out.mutable_data_ptr<T>();
      if constexpr (Device::cuda)
        Device::launch(x, [&](auto stream) { return moments_cuda(args, false, stream); });
      else
        over_nodes<MomentsCpu, T>(args, [](auto kernel, auto... a) { kernel.backward(a...); });
    });
    return out;
  }

 private:
  static Tensor checked(const char* op, const Tensor& x, Metric metric) {
    check_shape(x, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    return dense(x);
  }

  static Tensor cotangent(const char* op, const Tensor& grad, std::vector<int64_t> shape, ScalarType type) {
    check_shape(grad, op, "grad", shape);
    STD_TORCH_CHECK(grad.scalar_type() == type, op, ": grad: unexpected dtype");
    return dense(grad);
  }

  template <class Args, class T>
  static Args arguments(const Tensor& x, const Tensor& graph, int64_t num_edges, int64_t kind, Metric metric,
                        bool psi) {
    Args args;
    args.graph = graph_view(graph, x.size(0), num_edges, kind);
    args.x = x.const_data_ptr<T>();
    args.dim = int(metric.size());
    args.psi = psi;
    for (size_t c = 0; c < metric.size(); ++c) args.metric[c] = metric[c];
    return args;
  }

  template <template <class, class> class Kernel, class T, class Args, class F>
  static void over_nodes(const Args& args, F&& run) {
    Device::over_receivers(
        args.graph, [&](auto isa, int64_t begin, int64_t end) { run(Kernel<decltype(isa), T>{}, args, begin, end); });
  }
};

}  // namespace ek
