// A network on every edge j -> i, as its formula says it, for all devices:
//   h^0 = the parts of an edge in the order asked for: features h_i of the receiver, h_j of the sender, invariants
//         s_ij = (||x_i - x_j||^2, <x_i, x_j>), those asked for, through psi if asked, and edge attributes a_ij
//   h^k = f_k(norm_k(W_k h^(k-1) + b_k)), k = 1 .. L
//   m_ij = h^(messages_at), times sigmoid(w_g . m_ij + b_g) if there is a gate
//   M_i = sum or mean over received edges of m_ij
//   X_i = sum or mean over received edges of clamp(h^L d_ij), the layers behind m_ij being the head; d_ij made from x_i
//         - x_j, or x_j
//   e_ij = h^(edges_at), gated where it is m_ij
// A batch norm is over all edges, its statistics measured or given.
#pragma once

#include "../core/tensor.h"
#include "channels/message.h"

namespace ek {

enum class NormKind : int { none, batch, given, layer };

// How tiles store what they compute with in float32, where the features came in 16 bits.
enum class Storage : int { full, bfloat16, float16 };

struct LayerOptions {
  Activation activation = Activation::identity;
  NormKind norm = NormKind::none;
  double slope = 0, eps = 0;
};

enum EdgePart : int { kReceiverPart, kSenderPart, kInvariantsPart, kAttributesPart, kEdgeParts };

// The options as their struct in Python encodes them (ops/message_passing/options.py).
struct EdgeMlpOptions {
  int plan = 0;  // see strategy.h
  int64_t messages_at = 0, edges_at = -1;
  int messages = 0, coordinates = 0;  // 0 none, 1 sum, 2 mean
  Direction direction = Direction::difference;
  double norm_inside = 0, norm_offset = 0, clamp = __builtin_inf();
  bool interval = false, product = false, psi = true, bfloat16 = false, tf32 = false;
  Storage storage = Storage::full;
  bool keep = false;  // what backward would compute again: tiles all products, channels on CPUs the head
  std::vector<int> order;
  std::vector<LayerOptions> layers;
  std::vector<double> metric;

  EdgeMlpOptions(const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    size_t next = 0, number = 0;
    const auto integer = [&](int64_t low, int64_t high) {
      STD_TORCH_CHECK(next < ints.size() && low <= ints[next] && ints[next] <= high,
                      "message_passing: options: integer ", next, " is out of range");
      return ints[next++];
    };
    const auto real = [&] {
      STD_TORCH_CHECK(number < numbers.size(), "message_passing: options: too few numbers");
      return numbers[number++];
    };
    plan = int(integer(0, 3));
    const int64_t depth = integer(1, 64);
    messages_at = integer(0, depth - 1);
    edges_at = integer(-1, messages_at);
    messages = int(integer(0, 2));
    coordinates = int(integer(0, 2));
    direction = Direction(integer(0, int(Direction::sender)));
    for (bool* flag : {&interval, &product, &psi, &bfloat16, &tf32}) *flag = integer(0, 1) != 0;
    storage = Storage(integer(0, int(Storage::float16)));
    keep = integer(0, 1) != 0;
    for (int64_t k = integer(0, kEdgeParts); k > 0; --k) order.push_back(int(integer(0, kEdgeParts - 1)));
    norm_inside = real();
    norm_offset = real();
    const double bound = real();
    if (bound >= 0) clamp = bound;
    layers.resize(size_t(depth));
    for (LayerOptions& layer : layers) {
      layer.activation = Activation(integer(0, int(Activation::gelu_tanh)));
      layer.norm = NormKind(integer(0, int(NormKind::layer)));
      layer.slope = real();
      layer.eps = real();
    }
    metric.assign(numbers.begin() + int64_t(number), numbers.end());
    STD_TORCH_CHECK(metric.size() <= kMessageDim, "message_passing: metric: expected at most 8 entries");
    STD_TORCH_CHECK(coordinates == 0 || depth > messages_at + 1, "message_passing: coordinates: expected a head");
  }

  bool has(EdgePart part) const {
    for (int p : order)
      if (p == part) return true;
    return false;
  }
  int invariants() const { return has(kInvariantsPart) ? int(interval) + int(product) : 0; }
  bool measured() const { return layers[0].norm == NormKind::batch; }
  // The layer whose weight, of one output, is not rounded to bfloat16: a head's last.
  size_t last_product() const { return layers.size() - (layers.size() > size_t(messages_at) + 1); }
};

struct LayerTensors {
  std::optional<Tensor> weight, bias, norm_weight, norm_bias, mean, variance;
};

// Tensors by name, in the order of the op's list, each contiguous.
struct EdgeMlpInputs {
  static constexpr int kFirst = 5, kOfLayer = 6;

  EdgeMlpOptions options;
  std::optional<Tensor> h, x, edge_attr, gate_weight, gate_bias;
  std::vector<LayerTensors> layers;
  Tensor table;
  int64_t num_edges, kind;
  int64_t column[kEdgeParts] = {}, part_width[kEdgeParts] = {};  // columns of W_1 for each part

  EdgeMlpInputs(const std::vector<std::optional<Tensor>>& tensors, const Tensor& graph, int64_t edges,
                int64_t graph_kind, const EdgeMlpOptions& given)
      : options(given), table(graph), num_edges(edges), kind(graph_kind) {
    const char* op = "message_passing";
    const size_t depth = options.layers.size();
    STD_TORCH_CHECK(tensors.size() == kFirst + kOfLayer * depth, op, ": tensors: expected ", kFirst + kOfLayer * depth);
    const auto take = [&](size_t k) {
      return tensors[k] ? std::optional<Tensor>(as_contiguous(*tensors[k])) : std::nullopt;
    };
    h = take(0), x = take(1), edge_attr = take(2), gate_weight = take(3), gate_bias = take(4);
    layers.resize(depth);
    for (size_t l = 0; l < depth; ++l) {
      const size_t at = kFirst + kOfLayer * l;
      layers[l] = {take(at), take(at + 1), take(at + 2), take(at + 3), take(at + 4), take(at + 5)};
      STD_TORCH_CHECK(layers[l].weight, op, ": layers: expected a weight");
    }
    check();
  }

  const Tensor& like() const { return *layers[0].weight; }
  ScalarType type() const { return like().scalar_type(); }
  int64_t nodes() const { return h ? h->size(0) : x ? x->size(0) : 0; }
  int64_t width(size_t layer) const { return layers[layer].weight->size(0); }
  int64_t message_width() const { return width(size_t(options.messages_at)); }

 private:
  void check() {
    const char* op = "message_passing";
    const auto fits = [&](std::optional<Tensor>& t, const char* name, std::vector<int64_t> shape) {
      match(op, t, name, like(), "the weights", std::move(shape));
    };
    STD_TORCH_CHECK(h || x, op, ": h: expected features or coordinates");
    const int64_t n = nodes();
    fits(h, "h", {n, -1});
    if (x) {
      check_shape(*x, op, "x", {n, int64_t(options.metric.size())});
      STD_TORCH_CHECK(x->scalar_type() == type() || x->scalar_type() == ScalarType::Double, op,
                      ": x: expected the dtype of the weights or float64");
    }
    STD_TORCH_CHECK(x || (options.invariants() == 0 && options.coordinates == 0), op, ": x: expected a tensor");
    fits(edge_attr, "edge_attr", {num_edges, -1});
    int64_t columns = 0;
    for (int part : options.order) {
      STD_TORCH_CHECK(part_width[part] == 0, op, ": order: expected each part once");
      STD_TORCH_CHECK(part > kSenderPart || h, op, ": h: expected a tensor");
      STD_TORCH_CHECK(part != kAttributesPart || edge_attr, op, ": edge_attr: expected a tensor");
      column[part] = columns;
      part_width[part] = part == kInvariantsPart   ? options.invariants()
                         : part == kAttributesPart ? edge_attr->size(1)
                                                   : h->size(1);
      columns += part_width[part];
    }
    for (size_t l = 0; l < layers.size(); ++l) {
      LayerTensors& t = layers[l];
      fits(t.weight, "weight", {-1, columns});
      columns = t.weight->size(0);
      fits(t.bias, "bias", {columns});
      fits(t.norm_weight, "norm weight", {columns});
      fits(t.norm_bias, "norm bias", {columns});
      for (auto* s : {&t.mean, &t.variance}) {
        STD_TORCH_CHECK(s->has_value() == (options.layers[l].norm == NormKind::given), op,
                        ": mean: of a given norm alone");
        fits(*s, "mean and variance", {columns});
      }
    }
    fits(gate_weight, "gate weight", {-1, message_width()});
    fits(gate_bias, "gate bias", {1});
    STD_TORCH_CHECK(options.coordinates == 0 || columns == 1, op, ": layers: expected a last one of width 1");
  }
};

// f(T, X): the types of features and of coordinates.
template <class F>
void dispatch_features(const EdgeMlpInputs& in, F&& f) {
  const bool wide = in.x && in.x->scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(in.type() == ScalarType::Float || in.type() == ScalarType::Double,
                  "message_passing: expected float32 or float64");
  if (in.type() == ScalarType::Double)
    f(double{}, double{});
  else if (wide)
    f(float{}, double{});
  else
    f(float{}, float{});
}

}  // namespace ek
