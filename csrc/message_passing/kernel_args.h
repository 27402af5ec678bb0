// Fills the arguments of the kernels of message_passing: lanes across channels, lanes across edges, tiles.
#pragma once

#include "edge_tiles.h"
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
  using Base::running;
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

  // --- statistics of norms behind the first layer, beside those of the first ---
  int64_t first_measured() const { return o.measured() ? width : 0; }
  // f(layer, its first column)
  template <class F>
  void over_later(F&& f) const {
    int64_t at = first_measured();
    for (size_t l = 1; l < depth(); ++l)
      if (o.layers[l].norm == NormKind::batch) f(l, at), at += in.width(l);
  }
  int64_t later() const {
    int64_t sum = 0;
    over_later([&](size_t l, int64_t) { sum += in.width(l); });
    return sum;
  }
  int64_t measured_width() const { return first_measured() + later(); }
  template <class T>
  void with_later_statistics() {
    const Tensor all = uninitialised(in.like(), {2, measured_width()}, ScalarType::Double);
    copy(put<double>(statistics), width, put<double>(all), measured_width(), 2, first_measured());
    statistics = all;
    for (Tensor& t : running) {
      const Tensor kept = empty({measured_width()});
      copy(put<T>(t), 0, put<T>(kept), 0, 1, first_measured());
      t = kept;
    }
  }
  Tensor first_statistics(const Tensor& all) const {
    if (later() == 0) return all;
    const Tensor first = uninitialised(in.like(), {2, first_measured()}, ScalarType::Double);
    copy(put<double>(all), measured_width(), put<double>(first), width, 2, first_measured());
    return first;
  }

  // Room for what backward would compute again.
  bool keeps_head() const { return channels && o.keep && !Device::cuda; }
  template <class T>
  int64_t kept_words() const {
    const size_t head = size_t(o.messages_at) + 1;
    STD_TORCH_CHECK(o.coordinates > 0 && o.layers[head].activation == Activation::relu,
                    "message_passing: keep: expected a ReLU head");
    return in.num_edges * MessageArgs<T, T>::kept_words(in.width(head));
  }
  template <class T>
  int32_t* kept_head(const Tensor& kept) const {
    if (!keeps_head()) return nullptr;
    STD_TORCH_CHECK(graph.edges_before(n) == in.num_edges && kept.scalar_type() == ScalarType::Int &&
                        kept.numel() == kept_words<T>(),
                    "message_passing: kept: expected what was kept of each edge");
    return put<int32_t>(kept);
  }
  template <class T>
  Tensor room_to_keep() const {
    Tensor kept = empty({0});
    if (keeps_head()) return uninitialised(in.like(), {kept_words<T>()}, ScalarType::Int);
    if (!tiles || !o.keep) return kept;
    int64_t columns = 0;
    for (size_t l = 0; l < depth(); ++l) columns += in.width(l);
    this->template with_storage<T>(o.storage, [&](auto zero) {
      kept = uninitialised(in.like(), {in.num_edges * columns}, stored_type<decltype(zero)>());
    });
    return kept;
  }

  // --- tiles ---
  template <class S, class T, class X>
  EdgeTiles<Device, S, T, X> tiles_args(const Tensor& kept, bool was_kept) const {
    MessageArgs<T, X> a;
    geometry(a);
    a.receiver = put<T>(normed[0]);
    a.sender = put<T>(normed[1]);
    EdgeTiles<Device, S, T, X> tiles(in.like(), a, columns, in.num_edges);
    tiles.edges_at = int(o.edges_at);
    tiles.messages_at = int(o.messages_at);
    auto& net = tiles.net;
    for (size_t l = 0; l < depth(); ++l) {
      net.layers.push_back({o.layers[l], weight[l], pointer<T>(bias[l])});
      auto& layer = net.layers.back();
      const bool before = l == 0 && layer.measured();  // the tables are of what follows the norm
      if (before) layer.o.norm = NormKind::none;
      if (before || o.layers[l].norm == NormKind::given) continue;
      layer.gamma = pointer<T>(in.layers[l].norm_weight);
      layer.beta = pointer<T>(in.layers[l].norm_bias);
    }
    if (o.keep) net.kept = kept, net.was_kept = was_kept, net.kept_rows = in.num_edges;
    if (in.gate_weight) net.gate_at = int(o.messages_at);
    net.gate_weight = pointer<T>(in.gate_weight);
    net.gate_bias = pointer<T>(in.gate_bias);
    if (o.bfloat16) net.round_from = 1, net.round_to = o.last_product();
    return tiles;
  }
};

}  // namespace ek
