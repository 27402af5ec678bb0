// From tensors to the fused message kernels, for any device.
#pragma once

#include <array>

#include "../core/tensor.h"
#include "message.h"

namespace ek {

// Absent tensors: no invariants, no edge attributes, fewer layers, no gate, no head. tf32: where the device multiplies
// float32 so, it may.
#define EK_MESSAGE_SCHEMA                                                                                            \
  "Tensor receiver, Tensor sender, Tensor? x, " EK_GRAPH_SCHEMA                                                      \
  ", Tensor? invariant_weight, Tensor? edge_attr, Tensor? edge_weight, Tensor? weight2, Tensor? bias2, "             \
  "Tensor? weight3, Tensor? bias3, Tensor? gate_weight, Tensor? gate_bias, Tensor? head_weight, Tensor? head_bias, " \
  "Tensor? head_out, float[] metric, bool interval, bool product, bool psi, int activation, float slope, "           \
  "bool head_tanh, int direction, float norm_inside, float norm_offset, float? clamp, bool mean_messages, bool "     \
  "mean_coordinates, bool bfloat16, bool tf32"

inline constexpr const char* kMessageSchema =
    "message(" EK_MESSAGE_SCHEMA ", bool return_edges) -> (Tensor messages, Tensor coordinates, Tensor edges)";
// Gradients in the order of the inputs; empty where the input is absent, or is edge_attr and not wanted.
inline constexpr const char* kMessageBackwardSchema =
    "message_backward(Tensor? grad_messages, Tensor? grad_coordinates, Tensor? grad_edges, " EK_MESSAGE_SCHEMA
    ", bool want_edge_attr) -> (Tensor receiver, Tensor sender, Tensor x, Tensor invariant_weight, Tensor edge_attr, "
    "Tensor edge_weight, Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3, Tensor gate_weight, "
    "Tensor gate_bias, Tensor head_weight, Tensor head_bias, Tensor head_out)";

// Optional tensors by name, made contiguous.
enum MessageTensor : int {
  kReceiver,
  kSender,
  kX,
  kInvariantWeight,
  kEdgeAttr,
  kEdgeWeight,
  kWeight2,
  kBias2,
  kWeight3,
  kBias3,
  kGateWeight,
  kGateBias,
  kHeadWeight,
  kHeadBias,
  kHeadOut,
  kMessageTensors
};

struct MessageInputs {
  std::array<std::optional<Tensor>, kMessageTensors> t;
  Tensor graph;
  int64_t num_edges = 0, kind = 0;
  std::vector<double> metric;
  bool interval = true, product = true, psi = true;
  int64_t activation = 0;
  double slope = 0;
  bool head_tanh = false;
  int64_t direction = 0;
  double norm_inside = 0, norm_offset = 0;
  std::optional<double> clamp;
  bool mean_messages = false, mean_coordinates = false;

  const Tensor& receiver() const { return *t[kReceiver]; }
  bool has(MessageTensor which) const { return t[which].has_value(); }
  int64_t nodes() const { return receiver().size(0); }
  int64_t message_width() const {
    for (auto which : {kWeight3, kWeight2})
      if (has(which)) return t[which]->size(0);
    return receiver().size(1);
  }

  void check() {
    const char* op = "message";
    const ScalarType type = receiver().scalar_type();
    for (int k = 0; k < kMessageTensors; ++k) {
      if (!t[k]) continue;
      t[k] = as_contiguous(*t[k]);
      STD_TORCH_CHECK(k == kX || t[k]->scalar_type() == type, op, ": all tensors but x share the dtype of receiver");
    }
    STD_TORCH_CHECK(!has(kX) || t[kX]->scalar_type() == type || t[kX]->scalar_type() == ScalarType::Double, op,
                    ": x: expected the dtype of receiver or float64");
    const int64_t n = nodes();
    int64_t width = receiver().size(1);
    check_shape(receiver(), op, "receiver", {-1, -1});
    check_shape(*t[kSender], op, "sender", {n, width});
    STD_TORCH_CHECK(has(kX) || (!has(kInvariantWeight) && !has(kHeadOut)), op, ": x: expected a tensor");
    if (has(kX)) check_shape(*t[kX], op, "x", {n, int64_t(metric.size())});
    STD_TORCH_CHECK(metric.size() <= kMessageDim, op, ": metric: expected at most 8 entries");
    if (has(kInvariantWeight))
      check_shape(*t[kInvariantWeight], op, "invariant_weight", {width, int(interval) + int(product)});
    STD_TORCH_CHECK(has(kEdgeAttr) == has(kEdgeWeight), op, ": edge_attr and edge_weight come together");
    if (has(kEdgeAttr)) {
      check_shape(*t[kEdgeAttr], op, "edge_attr", {num_edges, -1});
      check_shape(*t[kEdgeWeight], op, "edge_weight", {width, t[kEdgeAttr]->size(1)});
    }
    STD_TORCH_CHECK(has(kWeight2) || !has(kWeight3), op, ": weight3: expected weight2 too");
    for (auto [weight, bias] : {std::pair{kWeight2, kBias2}, {kWeight3, kBias3}}) {
      if (!has(weight)) continue;
      check_shape(*t[weight], op, "weight", {-1, width});
      width = t[weight]->size(0);
      if (has(bias)) check_shape(*t[bias], op, "bias", {width});
    }
    if (has(kGateWeight)) check_shape(*t[kGateWeight], op, "gate_weight", {width});
    if (has(kGateBias)) check_shape(*t[kGateBias], op, "gate_bias", {1});
    STD_TORCH_CHECK(has(kHeadWeight) == has(kHeadOut), op, ": head_weight and head_out come together");
    if (has(kHeadWeight)) {
      check_shape(*t[kHeadWeight], op, "head_weight", {-1, width});
      check_shape(*t[kHeadOut], op, "head_out", {t[kHeadWeight]->size(0)});
      if (has(kHeadBias)) check_shape(*t[kHeadBias], op, "head_bias", {t[kHeadWeight]->size(0)});
    }
    STD_TORCH_CHECK(0 <= activation && activation <= int(Activation::gelu_tanh), op, ": activation: out of range");
    STD_TORCH_CHECK(0 <= direction && direction <= int(Direction::sender), op, ": direction: out of range");
  }

  template <class T>
  const T* pointer(MessageTensor which) const {
    return has(which) ? t[which]->const_data_ptr<T>() : nullptr;
  }

  template <class T, class X>
  MessageArgs<T, X> args() const {
    MessageArgs<T, X> a;
    a.graph = graph_view(graph, nodes(), num_edges, kind);
    a.width = receiver().size(1);
    a.receiver = pointer<T>(kReceiver);
    a.sender = pointer<T>(kSender);
    a.x = pointer<X>(kX);
    a.dim = int(metric.size());
    for (size_t c = 0; c < metric.size(); ++c) a.metric[c] = metric[c];
    a.interval = has(kInvariantWeight) && interval;
    a.product = has(kInvariantWeight) && product;
    a.psi = psi;
    a.invariant_weight = pointer<T>(kInvariantWeight);
    a.edge_width = has(kEdgeAttr) ? t[kEdgeAttr]->size(1) : 0;
    a.edge_attr = pointer<T>(kEdgeAttr);
    a.edge_weight = pointer<T>(kEdgeWeight);
    a.activation = Activation(activation);
    a.slope = slope;
    a.depth = has(kWeight3) ? 3 : has(kWeight2) ? 2 : 1;
    layer(a.hidden[0], kWeight2, kBias2);
    layer(a.hidden[1], kWeight3, kBias3);
    a.gate_weight = pointer<T>(kGateWeight);
    a.gate_bias = pointer<T>(kGateBias);
    layer(a.head, kHeadWeight, kHeadBias);
    a.head_out = pointer<T>(kHeadOut);
    a.head_tanh = head_tanh;
    a.direction = Direction(direction);
    a.norm_inside = norm_inside;
    a.norm_offset = norm_offset;
    a.clamp = clamp.value_or(a.clamp);
    a.mean_messages = mean_messages;
    a.mean_coordinates = mean_coordinates;
    return a;
  }

 private:
  template <class T>
  void layer(MessageLayer<T>& l, MessageTensor weight, MessageTensor bias) const {
    if (!has(weight)) return;
    l.width = t[weight]->size(0);
    l.weight = pointer<T>(weight);
    l.bias = pointer<T>(bias);
  }
};

template <class F>
void dispatch_message(const MessageInputs& in, F&& f) {
  const bool wide = in.has(kX) && in.t[kX]->scalar_type() == ScalarType::Double;
  const ScalarType type = in.receiver().scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "message: receiver: expected float32 or float64");
  if (type == ScalarType::Double)
    f(double{}, double{});
  else if (wide)
    f(float{}, double{});
  else
    f(float{}, float{});
}

template <class Device>
struct Message {
  using Optional = const std::optional<Tensor>&;
  using MessageGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                                      Tensor, Tensor, Tensor, Tensor, Tensor>;

  static std::tuple<Tensor, Tensor, Tensor> forward(
      const Tensor& receiver, const Tensor& sender, Optional x, const Tensor& graph, int64_t num_edges, int64_t kind,
      Optional invariant_weight, Optional edge_attr, Optional edge_weight, Optional weight2, Optional bias2,
      Optional weight3, Optional bias3, Optional gate_weight, Optional gate_bias, Optional head_weight,
      Optional head_bias, Optional head_out, const std::vector<double>& metric, bool interval, bool product, bool psi,
      int64_t activation, double slope, bool head_tanh, int64_t direction, double norm_inside, double norm_offset,
      std::optional<double> clamp, bool mean_messages, bool mean_coordinates, bool bfloat16, bool tf32,
      bool return_edges) {
    typename Device::Guard guard(receiver);
    MessageInputs in{{receiver, sender, x, invariant_weight, edge_attr, edge_weight, weight2, bias2, weight3, bias3,
                      gate_weight, gate_bias, head_weight, head_bias, head_out},
                     graph,
                     num_edges,
                     kind,
                     metric,
                     interval,
                     product,
                     psi,
                     activation,
                     slope,
                     head_tanh,
                     direction,
                     norm_inside,
                     norm_offset,
                     clamp,
                     mean_messages,
                     mean_coordinates};
    in.check();
    const int64_t n = in.nodes(), width = in.message_width();
    const Tensor& like = in.receiver();
    Tensor messages = torch::stable::new_empty(like, {n, width});
    Tensor coordinates = in.has(kHeadOut) ? torch::stable::new_empty(*in.t[kX], {n, int64_t(metric.size())})
                                          : torch::stable::new_empty(like, {0});
    Tensor edges =
        return_edges ? torch::stable::new_empty(like, {num_edges, width}) : torch::stable::new_empty(like, {0});
    dispatch_message(in, [&](auto t, auto c) {
      using T = decltype(t);
      using X = decltype(c);
      auto args = in.args<T, X>();
      args.bfloat16 = bfloat16;
      args.messages = messages.mutable_data_ptr<T>();
      args.coordinates = in.has(kHeadOut) ? coordinates.mutable_data_ptr<X>() : nullptr;
      args.edges = return_edges ? edges.mutable_data_ptr<T>() : nullptr;
      Device::template message_forward<T, X>(like, args, tf32);
    });
    return {messages, coordinates, edges};
  }

  static MessageGradients backward(Optional grad_messages, Optional grad_coordinates, Optional grad_edges,
                                   const Tensor& receiver, const Tensor& sender, Optional x, const Tensor& graph,
                                   int64_t num_edges, int64_t kind, Optional invariant_weight, Optional edge_attr,
                                   Optional edge_weight, Optional weight2, Optional bias2, Optional weight3,
                                   Optional bias3, Optional gate_weight, Optional gate_bias, Optional head_weight,
                                   Optional head_bias, Optional head_out, const std::vector<double>& metric,
                                   bool interval, bool product, bool psi, int64_t activation, double slope,
                                   bool head_tanh, int64_t direction, double norm_inside, double norm_offset,
                                   std::optional<double> clamp, bool mean_messages, bool mean_coordinates,
                                   bool /*bfloat16*/, bool tf32, bool want_edge_attr) {
    typename Device::Guard guard(receiver);
    MessageInputs in{{receiver, sender, x, invariant_weight, edge_attr, edge_weight, weight2, bias2, weight3, bias3,
                      gate_weight, gate_bias, head_weight, head_bias, head_out},
                     graph,
                     num_edges,
                     kind,
                     metric,
                     interval,
                     product,
                     psi,
                     activation,
                     slope,
                     head_tanh,
                     direction,
                     norm_inside,
                     norm_offset,
                     clamp,
                     mean_messages,
                     mean_coordinates};
    in.check();
    const int64_t n = in.nodes(), width = in.message_width(), dim = int64_t(metric.size());
    const Tensor& like = in.receiver();
    const auto cotangent = [](Optional g, const Tensor& like, const char* name, std::vector<int64_t> shape) {
      if (!g) return std::optional<Tensor>();
      check_shape(*g, "message_backward", name, shape);
      STD_TORCH_CHECK(g->scalar_type() == like.scalar_type(), "message_backward: ", name, ": unexpected dtype");
      return std::optional<Tensor>(as_contiguous(*g));
    };
    const auto g_messages = cotangent(grad_messages, like, "grad_messages", {n, width});
    const auto g_coordinates =
        in.has(kHeadOut) ? cotangent(grad_coordinates, *in.t[kX], "grad_coordinates", {n, dim}) : std::nullopt;
    const auto g_edges = cotangent(grad_edges, like, "grad_edges", {num_edges, width});

    std::array<std::optional<Tensor>, kMessageTensors> out;
    for (int k = 0; k < kMessageTensors; ++k) {
      const bool wanted = in.t[k] && (k != kEdgeAttr || want_edge_attr);
      out[k] = wanted ? torch::stable::new_empty(*in.t[k], in.t[k]->sizes()) : torch::stable::new_empty(like, {0});
    }
    dispatch_message(in, [&](auto t, auto c) {
      using T = decltype(t);
      using X = decltype(c);
      auto args = in.args<T, X>();
      const auto grad = [&](MessageTensor k) {
        return in.has(k) && (k != kEdgeAttr || want_edge_attr) ? out[k]->template mutable_data_ptr<T>() : nullptr;
      };
      args.grad_messages = g_messages ? g_messages->template const_data_ptr<T>() : nullptr;
      args.grad_coordinates = g_coordinates ? g_coordinates->template const_data_ptr<X>() : nullptr;
      args.grad_edges = g_edges ? g_edges->template const_data_ptr<T>() : nullptr;
      args.grad_receiver = grad(kReceiver);
      args.grad_sender = grad(kSender);
      args.grad_x = in.has(kX) ? out[kX]->template mutable_data_ptr<X>() : nullptr;
      args.grad_invariant_weight = grad(kInvariantWeight);
      args.grad_edge_attr = grad(kEdgeAttr);
      args.grad_edge_weight = grad(kEdgeWeight);
      args.hidden[0].grad_weight = grad(kWeight2);
      args.hidden[0].grad_bias = grad(kBias2);
      args.hidden[1].grad_weight = grad(kWeight3);
      args.hidden[1].grad_bias = grad(kBias3);
      args.grad_gate_weight = grad(kGateWeight);
      args.grad_gate_bias = grad(kGateBias);
      args.head.grad_weight = grad(kHeadWeight);
      args.head.grad_bias = grad(kHeadBias);
      args.grad_head_out = grad(kHeadOut);
      Device::template message_backward<T, X>(like, args, tf32);
    });
    return std::apply([](auto&... g) { return MessageGradients{*g...}; }, out);
  }
};

}  // namespace ek
