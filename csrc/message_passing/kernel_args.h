// Fills the arguments of the two kernels of message_passing: lanes across channels, and lanes across edges.
#pragma once

#include "first_layer.h"

namespace ek {

template <class Device>
class KernelArgs : protected FirstLayer<Device> {
  using Base = FirstLayer<Device>;

 protected:
  using Base::attributes;
  using Base::bias;
  using Base::bound;
  using Base::channels;
  using Base::columns;
  using Base::copy;
  using Base::depth;
  using Base::empty;
  using Base::graph;
  using Base::in;
  using Base::inputs;
  using Base::invariants;
  using Base::n;
  using Base::normed;
  using Base::o;
  using Base::over_columns;
  using Base::pass;
  using Base::tables;
  using Base::weight;
  using Base::width;
  using Base::zeros;
  using typename Base::Optional;
  using typename Base::Optionals;
  template <class T>
  static T* put(const Tensor& t) {
    return Base::template put<T>(t);
  }

  using Base::Base;

  Tensor split[2];  // of `columns`: for invariants, for attributes

  // --- what both kernels read ---
  template <class T, class X>
  void geometry(MessageArgs<T, X>& a) const {
    a.graph = graph;
    a.x = pointer<X>(in.x);
    a.dim = int(o.metric.size());
    for (size_t c = 0; c < o.metric.size(); ++c) a.metric[c] = o.metric[c];
    a.interval = invariants() > 0 && o.interval;
    a.product = invariants() > 0 && o.product;
    a.psi = o.psi;
    a.edge_width = attributes();
    a.edge_attr = attributes() > 0 ? pointer<T>(in.edge_attr) : nullptr;
    a.direction = o.direction;
    a.norm_inside = o.norm_inside;
    a.norm_offset = o.norm_offset;
    a.clamp = o.clamp;
    a.mean_messages = o.messages == 2;
    a.mean_coordinates = o.coordinates == 2;
  }

  // --- lanes across channels ---
  template <class T, class X>
  MessageArgs<T, X> channels_args() {
    MessageArgs<T, X> a;
    geometry(a);
    a.width = width;
    a.receiver = put<T>(normed[0]);
    a.sender = put<T>(normed[1]);
    over_columns([&](EdgePart part, int64_t at) {
      Tensor& half = split[part - kInvariantsPart];
      half = empty({width, in.part_width[part]});
      copy(put<T>(columns) + at, bound(), put<T>(half), in.part_width[part], width, in.part_width[part]);
      (part == kInvariantsPart ? a.invariant_weight : a.edge_weight) = put<T>(half);
    });
    const auto layer = [&](size_t l) { return MessageLayer<T>{in.width(l), put<T>(weight[l]), pointer<T>(bias[l])}; };
    a.activation = o.layers[0].activation;
    a.slope = o.layers[0].slope;
    a.depth = int(o.messages_at) + 1;
    for (size_t l = 1; l < size_t(a.depth); ++l) a.hidden[l - 1] = layer(l);
    a.gate_weight = pointer<T>(in.gate_weight);
    a.gate_bias = pointer<T>(in.gate_bias);
    if (depth() > size_t(a.depth)) {
      a.head = layer(size_t(a.depth));
      a.head_out = put<T>(weight[depth() - 1]);
      a.head_tanh = o.layers[depth() - 1].activation == Activation::tanh;
    }
    return a;
  }

  // --- lanes across edges ---
  // All weights and biases, layer by layer; of the first layer what edges read.
  template <class T>
  Tensor pack() {
    int64_t size = 0;
    for (size_t l = 0; l < depth(); ++l) size += in.width(l) * ((l ? in.width(l - 1) : read_inputs()) + 1);
    Tensor packed = empty({size});
    over_packed<T>(put<T>(packed), [&](size_t l, T* matrix, T* vector) {
      if (l > 0) {
        copy(put<T>(weight[l]), in.width(l - 1), matrix, in.width(l - 1), in.width(l), in.width(l - 1));
      } else if (tables) {
        copy(put<T>(columns), bound(), matrix, bound(), width, bound());
      } else {
        over_read([&](EdgePart part, int64_t at) {
          copy(put<T>(weight[0]) + in.column[part], inputs(), matrix + at, inputs(), width, in.part_width[part]);
        });
      }
      const Tensor b = bias[l] && !(l == 0 && tables) ? *bias[l] : zeros({in.width(l)});
      copy(put<T>(b), in.width(l), vector, in.width(l), 1, in.width(l));
    });
    return packed;
  }
  int64_t read_inputs() const { return tables ? bound() : inputs(); }
  // f(layer, its matrix, its vector)
  template <class T, class F>
  void over_packed(T* p, F&& f) const {
    for (size_t l = 0; l < depth(); ++l) {
      const int64_t size = in.width(l) * (l ? in.width(l - 1) : read_inputs());
      f(l, p, p + size);
      p += size + in.width(l);
    }
  }
  // f(part, its first column in the kernel's order)
  template <class F>
  void over_read(F&& f) const {
    int64_t at = 0;
    for (EdgePart part : {kInvariantsPart, kReceiverPart, kSenderPart, kAttributesPart}) {
      if (in.part_width[part] > 0) f(part, at);
      at += in.part_width[part];
    }
  }

  template <class T, class X>
  EdgeNetworkArgs<T, X> edges_args(const Tensor& packed) const {
    EdgeNetworkArgs<T, X> a;
    geometry(a);
    if (tables) {
      a.width = a.receiver_stride = a.sender_stride = width;
      a.receiver = put<T>(normed[0]);
      a.sender = put<T>(normed[1]);
    } else if (in.h) {
      a.width = a.receiver_stride = a.sender_stride = in.h->size(1);
      a.end_inputs = in.part_width[kReceiverPart] + in.part_width[kSenderPart];
      a.receiver = o.has(kReceiverPart) ? pointer<T>(in.h) : nullptr;
      a.sender = o.has(kSenderPart) ? pointer<T>(in.h) : nullptr;
    }
    a.layers = int(depth());
    for (size_t l = 0; l < depth(); ++l) {
      a.channels[l] = in.width(l);
      a.step[l] = {o.layers[l].activation, o.layers[l].norm == NormKind::layer};
      if (o.layers[l].activation == Activation::leaky_relu) a.slope = o.layers[l].slope;
    }
    a.weights = put<T>(packed);
    a.edges_at = int(o.edges_at);
    a.messages_at = o.messages > 0 ? int(o.messages_at) : -1;
    a.head = o.coordinates > 0;
    return a;
  }
};

}  // namespace ek
