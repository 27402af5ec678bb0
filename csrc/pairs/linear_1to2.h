// The linear layer 1 -> 2 as one op on the CPU: it maps particles and events and broadcasts. Particles are the rows'
// sums of a 2 -> 2 layer that has no others, and no pairs.
#pragma once

#include "linear_layer.h"

namespace ek {

// Particles are taken as they are, and their sum over one index.
inline const std::vector<int> kPowers1to2{0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
// The maps of a 2 -> 2 layer that those of a 1 -> 2 layer are: of the rows' sums to the diagonal, to columns, to rows;
// of the total to the diagonal, everywhere.
inline const std::vector<int64_t> kMaps1to2{8, 9, 10, 14, 13};

struct Linear1to2OnCpu : LinearLayerOnCpu {
  static std::vector<Tensor> forward_1to2(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l = particles("linear_1to2", tensors, {table, num_edges, kind}, ints, numbers);
    Tensor out = make(l.tensor, true, {l.graph.num_edges, l.width});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = l.graph.view<Cpu>(l.num_nodes);
      const Made<T> made(l, g, kPowers1to2, false);
      const Buffer aggregates(g.num_nodes * 3 * l.in * int64_t(sizeof(T)));
      const Buffer table(g.num_nodes * 3 * l.width * int64_t(sizeof(T)));
      auto nodes = nodes_args(l, g, made, as_rows(l, static_cast<T*>(aggregates.p)));
      nodes.bias = pointer<T>(l.bias);
      nodes.diag_bias = pointer<T>(l.diag_bias);
      nodes.table = static_cast<T*>(table.p);
      rank2_nodes(nodes);
      Rank2Args<T> spread;
      spread.graph = g;
      spread.channels = l.width;
      spread.table = nodes.table;
      spread.out = out.mutable_data_ptr<T>();
      rank2(l.tensor, Rank2Kernel::broadcast, spread);
      const T slope = T(l.slope);
      if (slope != T(1))
        for (T *p = spread.out, *end = p + out.numel(); p < end; ++p) *p = act(*p, slope);
    });
    return {out, make(l.tensor, false, {})};
  }

  static std::vector<Tensor> backward_1to2(const Optionals& cotangents, const Optionals& tensors,
                                           const std::vector<Tensor>& saved, const Tensor& table, int64_t num_edges,
                                           int64_t kind, const std::vector<int64_t>& ints,
                                           const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    const LayerInputs l = particles("linear_1to2_backward", tensors, {table, num_edges, kind}, ints, numbers);
    LayerInputs::Given given = l.given(cotangents, saved, wanted);
    LayerGradients grads(l, true);
    l.match(given.grad, "grad", {l.graph.num_edges, l.width});
    l.match(given.activated, "activated", {l.graph.num_edges, l.width});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = l.graph.view<Cpu>(l.num_nodes);
      const Made<T> made(l, g, kPowers1to2, false);
      const int64_t C = l.in;
      const NodeGradients<T> room(l, g);
      const Buffer aggregates(g.num_nodes * 3 * C * int64_t(sizeof(T)));
      sum_gradient(l, given, g, static_cast<T*>(room.table.p));
      auto nodes = nodes_args(l, g, made, as_rows(l, static_cast<T*>(aggregates.p)));
      room.set(nodes);
      rank2_nodes_backward(nodes);
      made.backward(l, nodes.grad_maps, nodes.grad_factors, grads);
      copy(nodes.grad_bias, grads.bias);
      copy(nodes.grad_diag_bias, grads.diag_bias);
      T* to = grads.tensor.mutable_data_ptr<T>();
      for (int64_t i = 0; i < g.num_nodes; ++i, to += C)
        std::copy(nodes.grad_aggregates + (3 * i + 2) * C, nodes.grad_aggregates + (3 * i + 3) * C, to);
      if (l.alpha) grads.alpha = of_five<T>(*tensors[8], grads.alpha);
    });
    return grads.wanted(wanted);
  }

 private:
  // The inputs of a 1 -> 2 layer as those of a 2 -> 2 layer.
  static LayerInputs particles(const char* op, const Optionals& tensors, const PairsInput& pairs,
                               const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    LayerInputs l(op, tensors, pairs, ints, numbers, 5, 5);
    check_shape(l.tensor, op, "tensor", {l.num_nodes, -1});
    STD_TORCH_CHECK(!l.affine && l.inner_slope == 1, op, ": affine, inner slope: of no such layer");
    if (l.places.empty()) l.places = {0, 1, 2, 3, 4};
    for (int64_t& k : l.places) k = kMaps1to2[size_t(k)];
    l.maps = 15;
    if (!l.alpha) return l;
    const Tensor five = *l.alpha;
    Tensor ten = make(five, true, {l.in, 10});
    dispatch_floating(five.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      const T* from = five.template const_data_ptr<T>();
      T* to = ten.mutable_data_ptr<T>();
      std::fill(to, to + 10 * l.in, T(0));
      for (int64_t c = 0; c < l.in; ++c)
        for (int64_t k = 0; k < 5; ++k) to[c * 10 + kMaps1to2[size_t(k)] - 5] = from[c * 5 + k];
    });
    l.alpha = ten;
    return l;
  }
  // The exponents' gradients [in, 10] as those of a 1 -> 2 layer, of the shape of `like`.
  template <class T>
  static Tensor of_five(const Tensor& like, const Tensor& ten) {
    std::vector<int64_t> shape;
    for (int64_t d = 0; d < like.dim(); ++d) shape.push_back(like.size(d));
    Tensor five = make(like, true, shape);
    const T* from = ten.const_data_ptr<T>();
    T* to = five.mutable_data_ptr<T>();
    for (int64_t c = 0; c < ten.size(0); ++c)
      for (int64_t k = 0; k < 5; ++k) *to++ = from[c * 10 + kMaps1to2[size_t(k)] - 5];
    return five;
  }
  // Aggregates [nodes, 3, in]: particles for the rows, the others zero.
  template <class T>
  static const T* as_rows(const LayerInputs& l, T* aggregates) {
    const int64_t C = l.in;
    const T* from = l.tensor.const_data_ptr<T>();
    for (T *to = aggregates, *end = to + 3 * C * l.num_nodes; to < end; to += 3 * C, from += C) {
      std::fill(to, to + 2 * C, T(0));
      std::copy(from, from + C, to + 2 * C);
    }
    return aggregates;
  }
};

}  // namespace ek
