// A whole 2 -> 2 layer with one summed aggregation: sum over pairs, maps of particles and events, mix. Any device that
// has these three.
#pragma once

#include "bind.h"
#include "nodes.h"

namespace ek {

// The layer acts on scale T + shift, channel by channel, which is never made. aggregates [n, 3, C] are those of T.
inline constexpr const char* kLinear2to2Schema =
    "linear_2to2(Tensor tensor, Tensor maps, Tensor factors, Tensor? scale, Tensor? shift, Tensor? bias, Tensor? "
    "diag_bias, " EK_GRAPH_SCHEMA ", SymInt num_nodes, float slope) -> (Tensor, Tensor)";
// Gradients of tensor, maps, factors, scale, shift, bias, diag_bias. want_tensor: that of tensor; empty if not,
// as those of scale and shift where there are none.
inline constexpr const char* kLinear2to2BackwardSchema =
    "linear_2to2_backward(Tensor grad, Tensor? activated, Tensor aggregates, Tensor tensor, Tensor maps, Tensor "
    "factors, Tensor? scale, Tensor? shift, " EK_GRAPH_SCHEMA
    ", SymInt num_nodes, float slope, bool want_tensor) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)";

template <class Device>
class Linear2to2 {
  using Optional = std::optional<Tensor>;

 public:
  static std::tuple<Tensor, Tensor> forward(const Tensor& tensor, const Tensor& maps, const Tensor& factors,
                                            Optional scale, Optional shift, Optional bias, Optional diag_bias,
                                            const Tensor& graph, int64_t num_edges, int64_t kind, int64_t num_nodes,
                                            double slope) {
    Layer l{"linear_2to2", tensor, maps, factors, scale, shift, num_edges};
    typename Device::Guard guard(tensor);
    l.match(bias, "bias", {l.width});
    l.match(diag_bias, "diag_bias", {l.width});
    Tensor out = torch::stable::new_empty(tensor, {num_edges, l.width});
    Tensor aggregates = torch::stable::new_empty(tensor, {num_nodes, 3, l.in});
    Tensor table = torch::stable::new_empty(tensor, {num_nodes, 3, l.width});
    dispatch_floating(tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = rank2_pairs<Device>(graph, num_nodes, num_edges, kind);
      Rank2Args<T> sum;
      sum.graph = g;
      sum.channels = l.in;
      sum.tensor = l.tensor.template const_data_ptr<T>();
      sum.out = aggregates.mutable_data_ptr<T>();
      Device::rank2(tensor, Rank2Kernel::sum, sum);

      const PairMaps<T> of_pairs(l);
      Tensor constant = of_pairs.bias(l, bias);
      auto nodes = l.template nodes<T>(g, aggregates);
      nodes.bias = constant.const_data_ptr<T>();
      nodes.diag_bias = pointer<T>(diag_bias);
      nodes.table = table.mutable_data_ptr<T>();
      Device::rank2_nodes(nodes);

      auto mix = of_pairs.mix(l, g, slope);
      mix.table = nodes.table;
      mix.out = out.mutable_data_ptr<T>();
      Device::rank2_mix(mix);
    });
    return {out, aggregates};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
      const Tensor& grad_in, Optional activated, const Tensor& aggregates_in, const Tensor& tensor, const Tensor& maps,
      const Tensor& factors, Optional scale, Optional shift, const Tensor& graph, int64_t num_edges, int64_t kind,
      int64_t num_nodes, double slope, bool want_tensor) {
    Layer l{"linear_2to2_backward", tensor, maps, factors, scale, shift, num_edges};
    typename Device::Guard guard(tensor);
    Optional grad = grad_in, aggregates = aggregates_in;
    l.match(grad, "grad", {num_edges, l.width});
    l.match(activated, "activated", {num_edges, l.width});
    l.match(aggregates, "aggregates", {num_nodes, 3, l.in});
    auto make = [&](std::vector<int64_t> shape) { return torch::stable::new_empty(tensor, shape); };
    Tensor grad_tensor = make(want_tensor ? std::vector<int64_t>{num_edges, l.in} : std::vector<int64_t>{0});
    Tensor grad_maps = make({15, l.in, l.width}), grad_factors = make({l.factors.size(0), 10, l.in});
    const std::vector<int64_t> of_scale{l.scale ? l.in : 0};
    Tensor grad_scale = make(of_scale), grad_shift = make(of_scale), grad_bias = make({l.width}),
           grad_diag = make({l.width});
    Tensor grad_table = make({num_nodes, 3, l.width}), grad_aggregates = make({num_nodes, 3, l.in});
    Tensor grad_scaled = make({2, l.in, l.width});
    dispatch_floating(tensor.scalar_type(), l.op, [&](auto zero) {
      using T = decltype(zero);
      const GraphView g = rank2_pairs<Device>(graph, num_nodes, num_edges, kind);
      Rank2Args<T> sum;
      sum.graph = g;
      sum.channels = l.width;
      sum.tensor = pointer<T>(grad);
      sum.activated = pointer<T>(activated);
      sum.slope = T(slope);
      sum.out = grad_table.mutable_data_ptr<T>();
      Device::rank2(tensor, Rank2Kernel::sum, sum);

      auto nodes = l.template nodes<T>(g, *aggregates);
      nodes.grad_table = sum.out;
      nodes.grad_aggregates = grad_aggregates.mutable_data_ptr<T>();
      nodes.grad_maps = grad_maps.mutable_data_ptr<T>();
      nodes.grad_factors = grad_factors.mutable_data_ptr<T>();
      nodes.grad_bias = grad_bias.mutable_data_ptr<T>();
      nodes.grad_diag_bias = grad_diag.mutable_data_ptr<T>();
      nodes.grad_scale = grad_scale.mutable_data_ptr<T>();
      nodes.grad_shift = grad_shift.mutable_data_ptr<T>();
      Device::rank2_nodes_backward(nodes);

      const PairMaps<T> of_pairs(l);
      auto mix = of_pairs.mix(l, g, slope);
      mix.grad = sum.tensor;
      mix.activated = sum.activated;
      if (want_tensor) mix.table = nodes.grad_aggregates;
      if (want_tensor) mix.grad_tensor = grad_tensor.mutable_data_ptr<T>();
      mix.grad_identity = grad_scaled.mutable_data_ptr<T>();
      mix.grad_transpose = mix.grad_identity + l.in * l.width;
      Device::rank2_mix_backward(mix);
      of_pairs.add_gradients(l, mix, nodes);
    });
    return {grad_tensor, grad_maps, grad_factors, grad_scale, grad_shift, grad_bias, grad_diag};
  }

 private:
  static_assert(!Device::cuda, "the small loops of PairMaps run on the host");

  struct Layer {
    const char* op;
    Tensor tensor, maps, factors;
    Optional scale, shift;
    int64_t in, width;

    Layer(const char* name, const Tensor& tensor_in, const Tensor& maps_in, const Tensor& factors_in, Optional scale_in,
          Optional shift_in, int64_t num_edges)
        : op(name), tensor(tensor_in), maps(maps_in), factors(factors_in), scale(scale_in), shift(shift_in) {
      check_shape(tensor, op, "tensor", {num_edges, -1});
      in = tensor.size(1);
      check_shape(maps, op, "maps", {15, in, -1});
      width = maps.size(2);
      check_shape(factors, op, "factors", {-1, 10, in});
      STD_TORCH_CHECK(maps.scalar_type() == tensor.scalar_type() && factors.scalar_type() == tensor.scalar_type(), op,
                      ": expected tensors of one dtype");
      STD_TORCH_CHECK(scale.has_value() == shift.has_value(), op, ": expected scale and shift, or neither");
      tensor = as_contiguous(tensor);
      maps = as_contiguous(maps);
      factors = as_contiguous(factors);
      match(scale, "scale", {in});
      match(shift, "shift", {in});
    }
    void match(Optional& t, const char* name, std::vector<int64_t> shape) const {
      ek::match(op, t, name, tensor, "tensor", std::move(shape));
    }
    template <class T>
    Rank2NodesArgs<T> nodes(const GraphView& g, const Tensor& aggregates) const {
      STD_TORCH_CHECK(factors.size(0) == g.num_events, op, ": factors: expected one row an event");
      Rank2NodesArgs<T> a;
      a.graph = g;
      a.in = in;
      a.width = width;
      a.aggregates = aggregates.const_data_ptr<T>();
      a.maps = maps.const_data_ptr<T>();
      a.factors = factors.const_data_ptr<T>();
      a.scale = pointer<T>(scale);
      a.shift = pointer<T>(shift);
      return a;
    }
  };

  // Maps 0 and 1, of the raw tensor: with scale s and shift t, T_ij becomes s T_ij + t, so that the maps are s W, and
  // t W is a bias.
  template <class T>
  struct PairMaps {
    Tensor scaled;  // [2, in, width]
    const T *maps, *scale, *shift;

    explicit PairMaps(const Layer& l)
        : scaled(torch::stable::new_empty(l.tensor, {2, l.in, l.width})),
          maps(l.maps.template const_data_ptr<T>()),
          scale(pointer<T>(l.scale)),
          shift(pointer<T>(l.shift)) {
      T* to = scaled.mutable_data_ptr<T>();
      for (int64_t m = 0; m < 2; ++m)
        for (int64_t c = 0; c < l.in; ++c)
          for (int64_t d = 0; d < l.width; ++d) *to++ = (scale ? scale[c] : T(1)) * at(l, m, c, d);
    }
    T at(const Layer& l, int64_t m, int64_t c, int64_t d) const { return maps[(m * l.in + c) * l.width + d]; }

    Tensor bias(const Layer& l, const Optional& bias) const {
      Tensor out = torch::stable::new_empty(l.tensor, {l.width});
      T* to = out.mutable_data_ptr<T>();
      for (int64_t d = 0; d < l.width; ++d) to[d] = bias ? pointer<T>(bias)[d] : T(0);
      for (int64_t c = 0; c < l.in && shift; ++c)
        for (int64_t d = 0; d < l.width; ++d) to[d] += shift[c] * (at(l, 0, c, d) + at(l, 1, c, d));
      return out;
    }
    Rank2MixArgs<T> mix(const Layer& l, const GraphView& g, double slope) const {
      Rank2MixArgs<T> a;
      a.graph = g;
      a.in = l.in;
      a.width = l.width;
      a.tensor = l.tensor.template const_data_ptr<T>();
      a.identity = scaled.const_data_ptr<T>();
      a.transpose = a.identity + l.in * l.width;
      a.slope = T(slope);
      return a;
    }
    // From those of the scaled maps and of the bias.
    void add_gradients(const Layer& l, const Rank2MixArgs<T>& mix, const Rank2NodesArgs<T>& nodes) const {
      for (int64_t c = 0; c < l.in; ++c) {
        T to_scale = 0, to_shift = 0;
        for (int64_t m = 0; m < 2; ++m) {
          const T* grad = (m == 0 ? mix.grad_identity : mix.grad_transpose) + c * l.width;
          for (int64_t d = 0; d < l.width; ++d) {
            const T w = at(l, m, c, d), of_bias = nodes.grad_bias[d];
            nodes.grad_maps[(m * l.in + c) * l.width + d] = scale ? scale[c] * grad[d] + shift[c] * of_bias : grad[d];
            to_scale += grad[d] * w;
            to_shift += of_bias * w;
          }
        }
        if (!scale) continue;
        nodes.grad_scale[c] += to_scale;
        nodes.grad_shift[c] += to_shift;
      }
    }
  };
};

}  // namespace ek
