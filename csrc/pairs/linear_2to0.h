// The linear layer 2 -> 0 as one op on the CPU: it sums over pairs and maps events. Outputs: the layer's, and its
// aggregates [2, events, in], the total (k = 0) and the trace (k = 1) of the raw tensor, which backward reads again.
#pragma once

#include "linear_layer.h"

namespace ek {

// Sums are divided by sizes here, not among the factors.
inline const std::vector<int> kPowers2to0{0, 0};

struct Linear2to0OnCpu : LinearLayerOnCpu {
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
      rank2(l.tensor, Rank2Kernel::sum,
            sum_args(g, l.in, l.tensor.template const_data_ptr<T>(), static_cast<T*>(table.p)));
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
