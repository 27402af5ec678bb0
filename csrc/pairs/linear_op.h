// Linear layers with one summed aggregation as one op each, on the CPU: 2 -> 2 sums over pairs, maps particles and
// events and mixes; 1 -> 2 maps particles and events and broadcasts; 2 -> 0 sums over pairs and maps events.
#pragma once

#include <algorithm>

#include "cpu.h"
#include "inputs.h"

namespace ek {

// Powers of 1 / size among the factors of maps 5 to 14 of a 2 -> 2 layer. A 2 -> 0 layer divides by sizes itself.
inline const std::vector<int> kPowers2to2{1, 1, 1, 1, 1, 1, 1, 1, 2, 2}, kPowers2to0{0, 0};
// A 1 -> 2 layer takes particles as they are, and their sum over one index.
inline const std::vector<int> kPowers1to2{0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
// The maps of a 2 -> 2 layer that those of a 1 -> 2 layer are: of the rows' sums to the diagonal, to columns, to rows;
// of the total to the diagonal, everywhere.
inline const std::vector<int64_t> kMaps1to2{8, 9, 10, 14, 13};

// Outputs of both ops: the layer's, and its aggregates, the sums of the raw tensor: 2 -> 2 [nodes, 3, in]; 2 -> 0
// [2, events, in], the total and the trace. Backward reads both again.
struct LinearOnCpu : Rank2OnCpu {
  static std::vector<Tensor> forward_2to2(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l("linear_2to2", tensors, {table, num_edges, kind}, ints, numbers, 15, 10);
    Tensor out = make(l.tensor, true, {l.graph.num_edges, l.width});
    Tensor aggregates = make(l.tensor, true, {l.num_nodes, 3, l.in});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = view(l);
      sum(l, g, l.tensor.template const_data_ptr<T>(), aggregates.mutable_data_ptr<T>());
      const Made<T> made(l, g, kPowers2to2, true);
      const Buffer table(g.num_nodes * 3 * l.width * int64_t(sizeof(T)));
      auto nodes = nodes_args(l, g, made, aggregates.const_data_ptr<T>());
      nodes.bias = made.bias();
      nodes.diag_bias = pointer<T>(l.diag_bias);
      nodes.table = static_cast<T*>(table.p);
      rank2_nodes(nodes);
      auto mix = mix_args(l, g, made);
      mix.table = nodes.table;
      mix.out = out.mutable_data_ptr<T>();
      rank2_mix(mix);
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
      const Buffer grad_table(g.num_nodes * 3 * D * bytes), grad_aggregates(g.num_nodes * 3 * C * bytes);
      const Buffer grad_maps(15 * C * D * bytes), grad_scaled(2 * C * D * bytes), small((2 * D + 2 * C) * bytes);
      const Buffer grad_factors(g.num_events * 10 * C * bytes);
      Rank2Args<T> sums;
      sums.graph = g;
      sums.channels = D;
      sums.tensor = pointer<T>(grad);
      sums.activated = pointer<T>(activated);
      sums.slope = T(l.slope);
      sums.out = static_cast<T*>(grad_table.p);
      rank2(l.tensor, Rank2Kernel::sum, sums);

      auto nodes = nodes_args(l, g, made, pointer<T>(aggregates));
      nodes.grad_table = sums.out;
      nodes.grad_aggregates = static_cast<T*>(grad_aggregates.p);
      nodes.grad_maps = static_cast<T*>(grad_maps.p);
      nodes.grad_factors = static_cast<T*>(grad_factors.p);
      nodes.grad_bias = static_cast<T*>(small.p);
      nodes.grad_diag_bias = nodes.grad_bias + D;
      nodes.grad_scale = nodes.grad_diag_bias + D;
      nodes.grad_shift = nodes.grad_scale + C;
      rank2_nodes_backward(nodes);

      auto mix = mix_args(l, g, made);
      mix.grad = sums.tensor;
      mix.activated = sums.activated;
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

  // Particles are the rows' sums of a 2 -> 2 layer that has no others, and no pairs.
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
      const int64_t C = l.in, D = l.width, bytes = sizeof(T);
      const Buffer aggregates(g.num_nodes * 3 * C * bytes), grad_aggregates(g.num_nodes * 3 * C * bytes);
      const Buffer grad_table(g.num_nodes * 3 * D * bytes), grad_maps(15 * C * D * bytes);
      const Buffer grad_factors(g.num_events * 10 * C * bytes), small((2 * D + 2 * C) * bytes);
      Rank2Args<T> sums;
      sums.graph = g;
      sums.channels = D;
      sums.tensor = pointer<T>(given.grad);
      sums.activated = pointer<T>(given.activated);
      sums.slope = T(l.slope);
      sums.out = static_cast<T*>(grad_table.p);
      rank2(l.tensor, Rank2Kernel::sum, sums);
      auto nodes = nodes_args(l, g, made, as_rows(l, static_cast<T*>(aggregates.p)));
      nodes.grad_table = sums.out;
      nodes.grad_aggregates = static_cast<T*>(grad_aggregates.p);
      nodes.grad_maps = static_cast<T*>(grad_maps.p);
      nodes.grad_factors = static_cast<T*>(grad_factors.p);
      nodes.grad_bias = static_cast<T*>(small.p);
      nodes.grad_diag_bias = nodes.grad_bias + D;
      nodes.grad_scale = nodes.grad_diag_bias + D;
      nodes.grad_shift = nodes.grad_scale + C;
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

  static std::vector<Tensor> forward_2to0(const Optionals& tensors, const Tensor& table, int64_t num_edges,
                                          int64_t kind, const std::vector<int64_t>& ints,
                                          const std::vector<double>& numbers) {
    const LayerInputs l("linear_2to0", tensors, {table, num_edges, kind}, ints, numbers, 2, 2);
    const int64_t events = l.num_events;
    Tensor out = make(l.tensor, true, {events, l.width}), aggregates = make(l.tensor, true, {2, events, l.in});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = view(l);
      const Buffer table(g.num_nodes * 3 * l.in * int64_t(sizeof(T)));
      sum(l, g, l.tensor.template const_data_ptr<T>(), static_cast<T*>(table.p));
      add_up(g, l.in, static_cast<const T*>(table.p), aggregates.mutable_data_ptr<T>());
      const Made<T> made(l, g, kPowers2to0, false);
      const Buffer basis(events * 2 * l.in * int64_t(sizeof(T)));
      make_basis(l, g, made, aggregates.const_data_ptr<T>(), static_cast<T*>(basis.p));
      T* to = out.mutable_data_ptr<T>();
      rows_product(RowsArgs<T>{events, 2 * l.in, l.width, static_cast<const T*>(basis.p), made.maps(), nullptr, to});
      const T *bias = pointer<T>(l.bias), slope = T(l.slope);
      for (int64_t b = 0; b < events; ++b)
        for (int64_t d = 0; d < l.width; ++d, ++to) *to = act(bias ? *to + bias[d] : *to, slope);
    });
    return {out, aggregates};
  }

  static std::vector<Tensor> backward_2to0(const Optionals& cotangents, const Optionals& tensors,
                                           const std::vector<Tensor>& saved, const Tensor& table, int64_t num_edges,
                                           int64_t kind, const std::vector<int64_t>& ints,
                                           const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    const LayerInputs l("linear_2to0_backward", tensors, {table, num_edges, kind}, ints, numbers, 2, 2);
    LayerInputs::Given given = l.given(cotangents, saved, wanted);
    OptionalTensor &grad = given.grad, &activated = given.activated, &aggregates = given.aggregates;
    const LayerGradients grads(l, wanted[0]);
    const int64_t events = l.num_events;
    l.match(grad, "grad", {events, l.width});
    l.match(activated, "activated", {events, l.width});
    l.match(aggregates, "aggregates", {2, events, l.in});
    dispatch_floating(l.tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = view(l);
      const Made<T> made(l, g, kPowers2to0, false);
      const int64_t C = l.in, D = l.width, bytes = sizeof(T);
      const Buffer inner(events * D * bytes), bias(D * bytes), basis(events * 2 * C * bytes);
      const Buffer turned(2 * C * D * bytes), grad_basis(events * 2 * C * bytes), grad_maps(2 * C * D * bytes);
      const Buffer grad_factors(events * 2 * C * bytes), grad_affine(2 * C * bytes);
      T *through_act = static_cast<T*>(inner.p), *to_bias = static_cast<T*>(bias.p);
      const T *g_out = pointer<T>(grad), *out = pointer<T>(activated), slope = T(l.slope);
      std::fill(to_bias, to_bias + D, T(0));
      for (int64_t b = 0; b < events; ++b)
        for (int64_t d = 0; d < D; ++d) {
          const int64_t at = b * D + d;
          through_act[at] = out ? through(g_out[at], out[at], slope) : g_out[at];
          to_bias[d] += through_act[at];
        }
      copy(to_bias, grads.bias);
      const T* x = pointer<T>(aggregates);
      make_basis(l, g, made, x, static_cast<T*>(basis.p));
      T* transposed = static_cast<T*>(turned.p);
      for (int64_t k = 0; k < 2 * C; ++k)
        for (int64_t d = 0; d < D; ++d) transposed[d * 2 * C + k] = made.maps()[k * D + d];
      T* to_basis = static_cast<T*>(grad_basis.p);
      rows_product(RowsArgs<T>{events, D, 2 * C, through_act, transposed, nullptr, to_basis});
      rows_outer(RowsArgs<T>{events, 2 * C, D, static_cast<const T*>(basis.p), nullptr, through_act,
                             static_cast<T*>(grad_maps.p)});
      // through the activation, the factors and the norm, back to the sums
      const T *scale = l.scale<T>(), *shift = l.shift<T>(), *f = made.factors(), inner_slope = T(l.inner_slope);
      T *to_f = static_cast<T*>(grad_factors.p), *to_scale = static_cast<T*>(grad_affine.p), *to_shift = to_scale + C;
      std::fill(to_scale, to_scale + 2 * C, T(0));
      for (int64_t b = 0; b < events; ++b)
        for (int64_t k = 0; k < 2; ++k)
          for (int64_t c = 0; c < C; ++c) {
            const int64_t at = (b * 2 + k) * C + c;
            const T raw = x[(k * events + b) * C + c], count = pairs_in(g, b, k);
            const T normed = made.over_size(b, k, scale ? raw * scale[c] + count * shift[c] : raw);
            const T to_value = through(to_basis[at], normed * f[at], inner_slope);
            const T to_sum = made.over_size(b, k, to_value * f[at]);
            to_f[at] = to_value * normed;
            to_basis[at] = scale ? to_sum * scale[c] : to_sum;
            if (!scale) continue;
            to_scale[c] += to_sum * raw;
            to_shift[c] += to_sum * count;
          }
      copy(to_scale, grads.affine);
      made.backward(l, static_cast<const T*>(grad_maps.p), to_f, grads);
      if (grads.tensor.numel() > 0) spread(l, g, to_basis, grads.tensor.mutable_data_ptr<T>());
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
  static GraphView view(const LayerInputs& l) {
    check_shape(l.tensor, l.op, "tensor", {l.graph.num_edges, -1});
    return l.graph.view<Cpu>(l.num_nodes);
  }
  template <class T>
  static void copy(const T* from, const Tensor& to) {
    std::copy(from, from + to.numel(), static_cast<T*>(to.mutable_data_ptr()));
  }
  template <class T>
  static T act(T z, T slope) {
    return slope == T(0) ? (z <= T(0) ? T(0) : z) : z > T(0) ? z : z * slope;
  }
  template <class T>
  static T through(T grad, T out, T slope) {
    return slope == T(0) ? (out <= T(0) ? T(0) : grad) : out > T(0) ? grad : grad * slope;
  }

  // The maps and factors of a layer for one batch. Pairs: maps 0 and 1 times scale, and their bias, as the mix of the
  // raw tensor takes them: T_ij becomes s T_ij + t, so that the maps are s W, and t W is a bias.
  template <class T>
  class Made {
   public:
    Made(const LayerInputs& l, const GraphView& g, const std::vector<int>& powers, bool pairs)
        : maps_args_(l.maps_args<T>()),
          factors_args_(l.factors_args<T>(g, powers)),
          maps_(l.maps * l.in * l.width * int64_t(sizeof(T))),
          factors_(g.num_events * int64_t(powers.size()) * l.in * int64_t(sizeof(T))),
          pairs_(pairs ? (2 * l.in + 1) * l.width * int64_t(sizeof(T)) : 0) {
      maps_args_.out = static_cast<T*>(maps_.p);
      factors_args_.out = static_cast<T*>(factors_.p);
      dispatch_isa([&](auto isa) {
        using Kernel = MapsCpu<decltype(isa), T>;
        const Buffer scratch(std::max(Kernel::scratch_size(maps_args_), Kernel::scratch_size(factors_args_)) *
                             int64_t(sizeof(T)));
        Kernel::make(maps_args_, static_cast<T*>(scratch.p));
        Kernel::make(factors_args_, static_cast<T*>(scratch.p));
      });
      if (pairs) scale_pairs(l);
    }
    // A total (k = 0) or trace (k = 1) of an event, for each index that is summed.
    T over_size(int64_t event, int64_t k, T sum) const {
      const T size = factors_args_.mean ? factors_args_.size_of(event) : T(factors_args_.nbar);
      return k == 0 ? sum / size / size : sum / size;
    }
    const T* maps() const { return maps_args_.out; }
    const T* factors() const { return factors_args_.out; }
    const T* of_pairs() const { return static_cast<const T*>(pairs_.p); }  // [2, in, width]
    const T* bias() const { return of_pairs() + 2 * maps_args_.in * maps_args_.width; }

    void backward(const LayerInputs& l, const T* grad_maps, const T* grad_factors, const LayerGradients& grads) const {
      MapsArgs<T> maps = maps_args_;
      FactorsArgs<T> factors = factors_args_;
      maps.grad = grad_maps;
      grads.set(maps);
      factors.grad = grad_factors;
      dispatch_isa([&](auto isa) {
        using Kernel = MapsCpu<decltype(isa), T>;
        const Buffer scratch(Kernel::scratch_size(maps) * int64_t(sizeof(T)));
        Kernel::backward(maps, static_cast<T*>(scratch.p));
        if (!l.alpha) return;
        factors.grad_alpha = static_cast<T*>(grads.alpha.mutable_data_ptr());
        Kernel::backward(factors);
      });
    }
    // grad_scaled: of the maps of pairs as the mix took them.
    void backward(const LayerInputs& l, const T* grad_scaled, const Rank2NodesArgs<T>& nodes,
                  const LayerGradients& grads) const {
      const T *scale = l.scale<T>(), *shift = l.shift<T>();
      const int64_t C = l.in, D = l.width;
      for (int64_t c = 0; c < C; ++c) {
        T to_scale = 0, to_shift = 0;
        for (int64_t m = 0; m < 2; ++m) {
          const int64_t row = (m * C + c) * D;
          for (int64_t d = 0; d < D; ++d) {
            const T g = grad_scaled[row + d], w = maps()[row + d], of_bias = nodes.grad_bias[d];
            nodes.grad_maps[row + d] = scale ? scale[c] * g + shift[c] * of_bias : g;
            to_scale += g * w;
            to_shift += of_bias * w;
          }
        }
        if (!scale) continue;
        nodes.grad_scale[c] += to_scale;
        nodes.grad_shift[c] += to_shift;
      }
      backward(l, nodes.grad_maps, nodes.grad_factors, grads);
    }

   private:
    void scale_pairs(const LayerInputs& l) {
      const T *scale = l.scale<T>(), *shift = l.shift<T>(), *own = pointer<T>(l.bias);
      const int64_t C = l.in, D = l.width;
      T *to = static_cast<T*>(pairs_.p), *bias = to + 2 * C * D;
      for (int64_t row = 0; row < 2 * C; ++row) {
        const T factor = scale ? scale[row % C] : T(1);
        for (int64_t d = 0; d < D; ++d) to[row * D + d] = factor * maps()[row * D + d];
      }
      for (int64_t d = 0; d < D; ++d) bias[d] = own ? own[d] : T(0);
      for (int64_t c = 0; c < C && shift; ++c)
        for (int64_t d = 0; d < D; ++d) bias[d] += shift[c] * (maps()[c * D + d] + maps()[(C + c) * D + d]);
    }

    MapsArgs<T> maps_args_;
    FactorsArgs<T> factors_args_;
    Buffer maps_, factors_, pairs_;
  };

  template <class T>
  static void sum(const LayerInputs& l, const GraphView& g, const T* tensor, T* table) {
    Rank2Args<T> args;
    args.graph = g;
    args.channels = l.in;
    args.tensor = tensor;
    args.out = table;
    rank2(l.tensor, Rank2Kernel::sum, args);
  }
  template <class T>
  static Rank2NodesArgs<T> nodes_args(const LayerInputs& l, const GraphView& g, const Made<T>& made,
                                      const T* aggregates) {
    Rank2NodesArgs<T> a;
    a.graph = g;
    a.in = l.in;
    a.width = l.width;
    a.aggregates = aggregates;
    a.maps = made.maps();
    a.factors = made.factors();
    a.scale = l.scale<T>();
    a.shift = l.shift<T>();
    return a;
  }
  template <class T>
  static Rank2MixArgs<T> mix_args(const LayerInputs& l, const GraphView& g, const Made<T>& made) {
    Rank2MixArgs<T> a;
    a.graph = g;
    a.in = l.in;
    a.width = l.width;
    a.tensor = l.tensor.const_data_ptr<T>();
    a.identity = made.of_pairs();
    a.transpose = a.identity + l.in * l.width;
    a.slope = T(l.slope);
    return a;
  }

  // --- 2 -> 0: total (k = 0) and trace (k = 1)

  static int64_t pairs_in(const GraphView& g, int64_t event, int64_t k) {
    const int64_t n = g.ptr[event + 1] - g.ptr[event];
    return k == 0 ? n * n : n;
  }
  // [2, events, in] from what each particle has [nodes, 3, in]
  template <class T>
  static void add_up(const GraphView& g, int64_t in, const T* table, T* sums) {
    T* traces = sums + g.num_events * in;
    std::fill(sums, sums + 2 * g.num_events * in, T(0));
    for (int64_t b = 0; b < g.num_events; ++b)
      for (int64_t i = g.ptr[b]; i < g.ptr[b + 1]; ++i)
        for (int64_t c = 0; c < in; ++c) {
          sums[b * in + c] += table[(i * 3 + 2) * in + c];
          traces[b * in + c] += table[i * 3 * in + c];
        }
  }
  // act'(factor (scale sum + count shift) / size^(2 or 1)), [events, 2, in]
  template <class T>
  static void make_basis(const LayerInputs& l, const GraphView& g, const Made<T>& made, const T* sums, T* basis) {
    const T *scale = l.scale<T>(), *shift = l.shift<T>(), *f = made.factors(), slope = T(l.inner_slope);
    for (int64_t b = 0; b < g.num_events; ++b)
      for (int64_t k = 0; k < 2; ++k)
        for (int64_t c = 0; c < l.in; ++c) {
          const T raw = sums[(k * g.num_events + b) * l.in + c], count = T(pairs_in(g, b, k));
          const T normed = made.over_size(b, k, scale ? raw * scale[c] + count * shift[c] : raw);
          *basis++ = act(normed * *f++, slope);
        }
  }
  // The gradient of the tensor from that of the sums [events, 2, in].
  template <class T>
  static void spread(const LayerInputs& l, const GraphView& g, const T* grad, T* out) {
    const int64_t C = l.in;
    const Buffer table(g.num_nodes * 3 * C * int64_t(sizeof(T)));
    T* to = static_cast<T*>(table.p);
    for (int64_t b = 0; b < g.num_events; ++b)
      for (int64_t i = g.ptr[b]; i < g.ptr[b + 1]; ++i, to += 3 * C) {
        std::copy(grad + (b * 2 + 1) * C, grad + (b * 2 + 2) * C, to);
        std::fill(to + C, to + 2 * C, T(0));
        std::copy(grad + b * 2 * C, grad + (b * 2 + 1) * C, to + 2 * C);
      }
    Rank2Args<T> args;
    args.graph = g;
    args.channels = C;
    args.table = static_cast<const T*>(table.p);
    args.out = out;
    rank2(l.tensor, Rank2Kernel::broadcast, args);
  }
};

}  // namespace ek
