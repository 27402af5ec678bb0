// The sums, the broadcast and the extremum of pairs as ops, for any device that has their kernels.
#pragma once

#include <tuple>

#include "inputs.h"

namespace ek {

inline constexpr const char* kRank2SumSchema =
    "rank2_sum(Tensor tensor, Tensor? weight, Tensor? arg, " EK_GRAPH_SCHEMA ", SymInt num_nodes) -> Tensor";
inline constexpr const char* kRank2BroadcastSchema =
    "rank2_broadcast(Tensor table, Tensor? weight, Tensor? arg, " EK_GRAPH_SCHEMA ") -> Tensor";
inline constexpr const char* kRank2ExtremumSchema =
    "rank2_extremum(Tensor tensor, " EK_GRAPH_SCHEMA ", SymInt num_nodes, bool largest) -> (Tensor, Tensor)";

template <class Device>
class Rank2Sums {
 public:
  static Tensor sum(const Tensor& tensor, OptionalTensor weight, OptionalTensor arg, const Tensor& graph,
                    int64_t num_edges, int64_t kind, int64_t num_nodes) {
    const char* op = "rank2_sum";
    typename Device::Guard guard(tensor);
    check_shape(tensor, op, "tensor", {num_edges, -1});
    const int64_t channels = tensor.size(1);
    Tensor out = make(tensor, true, {num_nodes, 3, channels});
    check_sides(op, tensor, weight, arg, num_nodes, channels);
    const Tensor rows = as_contiguous(tensor);
    dispatch(tensor.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(weight, arg, {graph, num_edges, kind}, num_nodes, channels);
      args.tensor = static_cast<const T*>(rows.const_data_ptr());
      args.out = static_cast<T*>(out.mutable_data_ptr());
      Device::rank2(tensor, Rank2Kernel::sum, args);
    });
    return out;
  }

  static Tensor broadcast(const Tensor& table, OptionalTensor weight, OptionalTensor arg, const Tensor& graph,
                          int64_t num_edges, int64_t kind) {
    const char* op = "rank2_broadcast";
    typename Device::Guard guard(table);
    check_shape(table, op, "table", {-1, 3, -1});
    const int64_t num_nodes = table.size(0), channels = table.size(2);
    Tensor out = make(table, true, {num_edges, channels});
    check_sides(op, table, weight, arg, num_nodes, channels);
    const Tensor rows = as_contiguous(table);
    dispatch(table.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(weight, arg, {graph, num_edges, kind}, num_nodes, channels);
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
    Tensor out = make(tensor, true, {num_nodes, 3, channels});
    Tensor arg = uninitialised(tensor, {num_nodes, 2, channels}, ScalarType::Int);
    const Tensor rows = as_contiguous(tensor);
    dispatch(tensor.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      auto args = arguments<T>(std::nullopt, std::nullopt, {graph, num_edges, kind}, num_nodes, channels);
      args.tensor = static_cast<const T*>(rows.const_data_ptr());
      args.out = static_cast<T*>(out.mutable_data_ptr());
      args.arg_out = arg.mutable_data_ptr<int32_t>();
      args.largest = largest;
      Device::rank2(tensor, Rank2Kernel::extremum, args);
    });
    return {out, arg};
  }

 private:
  template <class F>
  static void dispatch(ScalarType type, const char* op, F&& f) {
    if constexpr (Device::cuda)
      dispatch_stored(type, op, f);
    else
      dispatch_floating(type, op, f);
  }

  static void check_sides(const char* op, const Tensor& like, OptionalTensor& weight, OptionalTensor& arg,
                          int64_t num_nodes, int64_t channels) {
    STD_TORCH_CHECK(!weight || !arg, op, ": expected weight or arg, not both");
    ek::match(op, weight, "weight", like, "the tensor", {num_nodes, 2, channels});
    if (!arg) return;
    check_shape(*arg, op, "arg", {num_nodes, 2, channels});
    STD_TORCH_CHECK(arg->scalar_type() == ScalarType::Int, op, ": arg: expected int32");
    arg = as_contiguous(*arg);
  }

  template <class T>
  static Rank2Args<T> arguments(const OptionalTensor& weight, const OptionalTensor& arg, const PairsInput& graph,
                                int64_t num_nodes, int64_t channels) {
    Rank2Args<T> args;
    args.graph = graph.view<Device>(num_nodes);
    args.channels = channels;
    args.weight = pointer<T>(weight);
    args.arg = pointer<int32_t>(arg);
    return args;
  }
};

}  // namespace ek
