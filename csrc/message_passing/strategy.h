// Which kernel an edge network runs on: lanes across channels, for wide layers (channels/), lanes across edges, for
// deep and narrow ones (edges/), or tiles of edges layer by layer (tiles.h), on CUDA for what those do not take.
#pragma once

#include <algorithm>
#include <string>

#include "edge_mlp.h"
#include "edges/edge_network.h"

namespace ek {

// Lanes across channels; lanes across edges that read tables of products over nodes, or both ends as they are; tiles.
enum class Plan : int { channels, tables, ends, tiles };

inline constexpr int64_t kTilesFrom = 64;  // channels up to which lanes across edges are faster on CUDA

// The layers as far as the choice depends on them.
struct EdgeMlpShape {
  bool gate = false;
  int64_t inputs = 0;      // of the first layer
  int64_t bytes = 4;       // of a number
  int64_t attributes = 0;  // columns of edge_attr
  std::vector<int64_t> widths;
  std::vector<bool> bias, affine;  // of each layer, and of its norm

  // As Python asks for a plan: gate, inputs, bytes, attributes, then width, bias, affine of each layer.
  explicit EdgeMlpShape(const std::vector<int64_t>& encoded) {
    STD_TORCH_CHECK(encoded.size() >= 7 && encoded.size() % 3 == 1, "message_passing_plan: shape: unexpected size");
    gate = encoded[0] != 0;
    inputs = encoded[1];
    bytes = encoded[2];
    attributes = encoded[3];
    for (size_t k = 4; k < encoded.size(); k += 3) {
      widths.push_back(encoded[k]);
      bias.push_back(encoded[k + 1] != 0);
      affine.push_back(encoded[k + 2] != 0);
    }
  }
  explicit EdgeMlpShape(const EdgeMlpInputs& in)
      : gate(in.gate_weight.has_value()),
        inputs(in.like().size(1)),
        bytes(in.type() == ScalarType::Double ? 8 : 4),
        attributes(in.part_width[kAttributesPart]) {
    for (size_t l = 0; l < in.layers.size(); ++l) {
      widths.push_back(in.width(l));
      bias.push_back(in.layers[l].bias.has_value());
      affine.push_back(in.layers[l].norm_weight || in.layers[l].norm_bias);
    }
  }
};

// Why lanes across channels cannot run a network; empty where they can.
inline std::string channels_limit(const EdgeMlpOptions& o, const EdgeMlpShape& s) {
  const size_t depth = o.layers.size(), last = size_t(o.messages_at);
  const LayerOptions& first = o.layers[0];
  if (last >= size_t(kMessageDepth)) return "more than 3 layers before the message";
  for (size_t l = 0; l < depth; ++l) {
    const LayerOptions& layer = o.layers[l];
    if (layer.norm == NormKind::layer) return "a LayerNorm";
    if (layer.norm == NormKind::batch && l > 0) return "statistics of a batch norm behind the first layer";
    if (layer.norm == NormKind::given && l > 0 && o.bfloat16) return "a norm of products in bfloat16";
    const bool output = last + 1 < depth && l + 1 == depth;
    if (output) {
      if (layer.activation != Activation::identity && layer.activation != Activation::tanh)
        return "an activation of the coordinates' weight other than tanh";
      if (s.bias[l] || layer.norm != NormKind::none) return "a bias or a norm of the coordinates' weight";
    } else if (layer.activation != first.activation ||
               (layer.activation == Activation::leaky_relu && layer.slope != first.slope)) {
      return "different activations";
    }
  }
  if (last + 1 < depth && depth != last + 3) return "a head of other than 2 layers";
  if (o.edges_at >= 0 && o.edges_at != o.messages_at) return "edge outputs before the message";
  return "";
}

// Why lanes across edges cannot.
inline std::string edges_limit(const EdgeMlpOptions& o, const EdgeMlpShape& s) {
  double slope = -1;
  if (s.gate) return "a gate";
  if (o.bfloat16) return "products in bfloat16";
  if (o.messages == 2 || o.coordinates == 2) return "a mean";
  if (o.layers.size() > size_t(kMostLayers)) return "more than 32 layers";
  for (size_t l = 0; l < o.layers.size(); ++l) {
    const LayerOptions& layer = o.layers[l];
    if (s.widths[l] < 1 || s.widths[l] > kMostChannels) return "a layer of other than 1 to 512 channels";
    if (layer.norm == NormKind::batch && l > 0) return "statistics of a batch norm behind the first layer";
    if (layer.norm == NormKind::layer && (s.affine[l] || layer.eps != kNormEpsilon))
      return "a LayerNorm with an affine map, or of an eps other than 1e-5";
    if (layer.activation != Activation::leaky_relu) continue;
    if (slope >= 0 && slope != layer.slope) return "different slopes";
    slope = layer.slope;
  }
  return "";
}

// Why tiles cannot.
inline std::string tiles_limit(const EdgeMlpOptions& o, const EdgeMlpShape& s) {
  for (size_t l = 0; l < o.layers.size(); ++l) {
    if (s.widths[l] < 1) return "a layer without channels";
    if (l > 0 && o.bfloat16 && o.layers[l].norm == NormKind::given) return "a norm of products in bfloat16";
  }
  return "";
}

// The plan for a network, or why no kernel runs it.
struct Planned {
  Plan plan = Plan::channels;
  std::string limit;
};

// Device::channels_limit and Device::edges_limit say what else a device's kernels cannot do.
template <class Device>
Planned plan_for(const EdgeMlpOptions& o, const EdgeMlpShape& s) {
  if (channels_limit(o, s).empty() && Device::channels_limit(o, s).empty()) return {};
  // Edges read both ends where those are few numbers; otherwise they read what the first layer makes of them.
  constexpr int64_t kFew = 2 * 32;
  const bool ends = o.has(kReceiverPart) || o.has(kSenderPart);
  Planned p;
  p.plan = o.measured() || (ends && s.inputs > kFew) ? Plan::tables : Plan::ends;
  p.limit = edges_limit(o, s);
  if (!p.limit.empty() && channels_limit(o, s).empty()) p.limit = Device::channels_limit(o, s);
  if (p.limit.empty()) p.limit = Device::edges_limit(o, s, p.plan == Plan::tables);
  const int64_t widest = *std::max_element(s.widths.begin(), s.widths.end());
  if (Device::cuda && (!p.limit.empty() || widest > kTilesFrom)) return {Plan::tiles, tiles_limit(o, s)};
  return p;
}

#define EK_PLAN_SCHEMA "(int[] shape, int[] options, float[] numbers) -> str"
// "0" to "3", the plan's number; otherwise why no kernel runs the network.
template <class Device>
std::string message_passing_plan(const std::vector<int64_t>& shape, const std::vector<int64_t>& ints,
                                 const std::vector<double>& numbers) {
  const Planned planned = plan_for<Device>(EdgeMlpOptions(ints, numbers), EdgeMlpShape(shape));
  return planned.limit.empty() ? std::to_string(int(planned.plan)) : planned.limit;
}

}  // namespace ek
