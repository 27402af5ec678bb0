// The mix of pairs as an op, and its gradients, on the CPU; and the products of the pairs of particles.
#pragma once

#include "cpu.h"
#include "minkowski_products.h"
#include "mix_inputs.h"

namespace ek {

inline constexpr const char* kRank2ProductsSchema =
    "rank2_products(Tensor x, " EK_GRAPH_SCHEMA ", float[] metric) -> Tensor";

struct MixOnCpu : Rank2OnCpu {
  static Tensor mix(Reader& in) {
    const MixInputs m("rank2_mix", in);
    Tensor out = make(m.tensor, true, {m.graph.num_edges, m.width});
    dispatch_floating(m.tensor.scalar_type(), m.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = args_of<T>(m);
      args.table = pointer<T>(m.table);
      args.out = out.mutable_data_ptr<T>();
      rank2_mix(args);
    });
    return out;
  }

  static std::array<Tensor, 4> mix_backward(Reader& in) {
    OptionalTensor grad = in.next<Tensor>(), activated = in.next<OptionalTensor>();
    const MixInputs m("rank2_mix_backward", in);
    const std::vector<bool> wanted = in.next<std::vector<bool>>();
    STD_TORCH_CHECK(wanted.size() == 3, m.op, ": wanted: expected three entries");
    m.match(grad, "grad", {m.graph.num_edges, m.width});
    m.match(activated, "activated", {m.graph.num_edges, m.width});
    Tensor grad_tensor = make(m.tensor, wanted[0], {m.graph.num_edges, m.in});
    Tensor grad_identity = make(m.tensor, wanted[1] && m.identity, {m.in, m.width});
    Tensor grad_transpose = make(m.tensor, wanted[1] && m.transpose, {m.in, m.width});
    Tensor grad_table = make(m.tensor, wanted[2], {m.num_nodes, 3, m.width});
    dispatch_floating(m.tensor.scalar_type(), m.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = args_of<T>(m);
      args.grad = pointer<T>(grad);
      args.activated = pointer<T>(activated);
      if (wanted[0]) args.grad_tensor = grad_tensor.mutable_data_ptr<T>();
      if (wanted[1] && m.identity) args.grad_identity = grad_identity.mutable_data_ptr<T>();
      if (wanted[1] && m.transpose) args.grad_transpose = grad_transpose.mutable_data_ptr<T>();
      rank2_mix_backward(args);
      if (!wanted[2]) return;
      Rank2Args<T> sums;
      sums.graph = args.graph;
      sums.channels = m.width;
      sums.tensor = args.grad;
      sums.activated = args.activated;
      sums.slope = args.slope;
      sums.out = grad_table.mutable_data_ptr<T>();
      rank2(m.tensor, Rank2Kernel::sum, sums);
    });
    return {grad_tensor, grad_identity, grad_transpose, grad_table};
  }

  static Tensor products(const Tensor& x_in, const Tensor& graph, int64_t num_edges, int64_t kind,
                         const std::vector<double>& metric) {
    const char* op = "rank2_products";
    check_shape(x_in, op, "x", {-1, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
    const Tensor x = as_contiguous(x_in);
    Tensor out = make(x, true, {num_edges, 1});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      Rank2ProductsArgs<T> args;
      args.graph = PairsInput{graph, num_edges, kind}.view<Cpu>(x.size(0));
      args.x = x.const_data_ptr<T>();
      args.out = out.mutable_data_ptr<T>();
      args.dim = int(metric.size());
      for (size_t c = 0; c < metric.size(); ++c) args.metric[c] = metric[c];
      over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
        Rank2ProductsCpu<decltype(isa), T>::run(args, begin, end);
      });
    });
    return out;
  }

 private:
  template <class T>
  static Rank2MixArgs<T> args_of(const MixInputs& m) {
    Rank2MixArgs<T> a;
    a.graph = m.graph.view<Cpu>(m.num_nodes);
    a.in = m.in;
    a.width = m.width;
    a.tensor = m.tensor.const_data_ptr<T>();
    a.identity = pointer<T>(m.identity);
    a.transpose = pointer<T>(m.transpose);
    a.slope = T(m.slope);
    return a;
  }
};

}  // namespace ek
