// The linear layer 2 -> 2 as one op on the CPU: it sums over pairs, maps particles and events and mixes. Outputs: the
// layer's, and its aggregates [nodes, 3, in], the sums of the raw tensor, which backward reads again.
#pragma once

#include "linear_layer.h"

namespace ek {

// Powers of 1 / size among the factors of maps 5 to 14.
inline const std::vector<int> kPowers2to2{1, 1, 1, 1, 1, 1, 1, 1, 2, 2};

struct Linear2to2OnCpu : LinearLayerOnCpu {
  static std::vector<Tensor> forward_2to2(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l("linear_2to2", tensors, {table, num_edges, kind}, ints, numbers, 15, 10);
    Tensor out = make(l.tensor, true, {l.graph.num_edges, l.width});
    Tensor aggregates = make(l.tensor, true, {l.num_nodes, 3, l.in});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = view(l);
      const Made<T> made(l, g, kPowers2to2, true);
      const Buffer table(g.num_nodes * 3 * l.width * int64_t(sizeof(T)));
      auto nodes = nodes_args(l, g, made, aggregates.const_data_ptr<T>());
      nodes.bias = made.bias();
      nodes.diag_bias = pointer<T>(l.diag_bias);
      nodes.table = static_cast<T*>(table.p);
      auto mix = mix_args(l, g, made);
      mix.table = nodes.table;
      mix.out = out.mutable_data_ptr<T>();
      rank2_layer(l.tensor, sum_args(g, l.in, mix.tensor, aggregates.mutable_data_ptr<T>()), nodes, mix);
    });
    return {out, aggregates};
  }

  static std::vector<Tensor> backward_2to2(const Optionals& cotangents, const Optionals& tensors,
                                           const std::vector<Tensor>& saved, const Tensor& table, int64_t num_edges,
                                           int64_t kind, const std::vector<int64_t>& ints,
                                           const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    const LayerInputs l("linear_2to2_backward", tensors, {table, num_edges, kind}, ints, numbers, 15, 10);
    LayerInputs::Given given = l.given(cotangents, saved, wanted);
    OptionalTensor &grad = given.grad, &activated = given.activated, &aggregates = given.aggregates;
    const LayerGradients grads(l, wanted[0]);
    l.match(grad, "grad", {l.graph.num_edges, l.width});
    l.match(activated, "activated", {l.graph.num_edges, l.width});
    l.match(aggregates, "aggregates", {l.num_nodes, 3, l.in});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = view(l);
      const Made<T> made(l, g, kPowers2to2, true);
      const int64_t C = l.in, D = l.width, bytes = sizeof(T);
      const NodeGradients<T> room(l, g);
      const Buffer grad_scaled(2 * C * D * bytes);
      sum_gradient(l, given, g, static_cast<T*>(room.table.p));

      auto nodes = nodes_args(l, g, made, pointer<T>(aggregates));
      room.set(nodes);
      rank2_nodes_backward(nodes);

      auto mix = mix_args(l, g, made);
      mix.grad = pointer<T>(grad);
      mix.activated = pointer<T>(activated);
      mix.grad_identity = static_cast<T*>(grad_scaled.p);
      mix.grad_transpose = mix.grad_identity + C * D;
      if (grads.tensor.numel() > 0) {
        mix.table = nodes.grad_aggregates;
        mix.grad_tensor = grads.tensor.mutable_data_ptr<T>();
      }
      rank2_mix_backward(mix);
      made.backward(l, mix.grad_identity, nodes, grads);
      copy(nodes.grad_bias, grads.bias);
      copy(nodes.grad_diag_bias, grads.diag_bias);
      copy(nodes.grad_scale, grads.affine);
    });
    return grads.wanted(wanted);
  }
};

}  // namespace ek
