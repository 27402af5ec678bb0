// From tensors to the edge network's kernels, for any device.
#pragma once

#include "../core/tensor.h"
#include "edge_network.h"

namespace ek {

// steps: an activation's number, plus 16 with LayerNorm. Kind 3 is no graph: rows of edge_attr.
#define EK_EDGE_NETWORK_SCHEMA                                                                                    \
  "Tensor? receiver, Tensor? sender, Tensor? x, Tensor? edge_attr, Tensor weights, " EK_GRAPH_SCHEMA              \
  ", bool ends_as_inputs, float[] metric, bool interval, bool product, bool psi, int[] widths, "                  \
  "int[] steps, float slope, int edges_at, int messages_at, bool coordinates, int direction, float norm_inside, " \
  "float norm_offset, float? clamp"

inline constexpr const char* kEdgeNetworkSchema =
    "edge_network(" EK_EDGE_NETWORK_SCHEMA ") -> (Tensor edges, Tensor messages, Tensor coordinates)";
// Gradients in the order of the inputs; empty where the input is absent or its gradient is not wanted.
inline constexpr const char* kEdgeNetworkBackwardSchema =
    "edge_network_backward(Tensor? grad_edges, Tensor? grad_messages, Tensor? grad_coordinates, " EK_EDGE_NETWORK_SCHEMA
    ", bool want_receiver, bool want_sender, bool want_x, bool want_edge_attr) -> (Tensor receiver, Tensor sender, "
    "Tensor x, Tensor edge_attr, Tensor weights)";

struct EdgeNetworkInputs {
  static constexpr int64_t kRows = 3, kNorm = 16;

  std::optional<Tensor> receiver, sender, x, edge_attr;
  Tensor weights, graph;
  int64_t num_edges = 0, kind = 0;
  bool ends_as_inputs = false;
  std::vector<double> metric;
  bool interval = false, product = false, psi = true;
  std::vector<int64_t> widths, steps;
  double slope = 0;
  int64_t edges_at = -1, messages_at = -1;
  bool coordinates = false;
  int64_t direction = 0;
  double norm_inside = 0, norm_offset = 0;
  std::optional<double> clamp;

  // A table whose rows are contiguous each: halves of one product come as they are.
  static void make_table(std::optional<Tensor>& t) {
    if (t && !(t->dim() == 2 && (t->size(1) < 2 || t->strides()[1] == 1))) t = as_contiguous(*t);
  }

  int64_t end_width() const { return receiver ? receiver->size(1) : sender ? sender->size(1) : 0; }
  int64_t end_inputs() const {
    return ends_as_inputs ? (int(receiver.has_value()) + int(sender.has_value())) * end_width() : 0;
  }
  int64_t nodes() const {
    for (const auto* t : {&receiver, &sender, &x})
      if (*t) return (*t)->size(0);
    return 0;
  }

  void check() {
    const char* op = "edge_network";
    const ScalarType type = weights.scalar_type();
    make_table(receiver);
    make_table(sender);
    if (x) x = as_contiguous(*x);
    if (edge_attr) edge_attr = as_contiguous(*edge_attr);
    weights = as_contiguous(weights);
    for (const auto* t : {&receiver, &sender, &edge_attr})
      STD_TORCH_CHECK(!*t || (*t)->scalar_type() == type, op, ": all tensors but x share the dtype of weights");
    STD_TORCH_CHECK(!x || x->scalar_type() == type || x->scalar_type() == ScalarType::Double, op,
                    ": x: expected the dtype of weights or float64");
    const int64_t layers = int64_t(widths.size()), n = nodes();
    STD_TORCH_CHECK(1 <= layers && layers <= kMostLayers && layers == int64_t(steps.size()), op,
                    ": widths: expected 1 to 32 layers, and as many steps");
    STD_TORCH_CHECK(metric.size() <= kMessageDim, op, ": metric: expected at most 8 entries");
    STD_TORCH_CHECK(x || !(interval || product || coordinates), op, ": x: expected a tensor");
    for (const auto* t : {&receiver, &sender})
      if (*t)
        check_shape(**t, op, t == &receiver ? "receiver" : "sender", {n, ends_as_inputs ? end_width() : widths[0]});
    if (x) check_shape(*x, op, "x", {n, int64_t(metric.size())});
    if (edge_attr) check_shape(*edge_attr, op, "edge_attr", {num_edges, -1});
    int64_t in = int(interval) + int(product) + end_inputs() + (edge_attr ? edge_attr->size(1) : 0), size = 0;
    for (int64_t k = 0; k < layers; ++k) {
      STD_TORCH_CHECK(1 <= widths[k] && widths[k] <= kMostChannels, op, ": widths: expected 1 to 512");
      STD_TORCH_CHECK(0 <= steps[k] && steps[k] < 2 * kNorm && steps[k] % kNorm <= int(Activation::gelu_tanh), op,
                      ": steps: out of range");
      size += (in + 1) * widths[k];
      in = widths[k];
    }
    check_shape(weights, op, "weights", {size});
    STD_TORCH_CHECK(-1 <= edges_at && edges_at < layers && -1 <= messages_at && messages_at < layers, op,
                    ": edges_at, messages_at: out of range");
    STD_TORCH_CHECK(0 <= direction && direction <= int(Direction::sender), op, ": direction: out of range");
    STD_TORCH_CHECK(!coordinates || widths.back() == 1, op, ": coordinates: expected a last layer of width 1");
    STD_TORCH_CHECK(!ends_as_inputs || end_width() > 0, op, ": receiver, sender: expected at least one column");
    STD_TORCH_CHECK(kind != kRows || ((receiver ? ends_as_inputs && n == num_edges : edge_attr.has_value()) &&
                                      !sender && !x && messages_at < 0),
                    op, ": graph: expected one");
  }

  template <class T, class X>
  EdgeNetworkArgs<T, X> args() const {
    EdgeNetworkArgs<T, X> a;
    if (kind == kRows)
      a.rows = num_edges;
    else
      a.graph = graph_view(graph, nodes(), num_edges, kind);
    a.width = end_width();
    a.end_inputs = end_inputs();
    a.receiver = pointer<T>(receiver);
    a.sender = pointer<T>(sender);
    a.receiver_stride = receiver ? receiver->strides()[0] : 0;
    a.sender_stride = sender ? sender->strides()[0] : 0;
    a.x = pointer<X>(x);
    a.dim = int(metric.size());
    for (size_t c = 0; c < metric.size(); ++c) a.metric[c] = metric[c];
    a.interval = interval;
    a.product = product;
    a.psi = psi;
    a.edge_width = edge_attr ? edge_attr->size(1) : 0;
    a.edge_attr = pointer<T>(edge_attr);
    a.slope = slope;
    a.direction = Direction(direction);
    a.norm_inside = norm_inside;
    a.norm_offset = norm_offset;
    a.clamp = clamp.value_or(a.clamp);
    a.mean_coordinates = false;
    a.layers = int(widths.size());
    for (int k = 0; k < a.layers; ++k) {
      a.channels[k] = widths[k];
      a.step[k] = {Activation(steps[k] % kNorm), steps[k] >= kNorm};
    }
    a.weights = weights.const_data_ptr<T>();
    a.edges_at = int(edges_at);
    a.messages_at = int(messages_at);
    a.head = coordinates;
    return a;
  }

  template <class F>
  void dispatch(F&& f) const {
    const bool wide = x && x->scalar_type() == ScalarType::Double;
    const ScalarType type = weights.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                    "edge_network: weights: expected float32 or float64");
    if (type == ScalarType::Double)
      f(double{}, double{});
    else if (wide)
      f(float{}, double{});
    else
      f(float{}, float{});
  }
};

template <class Device>
struct EdgeNetworkOp {
  using Optional = const std::optional<Tensor>&;

  static std::tuple<Tensor, Tensor, Tensor> forward(
      Optional receiver, Optional sender, Optional x, Optional edge_attr, const Tensor& weights, const Tensor& graph,
      int64_t num_edges, int64_t kind, bool ends_as_inputs, const std::vector<double>& metric, bool interval,
      bool product, bool psi, const std::vector<int64_t>& widths, const std::vector<int64_t>& steps, double slope,
      int64_t edges_at, int64_t messages_at, bool coordinates, int64_t direction, double norm_inside,
      double norm_offset, std::optional<double> clamp) {
    typename Device::Guard guard(weights);
    EdgeNetworkInputs in{receiver,    sender,         x,        edge_attr,   weights,     graph,     num_edges,
                         kind,        ends_as_inputs, metric,   interval,    product,     psi,       widths,
                         steps,       slope,          edges_at, messages_at, coordinates, direction, norm_inside,
                         norm_offset, clamp};
    in.check();
    const auto table = [&](bool wanted, const Tensor& like, int64_t rows, int64_t columns) {
      return wanted ? torch::stable::new_empty(like, {rows, columns}) : torch::stable::new_empty(weights, {0});
    };
    const auto width = [&](int64_t at) { return at < 0 ? 0 : widths[at]; };
    Tensor edges = table(edges_at >= 0, weights, num_edges, width(edges_at));
    Tensor messages = table(messages_at >= 0, weights, in.nodes(), width(messages_at));
    Tensor moved = table(coordinates, x ? *x : weights, in.nodes(), int64_t(metric.size()));
    in.dispatch([&](auto t, auto c) {
      using T = decltype(t);
      using X = decltype(c);
      auto args = in.args<T, X>();
      args.edges = edges_at >= 0 ? edges.mutable_data_ptr<T>() : nullptr;
      args.messages = messages_at >= 0 ? messages.mutable_data_ptr<T>() : nullptr;
      args.coordinates = coordinates ? moved.mutable_data_ptr<X>() : nullptr;
      Device::template edge_network_forward<T, X>(weights, args);
    });
    return {edges, messages, moved};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
      Optional grad_edges, Optional grad_messages, Optional grad_coordinates, Optional receiver, Optional sender,
      Optional x, Optional edge_attr, const Tensor& weights, const Tensor& graph, int64_t num_edges, int64_t kind,
      bool ends_as_inputs, const std::vector<double>& metric, bool interval, bool product, bool psi,
      const std::vector<int64_t>& widths, const std::vector<int64_t>& steps, double slope, int64_t edges_at,
      int64_t messages_at, bool coordinates, int64_t direction, double norm_inside, double norm_offset,
      std::optional<double> clamp, bool want_receiver, bool want_sender, bool want_x, bool want_edge_attr) {
    typename Device::Guard guard(weights);
    EdgeNetworkInputs in{receiver,    sender,         x,        edge_attr,   weights,     graph,     num_edges,
                         kind,        ends_as_inputs, metric,   interval,    product,     psi,       widths,
                         steps,       slope,          edges_at, messages_at, coordinates, direction, norm_inside,
                         norm_offset, clamp};
    in.check();
    const auto cotangent = [](Optional g, bool asked, const Tensor& like, const char* name, int64_t rows,
                              int64_t columns) {
      if (!g || !asked) return std::optional<Tensor>();
      check_shape(*g, "edge_network_backward", name, {rows, columns});
      STD_TORCH_CHECK(g->scalar_type() == like.scalar_type(), "edge_network_backward: ", name, ": unexpected dtype");
      return std::optional<Tensor>(as_contiguous(*g));
    };
    const auto width = [&](int64_t at) { return at < 0 ? 0 : widths[at]; };
    const auto g_edges = cotangent(grad_edges, edges_at >= 0, weights, "grad_edges", num_edges, width(edges_at));
    const auto g_messages =
        cotangent(grad_messages, messages_at >= 0, weights, "grad_messages", in.nodes(), width(messages_at));
    const auto g_coordinates = cotangent(grad_coordinates, coordinates, x ? *x : weights, "grad_coordinates",
                                         in.nodes(), int64_t(metric.size()));
    const auto result = [&](Optional like, bool wanted) {
      return like && wanted ? torch::stable::new_empty(*like, like->sizes()) : torch::stable::new_empty(weights, {0});
    };
    Tensor receiver_out = result(receiver, want_receiver), sender_out = result(sender, want_sender),
           x_out = result(x, want_x), attr_out = result(edge_attr, want_edge_attr),
           weights_out = torch::stable::new_empty(weights, weights.sizes());
    in.dispatch([&](auto t, auto c) {
      using T = decltype(t);
      using X = decltype(c);
      auto args = in.args<T, X>();
      args.grad_edges = pointer<T>(g_edges);
      args.grad_messages = pointer<T>(g_messages);
      args.grad_coordinates = pointer<X>(g_coordinates);
      args.grad_receiver = receiver && want_receiver ? receiver_out.mutable_data_ptr<T>() : nullptr;
      args.grad_sender = sender && want_sender ? sender_out.mutable_data_ptr<T>() : nullptr;
      args.grad_x = x && want_x ? x_out.mutable_data_ptr<X>() : nullptr;
      args.grad_edge_attr = edge_attr && want_edge_attr ? attr_out.mutable_data_ptr<T>() : nullptr;
      args.grad_weights = weights_out.mutable_data_ptr<T>();
      Device::template edge_network_backward<T, X>(weights, args);
    });
    return {receiver_out, sender_out, x_out, attr_out, weights_out};
  }
};

}  // namespace ek
