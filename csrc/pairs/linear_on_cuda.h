// linear_2to2 and linear_2to0 as one op each, on CUDA.
#pragma once

#include "linear_cuda.h"
#include "products_on_cuda.h"

namespace ek {

template <class Device>
struct LinearOnCuda : ProductsOnCuda<Device> {
  using Products = ProductsOnCuda<Device>;
  using typename Products::Guard;

  static std::vector<Tensor> forward_2to2(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l("linear_2to2", tensors, {table, num_edges, kind}, ints, numbers, 15, 10);
    const Guard guard(l.tensor);
    Tensor out = make(l.tensor, true, {l.graph.num_edges, l.width});
    Tensor aggregates = make(l.tensor, true, {l.num_nodes, 3, l.in});
    dispatch_stored(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using S = decltype(zero);
      auto a = arguments<S>(l);
      Products::sum_table(l.tensor, a.graph, aggregates);
      a.aggregates = static_cast<const S*>(aggregates.const_data_ptr());
      Workspace<Accumulator<S>> room;
      reserve_layer(room, a);
      room.reserve(a.values, l.num_events * 2 * l.width);
      room.reserve(a.table, l.num_nodes * 3 * l.width);
      room.allocate(l.tensor);
      run(l, [&](auto stream) { return linear_make_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_events_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_nodes_cuda(a, stream); });
      auto mix = mix_of(l, a, l.in, l.width, l.tensor, out);
      mix.stride_in = l.width;
      mix.table = a.table;
      mix.slope = Accumulator<S>(l.slope);
      Products::multiply(l.tensor, mix);
    });
    return {out, aggregates};
  }

  static std::vector<Tensor> backward_2to2(const Optionals& cotangents, const Optionals& tensors,
                                           const std::vector<Tensor>& saved, const Tensor& table, int64_t num_edges,
                                           int64_t kind, const std::vector<int64_t>& ints,
                                           const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    const LayerInputs l("linear_2to2_backward", tensors, {table, num_edges, kind}, ints, numbers, 15, 10);
    const Guard guard(l.tensor);
    LayerInputs::Given given = l.given(cotangents, saved, wanted);
    OptionalTensor &grad = given.grad, &activated = given.activated, &aggregates = given.aggregates;
    const LayerGradients grads(l, wanted[0]);
    l.match(grad, "grad", {l.graph.num_edges, l.width});
    l.match(activated, "activated", {l.graph.num_edges, l.width});
    l.match(aggregates, "aggregates", {l.num_nodes, 3, l.in});
    Tensor grad_table = make(l.tensor, true, {l.num_nodes, 3, l.width});
    dispatch_stored(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using S = decltype(zero);
      using T = Accumulator<S>;
      const int64_t C = l.in, D = l.width, nodes = l.num_nodes, events = l.num_events;
      const Tensor inner = Products::template through<S>(*grad, activated, l.slope);
      auto a = arguments<S>(l);
      Products::sum_table(inner, a.graph, grad_table);
      a.aggregates = pointer<S>(aggregates);
      a.grad_table = static_cast<const S*>(grad_table.const_data_ptr());
      Workspace<T> room;
      reserve_layer(room, a);
      reserve_events(room, a);
      room.reserve(a.grad_inputs, 3 * nodes * 3 * C);
      room.reserve(a.grad_aggregates, nodes * 3 * C);
      const int64_t node_shares = linear_node_shares(a), of_nodes = 9 * C * D;
      room.reserve(a.node_parts, node_shares * of_nodes);
      OuterArgs<S> pairs{a.graph, l.graph.num_edges, C, D};
      pairs.second = true;
      pairs.x = static_cast<const S*>(l.tensor.const_data_ptr());
      pairs.grad = static_cast<const S*>(inner.const_data_ptr());
      const int64_t pair_shares = outer_shares(pairs), of_pairs = 2 * C * D;
      room.reserve(pairs.parts, pair_shares * of_pairs);
      T *pair_maps, *node_maps;
      room.reserve(pair_maps, of_pairs);
      room.reserve(node_maps, of_nodes);
      room.allocate(l.tensor);

      run(l, [&](auto stream) { return linear_make_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_events_backward_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_grad_inputs_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_pull_cuda(a, stream); });
      if (grads.tensor.numel() > 0) {
        auto mix = mix_of(l, a, D, C, inner, grads.tensor);
        mix.stride_in = 1, mix.stride_out = D;
        mix.table = a.grad_aggregates;
        Products::multiply(l.tensor, mix);
      }
      run(l, [&](auto stream) { return outer_cuda(pairs, stream); });
      run(l, [&](auto stream) { return linear_node_maps_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_event_maps_cuda(a, stream); });
      auto sums = sums_of_events(a);
      sums.of[2] = {pairs.parts, pair_maps, pair_shares, of_pairs, of_pairs};
      sums.of[3] = {a.node_parts, node_maps, node_shares, of_nodes, of_nodes};
      a.of_pair_maps = pair_maps;
      a.of_node_maps = node_maps;
      run(l, [&](auto stream) { return add_up_cuda(sums, stream); });
      set_gradients(a, grads);
      run(l, [&](auto stream) { return linear_parameters_cuda(a, stream); });
    });
    return grads.wanted(wanted);
  }

  // Sums of events [2, events, in] in the precision that they are added in.
  static std::vector<Tensor> forward_2to0(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l("linear_2to0", tensors, {table, num_edges, kind}, ints, numbers, 2, 2);
    const Guard guard(l.tensor);
    Tensor out = make(l.tensor, true, {l.num_events, l.width});
    Tensor aggregates = uninitialised(l.tensor, {2, l.num_events, l.in}, wide(l.tensor));
    Tensor sums = make(l.tensor, true, {l.num_nodes, 3, l.in});
    dispatch_stored(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using S = decltype(zero);
      using T = Accumulator<S>;
      auto a = arguments<S>(l);
      Products::sum_table(l.tensor, a.graph, sums);
      a.aggregates = static_cast<const S*>(sums.const_data_ptr());
      a.event_sums = static_cast<T*>(aggregates.mutable_data_ptr());
      a.out = static_cast<S*>(out.mutable_data_ptr());
      Workspace<T> room;
      reserve_layer(room, a);
      room.allocate(l.tensor);
      run(l, [&](auto stream) { return linear_make_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_2to0_cuda(a, stream); });
    });
    return {out, aggregates};
  }

  static std::vector<Tensor> backward_2to0(const Optionals& cotangents, const Optionals& tensors,
                                           const std::vector<Tensor>& saved, const Tensor& table, int64_t num_edges,
                                           int64_t kind, const std::vector<int64_t>& ints,
                                           const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    const LayerInputs l("linear_2to0_backward", tensors, {table, num_edges, kind}, ints, numbers, 2, 2);
    const Guard guard(l.tensor);
    LayerInputs::Given given = l.given(cotangents, saved, wanted);
    OptionalTensor &grad = given.grad, &activated = given.activated, &aggregates = given.aggregates;
    const LayerGradients grads(l, wanted[0]);
    l.match(grad, "grad", {l.num_events, l.width});
    l.match(activated, "activated", {l.num_events, l.width});
    check_shape(*aggregates, l.op, "aggregates", {2, l.num_events, l.in});
    STD_TORCH_CHECK(aggregates->scalar_type() == wide(l.tensor), l.op, ": aggregates: unexpected dtype");
    aggregates = as_contiguous(*aggregates);
    Tensor to_pairs = make(l.tensor, wanted[0], {l.num_nodes, 3, l.in});
    dispatch_stored(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using S = decltype(zero);
      using T = Accumulator<S>;
      auto a = arguments<S>(l);
      a.event_sums = const_cast<T*>(pointer<T>(aggregates));
      a.grad = pointer<S>(grad);
      a.activated = pointer<S>(activated);
      if (wanted[0]) a.to_pairs = static_cast<S*>(to_pairs.mutable_data_ptr());
      Workspace<T> room;
      reserve_layer(room, a);
      reserve_events(room, a);
      room.allocate(l.tensor);
      run(l, [&](auto stream) { return linear_make_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_2to0_backward_cuda(a, stream); });
      run(l, [&](auto stream) { return linear_event_maps_cuda(a, stream); });
      run(l, [&](auto stream) { return add_up_cuda(sums_of_events(a), stream); });
      set_gradients(a, grads);
      run(l, [&](auto stream) { return linear_parameters_cuda(a, stream); });
      if (grads.tensor.numel() == 0) return;
      Rank2Args<S> spread;
      spread.graph = a.graph;
      spread.channels = l.in;
      spread.table = a.to_pairs;
      spread.out = static_cast<S*>(grads.tensor.mutable_data_ptr());
      Rank2OnCuda<Device>::rank2(l.tensor, Rank2Kernel::broadcast, spread);
    });
    return grads.wanted(wanted);
  }

 private:
  static ScalarType wide(const Tensor& t) {
    return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  template <class F>
  static void run(const LayerInputs& l, F&& launcher) {
    Device::launch(l.tensor, launcher);
  }

  template <class S>
  static LinearArgs<S> arguments(const LayerInputs& l) {
    check_shape(l.tensor, l.op, "tensor", {l.graph.num_edges, -1});
    LinearArgs<S> a;
    a.graph = l.graph.template view<Device>(l.num_nodes);
    a.graph.num_edges = l.graph.num_edges;
    a.in = l.in, a.width = l.width, a.kept = l.kept, a.maps = l.maps;
    a.of_pairs = l.maps == a.kMaps;
    a.factored = a.of_pairs ? a.kFactors : 2;
    std::fill(std::begin(a.at), std::end(a.at), int8_t(-1));
    for (int64_t p = 0; p < l.kept; ++p) a.at[l.places.empty() ? p : l.places[size_t(p)]] = int8_t(p);
    for (int k = 0; k < a.kFactors; ++k) a.powers[k] = int8_t(!a.of_pairs ? 0 : k < 8 ? 1 : 2);
    a.coefs = static_cast<const S*>(l.coefs.const_data_ptr());
    a.coefs01 = pointer<S>(l.coefs01), a.coefs10 = pointer<S>(l.coefs10), a.coefs11 = pointer<S>(l.coefs11);
    a.scale = l.scale<S>(), a.shift = l.shift<S>();
    a.bias = pointer<S>(l.bias), a.diag_bias = pointer<S>(l.diag_bias);
    a.alpha = pointer<S>(l.alpha), a.nobj = pointer<S>(l.nobj);
    a.mean = l.mean, a.nbar = l.nbar;
    a.inner_slope = Accumulator<S>(l.inner_slope), a.slope = Accumulator<S>(l.slope);
    return a;
  }
  template <class S, class T>
  static void reserve_layer(Workspace<T>& room, LinearArgs<S>& a) {
    const int64_t matrix = a.in * a.width;
    room.reserve(a.made, a.maps * matrix);
    room.reserve(a.pairs, a.of_pairs ? 2 * matrix : 0);
    room.reserve(a.pair_bias, a.of_pairs ? a.width : 0);
    room.reserve(a.factors, a.graph.num_events * a.factored * a.in);
    room.reserve(a.of_events, a.graph.num_events * 2);
  }
  // What backward makes of events.
  template <class S, class T>
  static void reserve_events(Workspace<T>& room, LinearArgs<S>& a) {
    const int64_t C = a.in, D = a.width, events = a.graph.num_events, slots = a.event_slots();
    room.reserve(a.grad_values, events * slots * D);
    room.reserve(a.event_inputs, events * slots * 2 * C);
    room.reserve(a.grad_sums, events * 2 * C);
    room.reserve(a.grad_factors, events * a.factored * C);
    room.reserve(a.of_affine, events * 2 * C);
    room.reserve(a.event_parts, linear_event_shares(a) * a.event_part());
    room.reserve(a.of_event_maps, a.event_part());
    room.reserve(a.of_events_affine, 2 * C);
  }
  template <class S>
  static AddUpArgs<Accumulator<S>, Accumulator<S>> sums_of_events(const LinearArgs<S>& a) {
    AddUpArgs<Accumulator<S>, Accumulator<S>> sums;
    const int64_t part = a.event_part(), affine = 2 * a.in;
    sums.of[0] = {a.event_parts, a.of_event_maps, linear_event_shares(a), part, part};
    sums.of[1] = {a.of_affine, a.of_events_affine, a.graph.num_events, affine, affine};
    return sums;
  }
  template <class S>
  static void set_gradients(LinearArgs<S>& a, const LayerGradients& grads) {
    const auto data = [](const Tensor& t) { return Products::template data<S>(t); };
    a.to_coefs = data(grads.coefs), a.to_coefs01 = data(grads.coefs01);
    a.to_coefs10 = data(grads.coefs10), a.to_coefs11 = data(grads.coefs11);
    a.to_affine = data(grads.affine), a.to_bias = data(grads.bias), a.to_diag_bias = data(grads.diag_bias);
    a.to_alpha = data(grads.alpha);
  }
  template <class S>
  static ProductArgs<S, Accumulator<S>> mix_of(const LayerInputs& l, const LinearArgs<S>& a, int64_t in, int64_t width,
                                               const Tensor& x, const Tensor& out) {
    ProductArgs<S, Accumulator<S>> mix{a.graph, l.graph.num_edges, in, width};
    mix.x = static_cast<const S*>(x.const_data_ptr());
    mix.first = a.pairs;
    mix.second = a.pairs + l.in * l.width;
    mix.out = static_cast<S*>(out.mutable_data_ptr());
    return mix;
  }
};

}  // namespace ek
