// Base of the ops on layers: their tensors, room, passes, and norms of given statistics folded into the layers before
// them. Inputs has layers, options.layers, width(layer) and like(), a tensor of the op's dtype and device.
#pragma once

#include <algorithm>

#include "edge_mlp.h"
#include "passes.h"

namespace ek {

template <class Device, class Inputs>
class LayerOps {
 protected:
  using Optional = std::optional<Tensor>;
  using Optionals = std::vector<Optional>;

  Inputs in;
  std::vector<Tensor> weight;  // of each layer, norms of given statistics folded in
  std::vector<Optional> bias;

  template <class... Arguments>
  explicit LayerOps(Arguments&&... arguments) : in(std::forward<Arguments>(arguments)...) {}

  size_t depth() const { return in.layers.size(); }
  Tensor empty(std::vector<int64_t> shape) const { return uninitialised(in.like(), std::move(shape)); }
  Tensor zeros(std::vector<int64_t> shape) const { return torch::stable::new_zeros(in.like(), std::move(shape)); }
  Tensor doubles(std::vector<int64_t> shape) const {
    return uninitialised(in.like(), std::move(shape), ScalarType::Double);
  }
  template <class T>
  static T* put(const Tensor& t) {
    return static_cast<T*>(const_cast<void*>(t.const_data_ptr()));
  }
  template <class Pass>
  void pass(int64_t items, int64_t work, const Pass& p) const {
    Device::pass(in.like(), items, work, p);
  }
  // `count` columns of a matrix of `rows` rows to those of another, or added to them
  template <class T>
  void copy(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t count,
            bool add = false) const {
    if (count > 0) pass(rows, count, CopyColumns<T>{from, to, count, from_stride, to_stride, add});
  }

  // f(S{}), the type in which tiles store numbers of T
  template <class T, class F>
  void with_storage(Storage storage, F&& f) const {
    if (storage == Storage::full) return f(T{});
    if constexpr (Device::cuda && sizeof(T) == 4) {
      if (storage == Storage::bfloat16) return f(BFloat16{});
      if (storage == Storage::float16) return f(Float16{});
    }
    STD_TORCH_CHECK(false, "storage: 16 bits: expected float32 features on CUDA");
  }

  template <class T>
  FoldNorm<T> fold_of(size_t l) const {
    const LayerTensors& t = in.layers[l];
    return {pointer<T>(t.weight), pointer<T>(t.bias),     pointer<T>(t.norm_weight), pointer<T>(t.norm_bias),
            pointer<T>(t.mean),   pointer<T>(t.variance), t.weight->size(1),         in.options.layers[l].eps};
  }
  template <class T>
  void fold() {
    for (size_t l = 0; l < depth(); ++l) {
      const LayerTensors& t = in.layers[l];
      weight.push_back(*t.weight);
      bias.push_back(t.bias);
      if (in.options.layers[l].norm != NormKind::given) continue;
      weight[l] = empty({in.width(l), t.weight->size(1)});
      bias[l] = empty({in.width(l)});
      auto f = fold_of<T>(l);
      f.out_weight = put<T>(weight[l]);
      f.out_bias = put<T>(*bias[l]);
      pass(in.width(l), f.inputs, f);
    }
  }
};

}  // namespace ek
