// Arguments of the ops on pairs, read from the dispatcher's stack in the order of their schemas.
#pragma once

#include "../core/reader.h"
#include "../core/tensor.h"
#include "maps.h"
#include "nodes.h"
#include "pairs.h"

namespace ek {

using OptionalTensor = std::optional<Tensor>;
using Optionals = std::vector<OptionalTensor>;

// A tensor like another, or an empty one where it is not wanted.
inline Tensor make(const Tensor& like, bool wanted, std::vector<int64_t> shape) {
  return uninitialised(like, wanted ? shape : std::vector<int64_t>{0});
}

// The gradients that are wanted, of those of an op's tensors.
inline std::vector<Tensor> only(const std::vector<Tensor>& gradients, const std::vector<bool>& wanted) {
  std::vector<Tensor> out;
  for (size_t k = 0; k < gradients.size(); ++k)
    if (wanted[k]) out.push_back(gradients[k]);
  return out;
}

// The complete graph, with self-loops, whose edges are the pairs of a batch.
struct PairsInput {
  Tensor table;
  int64_t num_edges, kind;

  PairsInput(const Tensor& graph, int64_t edges, int64_t graph_kind)
      : table(graph), num_edges(edges), kind(graph_kind) {}
  explicit PairsInput(Reader& stack)
      : table(stack.next<Tensor>()), num_edges(stack.next<int64_t>()), kind(stack.next<int64_t>()) {}

  template <class Device>
  GraphView view(int64_t num_nodes) const {
    STD_TORCH_CHECK(kind == 2, "rank2: graph: expected a complete graph with self-loops");
    const GraphView g = graph_view(table, num_nodes, num_edges, kind);
    if constexpr (!Device::cuda)
      STD_TORCH_CHECK(g.ptr[g.num_events] == num_nodes && g.edge_ptr[g.num_events] == num_edges,
                      "rank2: tensor: expected ", g.edge_ptr[g.num_events], " pairs of ", g.ptr[g.num_events],
                      " particles, got ", num_edges, " and ", num_nodes);
    return g;
  }
};

// A linear layer on summed aggregates. It acts on scale T + shift, channel by channel, (scale, shift) = affine, and
// that tensor is never made. coefs may be the first of four factors; places say which maps they are, if not all: see
// maps.h. Sizes of events are their numbers of particles where nobj is absent.
struct LayerInputs {
  static constexpr size_t kTensors = 10;
  const char* op;
  Tensor tensor;  // of pairs, or of particles
  OptionalTensor affine;
  Tensor coefs;
  OptionalTensor coefs01, coefs10, coefs11, bias, diag_bias, alpha, nobj;
  PairsInput graph;
  int64_t num_nodes, num_events;
  std::vector<int64_t> places;
  bool mean;
  double nbar, inner_slope, slope;
  int64_t maps, in = 0, kept = 0, width = 0;  // maps of a letter; channels in, maps in coefs, channels out

  // tensors: as the fields; ints: numbers of particles and events, whether sums are means, the places; numbers: as the
  // fields. all_maps, aggregated: maps of the layer, and those that alpha has an exponent of.
  LayerInputs(const char* name, const Optionals& tensors, const PairsInput& pairs, const std::vector<int64_t>& ints,
              const std::vector<double>& numbers, int64_t all_maps, int64_t aggregated)
      : op(name), graph(pairs), maps(all_maps) {
    STD_TORCH_CHECK(tensors.size() == kTensors && tensors[0] && tensors[2] && ints.size() >= 3 && numbers.size() == 3,
                    op, ": tensors, options, numbers: unexpected sizes");
    tensor = *tensors[0], affine = tensors[1], coefs = *tensors[2];
    coefs01 = tensors[3], coefs10 = tensors[4], coefs11 = tensors[5];
    bias = tensors[6], diag_bias = tensors[7], alpha = tensors[8], nobj = tensors[9];
    num_nodes = ints[0], num_events = ints[1], mean = ints[2] != 0, places.assign(ints.begin() + 3, ints.end());
    nbar = numbers[0], inner_slope = numbers[1], slope = numbers[2];
    check_shape(tensor, op, "tensor", {-1, -1});
    check_shape(graph.table, op, "graph", {2 * (num_events + 1)});
    in = tensor.size(1);
    kept = places.empty() ? maps : int64_t(places.size());
    for (const int64_t k : places) STD_TORCH_CHECK(0 <= k && k < maps, op, ": places: expected numbers of maps");
    const bool factors = coefs01.has_value();
    STD_TORCH_CHECK(factors == coefs10.has_value() && factors == coefs11.has_value(), op, ": coefs: expected 1 or 4");
    if (factors) {
      check_shape(*coefs01, op, "coefs01", {-1, kept});
      width = coefs01->size(0);
      check_shape(coefs, op, "coefs", {in, kept});
    } else {
      check_shape(coefs, op, "coefs", {in, -1, kept});
      width = coefs.size(1);
    }
    STD_TORCH_CHECK(coefs.scalar_type() == tensor.scalar_type(), op, ": coefs: expected the dtype of tensor");
    tensor = as_contiguous(tensor);
    coefs = as_contiguous(coefs);
    match(coefs01, "coefs01", {width, kept});
    match(coefs10, "coefs10", {in, width});
    match(coefs11, "coefs11", {in, width});
    match(affine, "affine", {2, in});
    match(bias, "bias", {width});
    match(diag_bias, "diag_bias", {width});
    match(nobj, "nobj", {num_events});
    if (!alpha) return;
    STD_TORCH_CHECK(alpha->numel() == in * aggregated && alpha->scalar_type() == tensor.scalar_type(), op,
                    ": alpha: expected ", in * aggregated, " numbers of the dtype of tensor");
    alpha = as_contiguous(*alpha);
  }

  struct Given {
    OptionalTensor grad, activated, aggregates;  // activated: where its derivative depends on it
  };
  Given given(const Optionals& grads, const std::vector<Tensor>& saved, const std::vector<bool>& wanted) const {
    STD_TORCH_CHECK(grads.size() == 1 && grads[0] && saved.size() == 2 && wanted.size() == kTensors, op,
                    ": grads, saved, wanted: unexpected sizes");
    return {grads[0], slope == 1 ? std::nullopt : OptionalTensor(saved[0]), saved[1]};
  }
  void match(OptionalTensor& t, const char* argument, std::vector<int64_t> shape) const {
    ek::match(op, t, argument, tensor, "tensor", std::move(shape));
  }
  template <class T>
  const T* scale() const {
    return pointer<T>(affine);
  }
  template <class T>
  const T* shift() const {
    return affine ? pointer<T>(affine) + in : nullptr;
  }
  template <class T>
  MapsArgs<T> maps_args() const {
    MapsArgs<T> a{in, width, maps, kept, places.empty() ? nullptr : places.data(), coefs.const_data_ptr<T>()};
    a.coefs01 = pointer<T>(coefs01);
    a.coefs10 = pointer<T>(coefs10);
    a.coefs11 = pointer<T>(coefs11);
    return a;
  }
  // powers: those of the maps that are aggregated.
  template <class T>
  FactorsArgs<T> factors_args(const GraphView& g, const std::vector<int>& powers) const {
    FactorsArgs<T> a{g.num_events, int64_t(powers.size()), in, g.ptr, pointer<T>(nobj), mean, nbar, powers.data()};
    a.alpha = pointer<T>(alpha);
    return a;
  }
};

// The gradients of a layer; empty where one is absent.
struct LayerGradients {
  Tensor tensor, affine, coefs, coefs01, coefs10, coefs11, bias, diag_bias, alpha;

  LayerGradients(const LayerInputs& l, bool want_tensor)
      : tensor(make(l.tensor, want_tensor, {l.tensor.size(0), l.in})),
        affine(make(l.tensor, l.affine.has_value(), {2, l.in})),
        coefs(like(l.tensor, l.coefs)),
        coefs01(like(l.tensor, l.coefs01)),
        coefs10(like(l.tensor, l.coefs10)),
        coefs11(like(l.tensor, l.coefs11)),
        bias(make(l.tensor, l.bias.has_value(), {l.width})),
        diag_bias(make(l.tensor, l.diag_bias.has_value(), {l.width})),
        alpha(like(l.tensor, l.alpha)) {}

  template <class T>
  void set(MapsArgs<T>& a) const {
    auto data = [](const Tensor& t) { return t.numel() > 0 ? static_cast<T*>(t.mutable_data_ptr()) : nullptr; };
    a.grad_coefs = data(coefs);
    a.grad_coefs01 = data(coefs01);
    a.grad_coefs10 = data(coefs10);
    a.grad_coefs11 = data(coefs11);
  }
  std::vector<Tensor> wanted(const std::vector<bool>& wanted) const {
    return only({tensor, affine, coefs, coefs01, coefs10, coefs11, bias, diag_bias, alpha}, wanted);
  }

 private:
  static Tensor like(const Tensor& of, const OptionalTensor& t) {
    std::vector<int64_t> shape;
    for (int64_t d = 0; t && d < t->dim(); ++d) shape.push_back(t->size(d));
    return make(of, t.has_value(), shape);
  }
};

}  // namespace ek
