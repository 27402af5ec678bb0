// Arguments of the mix of pairs, for any device; and its schemas.
#pragma once

#include "inputs.h"

namespace ek {

#define EK_MIX_SCHEMA                                                                   \
  "Tensor tensor, Tensor? identity, Tensor? transpose, Tensor? table, " EK_GRAPH_SCHEMA \
  ", SymInt num_nodes, float slope"
inline constexpr const char* kRank2MixSchema = "rank2_mix(" EK_MIX_SCHEMA ") -> Tensor";
// wanted: the gradients of tensor, of both weights, of the table; empty where not wanted or absent.
inline constexpr const char* kRank2MixBackwardSchema =
    "rank2_mix_backward(Tensor grad, Tensor? activated, " EK_MIX_SCHEMA
    ", bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)";

struct MixInputs {
  const char* op;
  Tensor tensor;
  OptionalTensor identity, transpose, table;
  PairsInput graph;
  int64_t num_nodes;
  double slope;
  int64_t in, width;

  MixInputs(const char* name, Reader& stack)
      : op(name),
        tensor(stack.next<Tensor>()),
        identity(stack.next<OptionalTensor>()),
        transpose(stack.next<OptionalTensor>()),
        table(stack.next<OptionalTensor>()),
        graph(stack),
        num_nodes(stack.next<int64_t>()),
        slope(stack.next<double>()) {
    check_shape(tensor, op, "tensor", {graph.num_edges, -1});
    STD_TORCH_CHECK(identity || transpose, op, ": expected a weight");
    const Tensor& one = identity ? *identity : *transpose;
    check_shape(one, op, "weight", {-1, -1});
    in = tensor.size(1), width = one.size(1);
    tensor = as_contiguous(tensor);
    match(identity, "identity", {in, width});
    match(transpose, "transpose", {in, width});
    match(table, "table", {num_nodes, 3, width});
  }
  void match(OptionalTensor& t, const char* argument, std::vector<int64_t> shape) const {
    ek::match(op, t, argument, tensor, "tensor", std::move(shape));
  }
};

}  // namespace ek
