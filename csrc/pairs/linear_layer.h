// Computes the maps and factors of linear layers with one summed aggregation for one batch, on the CPU, and fills the
// kernels' arguments from them.
#pragma once

#include <algorithm>

#include "cpu.h"
#include "inputs.h"

namespace ek {

struct LinearLayerOnCpu : Rank2OnCpu {
 protected:
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
  static Rank2Args<T> sum_args(const GraphView& g, int64_t channels, const T* tensor, T* table) {
    Rank2Args<T> args;
    args.graph = g;
    args.channels = channels;
    args.tensor = tensor;
    args.out = table;
    return args;
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

  // Room for what the kernel on particles and events gives backward.
  template <class T>
  struct NodeGradients {
    Buffer table, aggregates, maps, factors, small;

    NodeGradients(const LayerInputs& l, const GraphView& g)
        : table(g.num_nodes * 3 * l.width * int64_t(sizeof(T))),
          aggregates(g.num_nodes * 3 * l.in * int64_t(sizeof(T))),
          maps(15 * l.in * l.width * int64_t(sizeof(T))),
          factors(g.num_events * 10 * l.in * int64_t(sizeof(T))),
          small((2 * l.width + 2 * l.in) * int64_t(sizeof(T))) {}
    void set(Rank2NodesArgs<T>& nodes) const {
      nodes.grad_table = static_cast<const T*>(table.p);
      nodes.grad_aggregates = static_cast<T*>(aggregates.p);
      nodes.grad_maps = static_cast<T*>(maps.p);
      nodes.grad_factors = static_cast<T*>(factors.p);
      nodes.grad_bias = static_cast<T*>(small.p);
      nodes.grad_diag_bias = nodes.grad_bias + nodes.width;
      nodes.grad_scale = nodes.grad_diag_bias + nodes.width;
      nodes.grad_shift = nodes.grad_scale + nodes.in;
    }
  };
  // The sums, over pairs, of what the activation lets through of the output's gradient.
  template <class T>
  static void sum_gradient(const LayerInputs& l, const LayerInputs::Given& given, const GraphView& g, T* table) {
    Rank2Args<T> sums = sum_args<T>(g, l.width, pointer<T>(given.grad), table);
    sums.activated = pointer<T>(given.activated);
    sums.slope = T(l.slope);
    rank2(l.tensor, Rank2Kernel::sum, sums);
  }
};

}  // namespace ek
