// row_mlp a tile of rows at a time, see tiles.h.
#pragma once

#include "row_mlp.h"
#include "tiles.h"

namespace ek {

// Room for the gradients of row_mlp: of its tables side by side, where they are wanted, and of the layers.
struct RowGradients {
  Tensor input;
  std::vector<Tensor> weight, bias, norm_weight, norm_bias, mean, variance;

  RowGradients(const RowMlpInputs& in, bool of_tables) {
    const auto like = [](const std::optional<Tensor>& t) { return t ? uninitialised(*t, t->sizes()) : Tensor(); };
    input = uninitialised(in.like(), {of_tables ? in.rows : 0, in.columns});
    for (size_t l = 0; l < in.layers.size(); ++l) {
      const LayerTensors& t = in.layers[l];
      weight.push_back(like(t.weight));
      bias.push_back(uninitialised(in.like(), {in.width(l)}));
      norm_weight.push_back(like(t.norm_weight));
      norm_bias.push_back(like(t.norm_bias));
      mean.push_back(like(t.mean));
      variance.push_back(like(t.variance));
    }
  }
};

template <class Device, class S, class T>
class RowTiles {
  using Net = Tiles<Device, S, T>;
  using Tile = typename Net::Tile;
  template <class V>
  static V* put(const Tensor& t) {
    return Net::template put<V>(t);
  }

 public:
  // weight, bias: given norms folded in. moments: [2, channels of measured norms], written or read.
  RowTiles(const RowMlpInputs& inputs, const std::vector<Tensor>& weight,
           const std::vector<std::optional<Tensor>>& bias, const Tensor& rows, const Tensor& moments)
      : in(inputs), input(rows), net(inputs.like()) {
    for (size_t l = 0; l < in.layers.size(); ++l) {
      net.layers.push_back({in.options.layers[l], weight[l], pointer<T>(bias[l])});
      if (in.options.layers[l].norm == NormKind::given) continue;
      net.layers[l].gamma = pointer<T>(in.layers[l].norm_weight);
      net.layers[l].beta = pointer<T>(in.layers[l].norm_bias);
    }
    if (!in.options.measured()) return;
    over_measured([&](auto& layer, int64_t at) {
      layer.mean = put<double>(moments) + at, layer.variance = layer.mean + moments.size(1);
    });
  }

  // out [rows, width of the last layer]; the others as running averages want them, beside each other as the moments
  void forward(T* out, T* running_mean, T* unbiased) {
    over_measured(
        [&](auto& layer, int64_t at) { layer.running_mean = running_mean + at, layer.unbiased = unbiased + at; });
    net.prepare(false);
    const auto first = [&](Tile& tile) { take(tile); };
    net.measure(input.size(0), first);
    net.over(input.size(0), false, [&](Tile& tile) {
      take(tile);
      store(tile, net.run(tile, false, [](size_t, const Tensor&) {}), out);
    });
  }

  // From the gradients of the output and of the moments, the latter or null.
  void backward(const T* grad, const double* to_moments, RowGradients& to, bool of_tables) {
    int64_t channels = 0;
    over_measured([&](auto& layer, int64_t) { channels += layer.width(); });
    if (to_moments)
      over_measured([&](auto& layer, int64_t at) {
        layer.to_mean = to_moments + at, layer.to_variance = layer.to_mean + channels;
      });
    for (size_t l = 0; l < net.layers.size(); ++l) {
      auto& layer = net.layers[l];
      torch::stable::zero_(to.weight[l]);
      layer.grad_weight = put<T>(to.weight[l]);
      if (layer.bias) layer.grad_bias = put<T>(to.bias[l]);
      if (layer.gamma) layer.grad_gamma = put<T>(to.norm_weight[l]);
      if (layer.beta) layer.grad_beta = put<T>(to.norm_bias[l]);
    }
    net.prepare(true);
    const auto first = [&](Tile& tile) { take(tile); };
    const auto seed = [&](const Tile& tile, size_t l, const Tensor& g) {
      if (l + 1 < net.layers.size()) return g;
      TileSeed<S, T> p;
      p.width = net.layers[l].width();
      const Tensor last = net.room({tile.rows, p.width});
      p.edges = grad + tile.begin * p.width;
      p.grad = put<S>(last);
      net.pass(tile.rows, p.width, p);
      return last;
    };
    net.measure_pull(input.size(0), first, seed);
    net.over(input.size(0), true, [&](Tile& tile) {
      take(tile);
      net.run(tile, true, [](size_t, const Tensor&) {});
      const Tensor g = net.pull(tile, seed);
      if (!of_tables) return;
      const Tensor back = net.room({tile.rows, input.size(1)});
      Device::template product<S>(g, net.stored(net.layers[0].weight), back);
      store(tile, back, put<T>(to.input));
    });
    net.finish();
  }

 private:
  const RowMlpInputs& in;
  Tensor input;  // T [rows, columns]
  Net net;

  // f(layer, the first column of its statistics)
  template <class F>
  void over_measured(F&& f) {
    int64_t at = 0;
    for (auto& layer : net.layers)
      if (layer.measured()) f(layer, at), at += layer.width();
  }
  void take(Tile& tile) const {
    Tensor whole = input;
    tile.input = net.stored(torch::stable::narrow(whole, 0, tile.begin, tile.rows));
  }
  void store(const Tile& tile, const Tensor& rows, T* to) const {
    TileStore<S, T> p;
    p.count = p.stride = rows.size(1);
    p.from = put<S>(rows);
    p.to = to + tile.begin * p.count;
    net.pass(tile.rows, p.count, p);
  }
};

}  // namespace ek
