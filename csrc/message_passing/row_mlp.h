// A network on rows, for all devices:
//   u^0 = tables side by side;  u^k = f_k(norm_k(W_k u^(k-1) + b_k));  out = u^L, plus a residual if there is one
// Narrow networks, and those with layer norms, run on the kernel with lanes across rows (edge_network/), which computes
// the layers again in the backward pass; the others layer by layer, with the products of pairs/rows.h: a layer's output
// is kept, and a batch norm's statistics are measured as it is made. On CUDA they run on tiles of rows, see tiles.h.
#pragma once

#include "strategy.h"

namespace ek {

inline constexpr const char* kRowMlpSchema =
    "row_mlp(Tensor?[] tensors, " EK_GRAPH_SCHEMA ", int[] options, float[] numbers) -> Tensor[]";
// saved: the statistics and the last output of the op.
inline constexpr const char* kRowMlpBackwardSchema =
    "row_mlp_backward(Tensor?[] grads, Tensor?[] tensors, Tensor[] saved, " EK_GRAPH_SCHEMA
    ", int[] options, float[] numbers, bool[] wanted) -> Tensor[]";

enum class RowPlan : int { layers, lanes, tiles };

// The options as their struct in Python encodes them (ops/message_passing/rows.py).
struct RowMlpOptions {
  RowPlan plan = RowPlan::layers;
  bool residual = false;
  Storage storage = Storage::full;
  std::vector<LayerOptions> layers;

  RowMlpOptions(const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    const char* expected =
        "row_mlp: options: expected the plan, the residual, the storage, and for each layer two of both kinds";
    STD_TORCH_CHECK(ints.size() >= 5 && ints.size() % 2 == 1 && ints.size() - 3 == numbers.size() && 0 <= ints[0] &&
                        ints[0] <= int(RowPlan::tiles) && 0 <= ints[2] && ints[2] <= int(Storage::float16),
                    expected);
    plan = RowPlan(ints[0]);
    residual = ints[1] != 0;
    storage = Storage(ints[2]);
    for (size_t k = 3; k < ints.size(); k += 2) {
      STD_TORCH_CHECK(0 <= ints[k] && ints[k] <= int(Activation::gelu_tanh) && 0 <= ints[k + 1] &&
                          ints[k + 1] <= int(NormKind::layer),
                      expected);
      layers.push_back({Activation(ints[k]), NormKind(ints[k + 1]), numbers[k - 3], numbers[k - 2]});
    }
  }
  bool measured() const {
    for (const LayerOptions& l : layers)
      if (l.norm == NormKind::batch) return true;
    return false;
  }
};

// "0" to "2", the plan's number; otherwise why no kernel runs the network.
template <class Device>
std::string row_mlp_plan(const std::vector<int64_t>& shape, const std::vector<int64_t>& ints,
                         const std::vector<double>& numbers) {
  constexpr int64_t kNarrow = 48;  // channels up to which lanes across rows are faster
  const RowMlpOptions o(ints, numbers);
  const EdgeMlpShape s(shape);
  bool layer_norm = false, narrow = s.inputs <= 2 * kNarrow, wide = false, empty = false;
  double slope = -1;
  std::string limit = o.measured() ? "statistics of a batch norm" : "";
  if (o.layers.size() > size_t(kMostLayers)) limit = "more than 32 layers";
  for (size_t l = 0; l < o.layers.size(); ++l) {
    const LayerOptions& layer = o.layers[l];
    narrow = narrow && s.widths[l] <= kNarrow;
    wide = wide || s.widths[l] > kTilesFrom;
    empty = empty || s.widths[l] < 1;
    if (s.widths[l] < 1 || s.widths[l] > kMostChannels) limit = "a layer of other than 1 to 512 channels";
    if (layer.norm == NormKind::layer) {
      layer_norm = true;
      if (s.affine[l] || layer.eps != kNormEpsilon)
        limit = "a LayerNorm with an affine map, or of an eps other than 1e-5";
    }
    if (layer.activation != Activation::leaky_relu) continue;
    if (slope >= 0 && slope != layer.slope) limit = "different slopes";
    slope = layer.slope;
  }
  if (limit.empty()) limit = Device::lanes_limit(s);
  if (limit.empty() && (narrow || layer_norm || Device::cuda) && !(wide && Device::cuda))
    return std::to_string(int(RowPlan::lanes));
  if (Device::cuda) return empty ? "a layer without channels" : std::to_string(int(RowPlan::tiles));
  return layer_norm ? limit : std::to_string(int(RowPlan::layers));
}

// Tensors by name, in the order of the op's list, each contiguous.
struct RowMlpInputs {
  static constexpr int kTables = 3, kFirst = kTables + 1, kOfLayer = EdgeMlpInputs::kOfLayer;

  RowMlpOptions options;
  std::vector<Tensor> tables;
  std::optional<Tensor> residual;
  std::vector<LayerTensors> layers;
  int64_t rows, columns = 0;  // of all tables side by side

  RowMlpInputs(const std::vector<std::optional<Tensor>>& tensors, int64_t count, const RowMlpOptions& given)
      : options(given), rows(count) {
    const char* op = "row_mlp";
    const size_t depth = options.layers.size();
    STD_TORCH_CHECK(tensors.size() == kFirst + kOfLayer * depth, op, ": tensors: unexpected number");
    const auto take = [&](size_t k) {
      return tensors[k] ? std::optional<Tensor>(as_contiguous(*tensors[k])) : std::nullopt;
    };
    layers.resize(depth);
    for (size_t l = 0; l < depth; ++l) {
      const size_t at = kFirst + kOfLayer * l;
      layers[l] = {take(at), take(at + 1), take(at + 2), take(at + 3), take(at + 4), take(at + 5)};
      STD_TORCH_CHECK(layers[l].weight, op, ": layers: expected a weight");
    }
    const auto fits = [&](std::optional<Tensor>& t, const char* name, std::vector<int64_t> shape) {
      match(op, t, name, like(), "the weights", std::move(shape));
    };
    for (size_t k = 0; k < kTables; ++k) {
      std::optional<Tensor> t = tensors[k];
      fits(t, "tables", {rows, -1});
      if (!t) continue;
      columns += t->size(1);
      tables.push_back(*t);
    }
    int64_t in = columns;
    for (size_t l = 0; l < depth; ++l) {
      LayerTensors& t = layers[l];
      fits(t.weight, "weight", {-1, in});
      in = width(l);
      for (auto* v : {&t.bias, &t.norm_weight, &t.norm_bias, &t.mean, &t.variance}) fits(*v, "layers", {in});
      STD_TORCH_CHECK(t.mean.has_value() == (options.layers[l].norm == NormKind::given) &&
                          t.variance.has_value() == t.mean.has_value(),
                      op, ": mean: of a given norm alone");
    }
    residual = take(kTables);
    fits(residual, "residual", {rows, in});
  }
  const Tensor& like() const { return *layers[0].weight; }
  int64_t width(size_t l) const { return layers[l].weight->size(0); }
};

}  // namespace ek
