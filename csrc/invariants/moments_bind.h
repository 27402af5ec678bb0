// From tensors to the moment kernels. CPU only so far.
#pragma once

#include "../common/cpu.h"
#include "moments.h"

namespace ek {

inline constexpr const char* kMomentsSchema =
    "invariant_moments(Tensor x, " EK_GRAPH_SCHEMA ", float[] metric, bool psi) -> Tensor";
inline constexpr const char* kMomentsBackwardSchema =
    "invariant_moments_backward(Tensor grad, Tensor x, " EK_GRAPH_SCHEMA ", float[] metric, bool psi) -> Tensor";

template <class Device>
struct Moments {
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
    const char* op = grad ? "invariant_moments_backward" : "invariant_moments";
    check_shape(x_in, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    typename Device::Guard guard(x_in);
    const Tensor x = torch::stable::contiguous(x_in);
    const int64_t n = x.size(0);
    if (grad) {
      check_shape(*grad, op, "grad", {n, kMoments});
      STD_TORCH_CHECK(grad->scalar_type() == ScalarType::Double, op, ": grad: expected float64");
      grad = torch::stable::contiguous(*grad);
    }
    Tensor out = grad ? torch::stable::new_empty(x, {n, x.size(1)})
                      : torch::stable::new_empty(x, {n, kMoments}, ScalarType::Double);
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      MomentsArgs<T> args;
      args.graph = graph_view(graph, n, num_edges, kind);
      args.x = x.const_data_ptr<T>();
      args.dim = int(metric.size());
      args.psi = psi;
      for (size_t c = 0; c < metric.size(); ++c) args.metric[c] = metric[c];
      if (grad) {
        args.grad_out = grad->const_data_ptr<double>();
        args.grad_x = out.mutable_data_ptr<T>();
      } else {
        args.out = out.mutable_data_ptr<double>();
      }
      Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
        using Kernel = MomentsCpu<decltype(isa), T>;
        grad ? Kernel::backward(args, begin, end) : Kernel::forward(args, begin, end);
      });
    });
    return out;
  }
};

}  // namespace ek
