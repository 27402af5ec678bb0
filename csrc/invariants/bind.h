// From tensors to the invariants kernels, for any device.
#pragma once

#include "../common/tensor.h"
#include "invariants.h"

namespace ek {

inline constexpr const char* kInvariantsSchema =
    "invariants(Tensor x, " EK_GRAPH_SCHEMA ", float[] metric, bool psi) -> Tensor";
inline constexpr const char* kInvariantsBackwardSchema =
    "invariants_backward(Tensor grad, Tensor x, " EK_GRAPH_SCHEMA ", float[] metric, bool psi) -> Tensor";

template <class Device>
struct Invariants {
  static Tensor forward(const Tensor& x, const Tensor& graph, int64_t num_edges, int64_t kind,
                        const std::vector<double>& metric, bool psi) {
    return run(std::nullopt, x, graph, num_edges, kind, metric, psi);
  }
  static Tensor backward(const Tensor& grad, const Tensor& x, const Tensor& graph, int64_t num_edges, int64_t kind,
                         const std::vector<double>& metric, bool psi) {
    return run(grad, x, graph, num_edges, kind, metric, psi);
  }

 private:
  static Tensor run(std::optional<Tensor> grad, const Tensor& x_in, const Tensor& graph, int64_t num_edges,
                    int64_t kind, const std::vector<double>& metric, bool psi) {
    const char* op = grad ? "invariants_backward" : "invariants";
    check_shape(x_in, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    typename Device::Guard guard(x_in);
    const Tensor x = torch::stable::contiguous(x_in);
    const int64_t n = x.size(0);
    Tensor out = grad ? torch::stable::new_empty(x, {n, x.size(1)}) : torch::stable::new_empty(x, {num_edges, 2});
    if (grad) {
      check_shape(*grad, op, "grad", {num_edges, 2});
      STD_TORCH_CHECK(grad->scalar_type() == x.scalar_type(), op, ": grad: expected the dtype of x");
      grad = torch::stable::contiguous(*grad);
    }
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      InvariantsArgs<T> args;
      args.graph = graph_view(graph, n, num_edges, kind);
      args.x = x.const_data_ptr<T>();
      args.grad_out = grad ? grad->template const_data_ptr<T>() : nullptr;
      args.out = out.mutable_data_ptr<T>();
      args.dim = int(metric.size());
      args.psi = psi;
      for (size_t c = 0; c < metric.size(); ++c) args.metric[c] = metric[c];
      if constexpr (Device::cuda) {
        Device::launch(x, [&](auto stream) {
          return grad ? invariants_backward_cuda(args, stream) : invariants_forward_cuda(args, stream);
        });
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
