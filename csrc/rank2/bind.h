// From tensors to the rank-2 kernels, for any device.
#pragma once

#include <array>
#include <tuple>

#include "../core/tensor.h"
#include "rank2.h"

namespace ek {

inline constexpr const char* kRank2SumSchema =
    "rank2_sum(Tensor tensor, Tensor? weight, Tensor? arg, " EK_GRAPH_SCHEMA ", SymInt num_nodes) -> Tensor";
inline constexpr const char* kRank2BroadcastSchema =
    "rank2_broadcast(Tensor table, Tensor? weight, Tensor? arg, " EK_GRAPH_SCHEMA ") -> Tensor";
inline constexpr const char* kRank2ExtremumSchema =
    "rank2_extremum(Tensor tensor, " EK_GRAPH_SCHEMA ", SymInt num_nodes, bool largest) -> (Tensor, Tensor)";
inline constexpr const char* kRank2MixSchema =
    "rank2_mix(Tensor tensor, Tensor? identity, Tensor? transpose, Tensor? table, " EK_GRAPH_SCHEMA
    ", SymInt num_nodes, float slope) -> Tensor";
// wanted: the gradients of tensor, of both weights, of the table; empty where not wanted or absent.
inline constexpr const char* kRank2MixBackwardSchema =
    "rank2_mix_backward(Tensor grad, Tensor? activated, Tensor tensor, Tensor? identity, Tensor? "
    "transpose, " EK_GRAPH_SCHEMA ", SymInt num_nodes, float slope, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)";

template <class Device>
GraphView rank2_pairs(const Tensor& graph, int64_t num_nodes, int64_t num_edges, int64_t kind) {
  STD_TORCH_CHECK(kind == 2, "rank2: graph: expected a complete graph with self-loops");
  const GraphView g = graph_view(graph, num_nodes, num_edges, kind);
  if constexpr (!Device::cuda)
    STD_TORCH_CHECK(g.ptr[g.num_events] == num_nodes && g.edge_ptr[g.num_events] == num_edges,
                    "rank2: tensor: expected ", g.edge_ptr[g.num_events], " pairs of ", g.ptr[g.num_events],
                    " particles, got ", num_edges, " and ", num_nodes);
  return g;
}

template <class Device>
class Rank2 {
  using Optional = std::optional<Tensor>;

 public:
  static Tensor sum(const Tensor& tensor, Optional weight, Optional arg, const Tensor& graph, int64_t num_edges,
                    int64_t kind, int64_t num_nodes) {
    const char* op = "rank2_sum";
    typename Device::Guard guard(tensor);
    check_shape(tensor, op, "tensor", {num_edges, -1});
    const int64_t channels = tensor.size(1);
    Tensor out = torch::stable::new_empty(tensor, {num_nodes, 3, channels});
    check_sides(op, tensor, weight, arg, num_nodes, channels);
    const Tensor rows = as_contiguous(tensor);
    dispatch(tensor.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(weight, arg, graph, num_nodes, num_edges, kind, channels);
      args.tensor = static_cast<const T*>(rows.const_data_ptr());
      args.out = static_cast<T*>(out.mutable_data_ptr());
      Device::rank2(tensor, Rank2Kernel::sum, args);
    });
    return out;
  }

  static Tensor broadcast(const Tensor& table, Optional weight, Optional arg, const Tensor& graph, int64_t num_edges,
                          int64_t kind) {
    const char* op = "rank2_broadcast";
    typename Device::Guard guard(table);
    check_shape(table, op, "table", {-1, 3, -1});
    const int64_t num_nodes = table.size(0), channels = table.size(2);
    Tensor out = torch::stable::new_empty(table, {num_edges, channels});
    check_sides(op, table, weight, arg, num_nodes, channels);
    const Tensor rows = as_contiguous(table);
    dispatch(table.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(weight, arg, graph, num_nodes, num_edges, kind, channels);
      args.table = static_cast<const T*>(rows.const_data_ptr());
      args.out = static_cast<T*>(out.mutable_data_ptr());
      Device::rank2(table, Rank2Kernel::broadcast, args);
    });
    return out;
  }

  static std::tuple<Tensor, Tensor> extremum(const Tensor& tensor, const Tensor& graph, int64_t num_edges, int64_t kind,
                                             int64_t num_nodes, bool largest) {
    const char* op = "rank2_extremum";
    typename Device::Guard guard(tensor);
    check_shape(tensor, op, "tensor", {num_edges, -1});
    const int64_t channels = tensor.size(1);
    Tensor out = torch::stable::new_empty(tensor, {num_nodes, 3, channels});
    Tensor arg = torch::stable::new_empty(tensor, {num_nodes, 2, channels}, ScalarType::Int);
    const Tensor rows = as_contiguous(tensor);
    dispatch(tensor.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(std::nullopt, std::nullopt, graph, num_nodes, num_edges, kind, channels);
      args.tensor = static_cast<const T*>(rows.const_data_ptr());
      args.out = static_cast<T*>(out.mutable_data_ptr());
      args.arg_out = arg.mutable_data_ptr<int32_t>();
      args.largest = largest;
      Device::rank2(tensor, Rank2Kernel::extremum, args);
    });
    return {out, arg};
  }

  static Tensor mix(const Tensor& tensor, Optional identity, Optional transpose, Optional table, const Tensor& graph,
                    int64_t num_edges, int64_t kind, int64_t num_nodes, double slope) {
    Mix m{"rank2_mix", tensor, identity, transpose};
    typename Device::Guard guard(tensor);
    m.check(num_edges);
    m.match(table, "table", {num_nodes, 3, m.width});
    Tensor out = torch::stable::new_empty(tensor, {num_edges, m.width});
    dispatch_floating(tensor.scalar_type(), m.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = m.template args<T>(rank2_pairs<Device>(graph, num_nodes, num_edges, kind), slope);
      args.table = pointer<T>(table);
      args.out = out.mutable_data_ptr<T>();
      Device::rank2_mix(args);
    });
    return out;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> mix_backward(const Tensor& grad_in, Optional activated,
                                                                 const Tensor& tensor, Optional identity,
                                                                 Optional transpose, const Tensor& graph,
                                                                 int64_t num_edges, int64_t kind, int64_t num_nodes,
                                                                 double slope, const std::vector<bool>& wanted) {
    Mix m{"rank2_mix_backward", tensor, identity, transpose};
    typename Device::Guard guard(tensor);
    m.check(num_edges);
    STD_TORCH_CHECK(wanted.size() == 3, m.op, ": wanted: expected three entries");
    Optional grad = grad_in;
    m.match(grad, "grad", {num_edges, m.width});
    m.match(activated, "activated", {num_edges, m.width});
    auto make = [&](bool want, std::vector<int64_t> shape) {
      return torch::stable::new_empty(tensor, want ? shape : std::vector<int64_t>{0});
    };
    const int64_t in = tensor.size(1);
    Tensor grad_tensor = make(wanted[0], {num_edges, in});
    Tensor grad_identity = make(wanted[1] && identity, {in, m.width});
    Tensor grad_transpose = make(wanted[1] && transpose, {in, m.width});
    Tensor grad_table = make(wanted[2], {num_nodes, 3, m.width});
    dispatch_floating(tensor.scalar_type(), m.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = m.template args<T>(rank2_pairs<Device>(graph, num_nodes, num_edges, kind), slope);
      args.grad = pointer<T>(grad);
      args.activated = pointer<T>(activated);
      if (wanted[0]) args.grad_tensor = grad_tensor.mutable_data_ptr<T>();
      if (wanted[1] && identity) args.grad_identity = grad_identity.mutable_data_ptr<T>();
      if (wanted[1] && transpose) args.grad_transpose = grad_transpose.mutable_data_ptr<T>();
      Device::rank2_mix_backward(args);
      if (!wanted[2]) return;
      Rank2Args<T> sums;
      sums.graph = args.graph;
      sums.channels = m.width;
      sums.tensor = args.grad;
      sums.activated = args.activated;
      sums.slope = args.slope;
      sums.out = grad_table.mutable_data_ptr<T>();
      Device::rank2(tensor, Rank2Kernel::sum, sums);
    });
    return {grad_tensor, grad_identity, grad_transpose, grad_table};
  }

 private:
  struct Mix {
    const char* op;
    Tensor tensor;
    Optional identity, transpose;
    int64_t width = 0;

    void match(Optional& t, const char* name, std::vector<int64_t> shape) const {
      ek::match(op, t, name, tensor, "tensor", std::move(shape));
    }
    void check(int64_t num_edges) {
      check_shape(tensor, op, "tensor", {num_edges, -1});
      STD_TORCH_CHECK(identity || transpose, op, ": expected a weight");
      const Tensor& one = identity ? *identity : *transpose;
      check_shape(one, op, "weight", {-1, -1});
      width = one.size(1);
      tensor = as_contiguous(tensor);
      match(identity, "identity", {tensor.size(1), width});
      match(transpose, "transpose", {tensor.size(1), width});
    }
    template <class T>
    Rank2MixArgs<T> args(const GraphView& graph, double slope) const {
      Rank2MixArgs<T> a;
      a.graph = graph;
      a.in = tensor.size(1);
      a.width = width;
      a.tensor = tensor.const_data_ptr<T>();
      a.identity = pointer<T>(identity);
      a.transpose = pointer<T>(transpose);
      a.slope = T(slope);
      return a;
    }
  };

  template <class F>
  static void dispatch(ScalarType type, const char* op, F&& f) {
    if constexpr (Device::cuda)
      dispatch_stored(type, op, f);
    else
      dispatch_floating(type, op, f);
  }

  static void check_sides(const char* op, const Tensor& like, Optional& weight, Optional& arg, int64_t num_nodes,
                          int64_t channels) {
    STD_TORCH_CHECK(!weight || !arg, op, ": expected weight or arg, not both");
    if (weight) {
      check_shape(*weight, op, "weight", {num_nodes, 2, channels});
      STD_TORCH_CHECK(weight->scalar_type() == like.scalar_type(), op, ": weight: expected the dtype of the tensor");
      weight = as_contiguous(*weight);
    }
    if (arg) {
      check_shape(*arg, op, "arg", {num_nodes, 2, channels});
      STD_TORCH_CHECK(arg->scalar_type() == ScalarType::Int, op, ": arg: expected int32");
      arg = as_contiguous(*arg);
    }
  }

  template <class T>
  static Rank2Args<T> arguments(const Optional& weight, const Optional& arg, const Tensor& graph, int64_t num_nodes,
                                int64_t num_edges, int64_t kind, int64_t channels) {
    Rank2Args<T> args;
    args.graph = rank2_pairs<Device>(graph, num_nodes, num_edges, kind);
    args.channels = channels;
    args.weight = pointer<T>(weight);
    args.arg = pointer<int32_t>(arg);
    return args;
  }
};

}  // namespace ek
