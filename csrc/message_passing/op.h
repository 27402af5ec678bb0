// The message_passing op for any device: prepares the first layer, runs one of the kernels, and puts gradients
// together.
#pragma once

#include "kernel_args.h"

namespace ek {

inline constexpr const char* kMessagePassingSchema =
    "message_passing(Tensor?[] tensors, " EK_GRAPH_SCHEMA ", int[] options, float[] numbers) -> Tensor[]";
// saved: the statistics and the last four outputs of the op. wanted: the tensors whose gradients
// are given, in their order.
inline constexpr const char* kMessagePassingBackwardSchema =
    "message_passing_backward(Tensor?[] grads, Tensor?[] tensors, Tensor[] saved, " EK_GRAPH_SCHEMA
    ", int[] options, float[] numbers, bool[] wanted) -> Tensor[]";

template <class Device>
class MessagePassing : KernelArgs<Device> {
  using Base = KernelArgs<Device>;
  using Base::attributes;
  using Base::bias;
  using Base::bound;
  using Base::channels;
  using Base::columns;
  using Base::copy;
  using Base::depth;
  using Base::empty;
  using Base::ends;
  using Base::first_statistics;
  using Base::fold;
  using Base::graph;
  using Base::in;
  using Base::inputs;
  using Base::invariants;
  using Base::later;
  using Base::measured_width;
  using Base::n;
  using Base::normed;
  using Base::o;
  using Base::over_columns;
  using Base::over_later;
  using Base::pass;
  using Base::plain;
  using Base::running;
  using Base::state;
  using Base::statistics;
  using Base::tables;
  using Base::tiles;
  using Base::weight;
  using Base::width;
  using Base::zeros;
  using typename Base::Optional;
  using typename Base::Optionals;
  template <class T>
  static T* put(const Tensor& t) {
    return Base::template put<T>(t);
  }

 public:
  // messages, coordinates, edges, mean and variance of a measured norm (float64 [2, H]); the same as running averages
  // want them; then what backward reads again: the first layer's tables, the norm's sums, and what is kept.
  static std::vector<Tensor> forward(const Optionals& tensors, const Tensor& graph, int64_t num_edges, int64_t kind,
                                     const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    MessagePassing op(tensors, graph, num_edges, kind, ints, numbers);
    typename Device::Guard guard(op.in.like());
    std::vector<Tensor> out;
    dispatch_features(op.in, [&](auto t, auto x) { out = op.template run<decltype(t), decltype(x)>(); });
    return out;
  }

  static std::vector<Tensor> backward(const Optionals& grads, const Optionals& tensors,
                                      const std::vector<Tensor>& saved, const Tensor& graph, int64_t num_edges,
                                      int64_t kind, const std::vector<int64_t>& ints,
                                      const std::vector<double>& numbers, const std::vector<bool>& wanted) {
    MessagePassing op(tensors, graph, num_edges, kind, ints, numbers);
    STD_TORCH_CHECK(grads.size() == 4 && saved.size() == 5 && wanted.size() == tensors.size(),
                    "message_passing_backward: grads, saved, wanted: unexpected sizes");
    typename Device::Guard guard(op.in.like());
    std::vector<Tensor> out;
    dispatch_features(
        op.in, [&](auto t, auto x) { out = op.template run_backward<decltype(t), decltype(x)>(grads, saved, wanted); });
    return out;
  }

 private:
  using Base::Base;

  template <class T, class X>
  std::vector<Tensor> run() {
    this->template fold<T>();
    for (Tensor* t : {&running[0], &running[1], &statistics, &state}) *t = empty({0});
    if (tables) {
      this->template make_tables<T>();
      this->template take_columns<T>();
      if (o.measured()) this->template measure_norm<T, X>();
    }
    if (later() > 0) this->template with_later_statistics<T>();
    const auto nothing = [&] { return empty({0}); };  // an op's outputs share no storage
    const auto sized = [&](bool wanted, int64_t rows, int64_t at) {
      return wanted ? empty({rows, in.width(size_t(at))}) : nothing();
    };
    std::vector<Tensor> out{sized(o.messages > 0, n, o.messages_at),
                            o.coordinates > 0 ? uninitialised(*in.x, in.x->sizes()) : nothing(),
                            sized(o.edges_at >= 0, in.num_edges, std::max<int64_t>(o.edges_at, 0)),
                            statistics,
                            running[0],
                            running[1],
                            tables ? ends[0] : nothing(),
                            tables ? ends[1] : nothing(),
                            state,
                            this->template room_to_keep<T>()};
    const auto ask = [&](auto& args) {
      args.messages = o.messages > 0 ? put<T>(out[0]) : nullptr;
      args.coordinates = o.coordinates > 0 ? put<X>(out[1]) : nullptr;
      args.edges = o.edges_at >= 0 ? put<T>(out[2]) : nullptr;
    };
    if (!asked() && later() == 0) return out;
    if (tiles) {
      this->template with_storage<T>(o.storage, [&](auto zero) {
        auto args = this->template tiles_args<decltype(zero), T, X>(out.back(), false);
        ask(args.a);
        if (args.a.messages) torch::stable::zero_(out[0]);
        over_later([&](size_t l, int64_t at) {
          auto& layer = args.net.layers[l];
          layer.mean = put<double>(statistics) + at, layer.variance = layer.mean + measured_width();
          layer.running_mean = put<T>(running[0]) + at, layer.unbiased = put<T>(running[1]) + at;
        });
        args.forward();
      });
    } else if (channels) {
      auto args = this->template channels_args<T, X>();
      args.bfloat16 = o.bfloat16;
      args.kept_head = this->template kept_head<T>(out.back());
      ask(args);
      Device::Channels::template message_forward<T, X>(in.like(), args, o.tf32);
    } else {
      const Tensor packed = this->template pack<T>();
      auto args = this->template edges_args<T, X>(packed);
      ask(args);
      Device::Edges::template edge_network_forward<T, X>(in.like(), args);
    }
    return out;
  }

  template <class T, class X>
  std::vector<Tensor> run_backward(const Optionals& grads, const std::vector<Tensor>& saved,
                                   const std::vector<bool>& wanted) {
    this->template fold<T>();
    Optional to_statistics = grads[3];
    if (measured_width() > 0)
      match("message_passing_backward", to_statistics, "grads", saved[0], "the statistics", {2, measured_width()});
    if (tables) {
      statistics = first_statistics(saved[0]), ends[0] = saved[1], ends[1] = saved[2], state = saved[3];
      this->template take_columns<T>();
      if (o.measured()) this->template renew_norm<T>();
    }
    const auto cotangent = [&](size_t k, bool asked, const Tensor& like, int64_t rows, int64_t channels_of) {
      Optional g = asked ? grads[k] : std::nullopt;
      match("message_passing_backward", g, "grads", like, "the output", {rows, channels_of});
      return g;
    };
    const Optional g_messages = cotangent(0, o.messages > 0, in.like(), n, in.message_width());
    const Optional g_coordinates =
        cotangent(1, o.coordinates > 0, in.x ? *in.x : in.like(), n, int64_t(o.metric.size()));
    const Optional g_edges =
        cotangent(2, o.edges_at >= 0, in.like(), in.num_edges, in.width(size_t(std::max<int64_t>(o.edges_at, 0))));

    Gradients g(*this, wanted);
    const auto ask = [&](auto& args) {
      args.grad_messages = pointer<T>(g_messages);
      args.grad_coordinates = pointer<X>(g_coordinates);
      args.grad_edges = pointer<T>(g_edges);
      args.grad_x = in.x && (wanted[1] || channels) ? put<X>(g.x) : nullptr;
      args.grad_edge_attr = attributes() > 0 && wanted[2] ? put<T>(g.edge_attr) : nullptr;
    };
    if (tiles && (asked() || later() > 0)) {
      this->template with_storage<T>(o.storage, [&](auto zero) {
        auto args = this->template tiles_args<decltype(zero), T, X>(saved[4], true);
        ask(args.a);
        over_later([&](size_t l, int64_t at) {
          auto& layer = args.net.layers[l];
          layer.mean = put<double>(saved[0]) + at, layer.variance = layer.mean + measured_width();
          if (!to_statistics) return;
          layer.to_mean = pointer<double>(to_statistics) + at, layer.to_variance = layer.to_mean + measured_width();
        });
        tiles_backward<T>(args, g);
      });
    } else if (!asked()) {
      for (Tensor& table : g.tables) table = zeros({n, width});
      if (in.x) torch::stable::zero_(g.x);
      if (wanted[2]) torch::stable::zero_(g.edge_attr);
      over_columns(
          [&](EdgePart part, int64_t) { g.columns[part - kInvariantsPart] = zeros({width, in.part_width[part]}); });
    } else if (channels) {
      auto args = this->template channels_args<T, X>();
      args.bfloat16 = o.bfloat16;  // on CPUs; on CUDA gradients are those of full precision
      args.kept_head = this->template kept_head<T>(saved[4]);
      ask(args);
      channels_backward<T, X>(args, g);
    } else {
      const Tensor packed = this->template pack<T>();
      auto args = this->template edges_args<T, X>(packed);
      ask(args);
      edges_backward<T, X>(args, packed, g, wanted[0]);
    }
    if (to_statistics) to_statistics = first_statistics(*to_statistics);
    if (tables) tables_backward<T, X>(g, to_statistics, wanted);
    for (size_t l = 0; l < depth(); ++l) unfold<T>(l, g, wanted);
    return g.listed(wanted);
  }

  // Gradients of all tensors, and of the first layer's tables and columns.
  struct Gradients {
    Tensor h, x, edge_attr, gate_weight, gate_bias, tables[2], columns[2];
    struct Layer {
      Tensor weight, bias, norm_weight, norm_bias, mean, variance;
    };
    std::vector<Layer> layers;

    Gradients(const MessagePassing& op, const std::vector<bool>& wanted) {
      const auto like = [&](const Optional& t) { return t ? uninitialised(*t, t->sizes()) : Tensor(); };
      const auto of = [&](const Optional& t, bool want) { return want ? like(t) : Tensor(); };
      h = of(op.in.h, wanted[0]);
      x = like(op.in.x);
      edge_attr = of(op.in.edge_attr, wanted[2]);
      gate_weight = like(op.in.gate_weight);
      gate_bias = like(op.in.gate_bias);
      layers.resize(op.depth());
      for (size_t l = 0; l < op.depth(); ++l) {
        const LayerTensors& t = op.in.layers[l];
        const size_t at = EdgeMlpInputs::kFirst + EdgeMlpInputs::kOfLayer * l;
        layers[l] = {like(t.weight),    op.empty({op.in.width(l)}), like(t.norm_weight),
                     like(t.norm_bias), of(t.mean, wanted[at + 4]), of(t.variance, wanted[at + 5])};
      }
    }

    std::vector<Tensor> listed(const std::vector<bool>& wanted) const {
      std::vector<Tensor> out;
      size_t k = 0;
      const auto add = [&](const Tensor& t) {
        if (wanted[k++]) out.push_back(t);
      };
      for (const Tensor* t : {&h, &x, &edge_attr, &gate_weight, &gate_bias}) add(*t);
      for (const Layer& l : layers)
        for (const Tensor* t : {&l.weight, &l.bias, &l.norm_weight, &l.norm_bias, &l.mean, &l.variance}) add(*t);
      return out;
    }
  };

  // Whether anything but statistics is.
  bool asked() const { return o.messages > 0 || o.coordinates > 0 || o.edges_at >= 0; }

  // --- tiles ---
  template <class T, class Args>
  void tiles_backward(Args& args, Gradients& g) {
    for (Tensor& table : g.tables) table = zeros({n, width});
    args.a.grad_receiver = put<T>(g.tables[0]);
    args.a.grad_sender = put<T>(g.tables[1]);
    const Tensor to_columns = zeros({width, bound()});
    args.grad_columns = put<T>(to_columns);
    if (args.a.grad_edge_attr) torch::stable::zero_(g.edge_attr);
    for (size_t l = 0; l < depth(); ++l) {
      auto& to = args.net.layers[l];
      auto& of = g.layers[l];
      if (to.gamma) to.grad_gamma = put<T>(of.norm_weight);
      if (to.beta) to.grad_beta = put<T>(of.norm_bias);
      if (l == 0) continue;
      torch::stable::zero_(of.weight);
      to.grad_weight = put<T>(of.weight);
      if (bias[l]) to.grad_bias = put<T>(of.bias);
    }
    if (in.gate_weight) args.net.grad_gate_weight = put<T>(g.gate_weight);
    if (in.gate_bias) args.net.grad_gate_bias = put<T>(g.gate_bias);
    args.backward();
    over_columns([&](EdgePart part, int64_t at) {
      Tensor& half = g.columns[part - kInvariantsPart];
      half = empty({width, in.part_width[part]});
      copy(put<T>(to_columns) + at, bound(), put<T>(half), in.part_width[part], width, in.part_width[part]);
    });
  }

  // --- lanes across channels ---
  template <class T, class X>
  void channels_backward(MessageArgs<T, X>& a, Gradients& g) {
    for (Tensor& table : g.tables) table = empty({n, width});
    a.grad_receiver = put<T>(g.tables[0]);
    a.grad_sender = put<T>(g.tables[1]);
    over_columns([&](EdgePart part, int64_t) {
      Tensor& half = g.columns[part - kInvariantsPart];
      half = empty({width, in.part_width[part]});
      (part == kInvariantsPart ? a.grad_invariant_weight : a.grad_edge_weight) = put<T>(half);
    });
    const auto layer = [&](MessageLayer<T>& to, size_t l) {
      to.grad_weight = put<T>(g.layers[l].weight);
      to.grad_bias = put<T>(g.layers[l].bias);
    };
    for (size_t l = 1; l < size_t(a.depth); ++l) layer(a.hidden[l - 1], l);
    if (a.gate_weight) a.grad_gate_weight = put<T>(g.gate_weight);
    if (a.gate_bias) a.grad_gate_bias = put<T>(g.gate_bias);
    if (a.head_out) {
      layer(a.head, size_t(a.depth));
      a.grad_head_out = put<T>(g.layers[depth() - 1].weight);
    }
    Device::Channels::template message_backward<T, X>(in.like(), a, o.tf32);
  }

  // --- lanes across edges ---
  template <class T, class X>
  void edges_backward(EdgeNetworkArgs<T, X>& a, const Tensor& packed, Gradients& g, bool of_h) {
    const Tensor to_packed = empty({packed.size(0)});
    for (Tensor& table : g.tables) table = empty({n, a.width});
    if (a.receiver) a.grad_receiver = put<T>(g.tables[0]);
    if (a.sender) a.grad_sender = put<T>(g.tables[1]);
    a.grad_weights = put<T>(to_packed);
    Device::Edges::template edge_network_backward<T, X>(in.like(), a);
    this->template over_packed<T>(put<T>(to_packed), [&](size_t l, T* matrix, T* vector) {
      if (!(l == 0 && tables)) copy(vector, in.width(l), put<T>(g.layers[l].bias), in.width(l), 1, in.width(l));
      if (l > 0) {
        copy(matrix, in.width(l - 1), put<T>(g.layers[l].weight), in.width(l - 1), in.width(l), in.width(l - 1));
      } else if (tables) {
        over_columns([&](EdgePart part, int64_t at) {
          Tensor& half = g.columns[part - kInvariantsPart];
          half = empty({width, in.part_width[part]});
          copy(matrix + at, bound(), put<T>(half), in.part_width[part], width, in.part_width[part]);
        });
      } else {
        this->over_read([&](EdgePart part, int64_t at) {
          copy(matrix + at, inputs(), put<T>(g.layers[0].weight) + in.column[part], inputs(), width,
               in.part_width[part]);
        });
      }
    });
    if (tables || !of_h) return;
    const int64_t size = n * a.width;
    if (!a.receiver && !a.sender) return g.h = zeros({n, a.width}), void();
    g.h = a.receiver ? g.tables[0] : g.tables[1];
    if (a.receiver && a.sender) pass(1, size, CopyColumns<T>{put<T>(g.tables[1]), put<T>(g.h), size, size, size, true});
  }

  // From the gradients of tables and columns to those of h, x, edge attributes and the first layer.
  template <class T, class X>
  void tables_backward(Gradients& g, Optional to_statistics, const std::vector<bool>& wanted) {
    auto& first = g.layers[0];
    Tensor of_columns = empty({width, bound()});
    over_columns([&](EdgePart part, int64_t at) {
      const Tensor& half = g.columns[part - kInvariantsPart];
      copy(put<T>(half), in.part_width[part], put<T>(of_columns) + at, bound(), width, in.part_width[part]);
    });
    if (o.measured()) {
      typename Base::template NormGradients<T, X> norm{g.tables, of_columns, pointer<double>(to_statistics)};
      if (in.layers[0].norm_weight) norm.gamma = put<T>(first.norm_weight);
      if (in.layers[0].norm_bias) norm.beta = put<T>(first.norm_bias);
      if (in.x && wanted[1]) norm.x = put<X>(g.x);
      if (attributes() > 0 && wanted[2]) norm.edge_attr = put<T>(g.edge_attr);
      this->template norm_backward<T, X>(norm);
    }
    over_columns([&](EdgePart part, int64_t at) {
      copy(put<T>(of_columns) + at, bound(), put<T>(first.weight) + in.column[part], inputs(), width,
           in.part_width[part]);
    });
    Device::template column_sum<T>(g.tables[0], first.bias);
    bool added = false;
    for (EdgePart part : {kReceiverPart, kSenderPart}) {
      if (!o.has(part)) continue;
      const int64_t features = in.part_width[part];
      const Tensor of_end = empty({width, features});
      Device::template outer<T>(g.tables[part], *in.h, of_end);
      copy(put<T>(of_end), features, put<T>(first.weight) + in.column[part], inputs(), width, features);
      if (!wanted[0]) continue;
      const Tensor to_h = added ? empty({n, features}) : g.h;
      Device::template product<T>(g.tables[part], this->template end_weight<T>(part), to_h);
      if (added) {
        const int64_t size = n * features;
        pass(1, size, CopyColumns<T>{put<T>(to_h), put<T>(g.h), size, size, size, true});
      }
      added = true;
    }
    if (in.h && wanted[0] && !added) g.h = zeros({n, in.h->size(1)});
  }

  // The gradients of a layer into which a norm of given statistics was folded.
  template <class T>
  void unfold(size_t l, Gradients& g, const std::vector<bool>& wanted) const {
    if (o.layers[l].norm != NormKind::given) return;
    const LayerTensors& t = in.layers[l];
    const size_t at = EdgeMlpInputs::kFirst + EdgeMlpInputs::kOfLayer * l;
    auto& of = g.layers[l];
    FoldNormGradient<T> f{this->template fold_of<T>(l), put<T>(of.weight), put<T>(of.bias)};
    if (t.norm_weight) f.grad_norm_weight = put<T>(of.norm_weight);
    if (t.norm_bias) f.grad_norm_bias = put<T>(of.norm_bias);
    if (wanted[at + 4]) f.grad_mean = put<T>(of.mean);
    if (wanted[at + 5]) f.grad_variance = put<T>(of.variance);
    pass(in.width(l), f.fold.inputs, f);
  }
};

}  // namespace ek
