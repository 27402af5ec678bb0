// A network on many rows, a tile of them at a time: products by the device's own library, passes between them. What a
// tile takes is bounded by EQUIKERNELS_WORKSPACE; backward computes its layers again, unless products were kept. Sums
// over rows follow their order. A measured batch norm takes a walk over all tiles by itself, forward and backward.
#pragma once

#include <cstdlib>

#include "edge_mlp.h"
#include "tile_sums.h"

namespace ek {

// Bytes that the rows computed at a time may take.
inline int64_t tile_workspace() {
  constexpr int64_t kUsual = int64_t(256) << 20;
  const char* given = std::getenv("EQUIKERNELS_WORKSPACE");
  if (!given || !*given) return kUsual;
  char* end = nullptr;
  const long long bytes = std::strtoll(given, &end, 10);
  STD_TORCH_CHECK(*end == 0 && bytes > 0, "EQUIKERNELS_WORKSPACE: expected a number of bytes, got ", given);
  return bytes;
}

template <class S>
constexpr ScalarType stored_type() {
  return std::is_same<S, BFloat16>::value  ? ScalarType::BFloat16
         : std::is_same<S, Float16>::value ? ScalarType::Half
         : sizeof(S) == 4                  ? ScalarType::Float
                                           : ScalarType::Double;
}

// S: as the layers' outputs are stored and multiplied, T: as everything else is computed.
template <class Device, class S, class T>
class Tiles {
 public:
  struct Layer {
    LayerOptions o;
    Tensor weight;  // T [width, inputs]
    const T *bias = nullptr, *gamma = nullptr, *beta = nullptr;
    // A measured norm.
    double *mean = nullptr, *variance = nullptr;  // [width] each
    T *running_mean = nullptr, *unbiased = nullptr;
    const double *to_mean = nullptr, *to_variance = nullptr;  // backward: what reaches them from elsewhere, or null
    // Backward: written, but for those not wanted; to the weight's is added.
    T *grad_weight = nullptr, *grad_bias = nullptr, *grad_gamma = nullptr, *grad_beta = nullptr;

    int64_t width() const { return weight.size(0); }
    int64_t inputs() const { return weight.size(1); }
    bool measured() const { return o.norm == NormKind::batch; }
  };
  // Rows begin .. begin + rows - 1. z, out: of the layers so far, of the last one alone where layers are not kept.
  struct Tile {
    int64_t begin, rows;
    Tensor input;                   // S [rows, inputs]; or, of a first layer on edges:
    Tensor receiver, sender, edge;  // int64 [rows]
    Tensor u, product;              // T [rows, K] and [rows, width]: of what edges bring, if anything
    const T* table[2] = {};         // A, B
    std::vector<Tensor> z, out;
    Tensor gated;
  };

  std::vector<Layer> layers;
  int gate_at = -1;  // the layer behind which there is a gate
  const T *gate_weight = nullptr, *gate_bias = nullptr;
  T *grad_gate_weight = nullptr, *grad_gate_bias = nullptr;
  // Forward: from layer 1 to the last but one (or, without a head, to the last) inputs are rounded to bfloat16.
  size_t round_from = 0, round_to = 0;
  bool edges = false;  // the first layer's product comes with the tile
  int64_t more = 0;    // bytes of a row that the caller takes
  // S: z of all rows, one layer after the other: written by run(), or, where it was, read. Not defined: not kept.
  Tensor kept;
  bool was_kept = false;
  int64_t kept_rows = 0;

  explicit Tiles(const Tensor& like) : on_(like) {}

  // f(tile) in order, for the rows of as many tiles as the workspace asks for.
  template <class F>
  void over(int64_t rows, bool keep, F&& f) const {
    const int64_t step = rows_at_a_time(rows, keep);
    for (int64_t begin = 0; begin < rows; begin += step) {
      Tile tile;
      tile.begin = begin;
      tile.rows = std::min(step, rows - begin);
      f(tile);
    }
  }

  // To be called first; the layers are there.
  void prepare(bool backward) {
    for (Layer& l : layers) {
      weights_.push_back(stored(l.weight));
      const size_t k = weights_.size() - 1;
      if (!backward && round_from <= k && k < round_to) weights_[k] = rounded(weights_[k]);
      scale_.push_back(l.measured() ? like({2, l.width()}) : Tensor());
      pull_.push_back(l.measured() ? like({2, l.width()}) : Tensor());
      if (!backward) continue;
      sums_.push_back(zeros({2, l.width()}));
      bias_sums_.push_back(zeros({2, l.width()}));
      if (l.measured()) pass(1, l.width(), fold(k, 1));
    }
    if (backward && gate_at >= 0) gate_sums_ = zeros({2, layers[size_t(gate_at)].width()});
  }

  // --- forward ---
  // Statistics of measured norms, one after the other; first(tile) gives a tile its input.
  template <class F>
  void measure(int64_t rows, F&& first) {
    for (size_t l = 0; l < layers.size(); ++l) {
      if (!layers[l].measured()) continue;
      const int64_t width = layers[l].width();
      const Tensor moments = zeros({2, width});
      over(rows, false, [&](Tile& tile) {
        first(tile);
        Tensor h = tile.input;
        for (size_t k = 0; k < l; ++k) h = layer(tile, k, h, false);
        const Tensor z = multiplied(tile, l, h);
        const Tensor partial = doubles({tile_groups(tile.rows, kTileGroup), 2, width});
        pass(partial.size(0), kTileGroup * width,
             TileMoments<S, T>{tile.rows, width, put<S>(z), layers[l].bias, put<double>(partial)});
        TileMergeMoments merge;
        merge.rows = tile.rows;
        merge.before = tile.begin;
        merge.width = width;
        merge.partial = put<double>(partial);
        merge.moments = put<double>(moments);
        pass(width, partial.size(0), merge);
      });
      auto f = fold(l, rows);
      f.moments = put<double>(moments);
      pass(1, width, f);
    }
  }
  // each(layer, its output) on the way; keep: for pull(). Returns the last output.
  template <class F>
  Tensor run(Tile& tile, bool keep, F&& each) const {
    Tensor h = tile.input;
    for (size_t l = 0; l < layers.size(); ++l) each(l, h = layer(tile, l, h, keep));
    return h;
  }

  // --- backward ---
  // The measured norms' gradients, last first. first as before; seed(tile, layer, gradient of its output or not
  // defined) adds what reaches that output from elsewhere.
  template <class F, class G>
  void measure_pull(int64_t rows, F&& first, G&& seed) {
    for (size_t l = layers.size(); l-- > 0;) {
      if (!layers[l].measured()) continue;
      over(rows, true, [&](Tile& tile) {
        first(tile);
        run(tile, true, [](size_t, const Tensor&) {});
        pull(tile, l, false, seed);
      });
      auto f = fold(l, rows);
      f.sums = put<double>(sums_[l]);
      f.to_mean = layers[l].to_mean;
      f.to_variance = layers[l].to_variance;
      f.grad_gamma = layers[l].grad_gamma;
      f.grad_beta = layers[l].grad_beta;
      f.level = put<T>(pull_[l]);
      f.slope_of_z = f.level + layers[l].width();
      pass(1, layers[l].width(), f);
    }
  }
  // Back to the first layer's z, of which the gradient is returned: not defined where nothing came.
  template <class G>
  Tensor pull(Tile& tile, G&& seed) {
    return pull(tile, 0, true, seed);
  }
  // After all tiles: gradients of vectors.
  void finish() {
    for (size_t l = 0; l < layers.size(); ++l) {
      const Layer& layer = layers[l];
      const double* sums = put<double>(sums_[l]);
      if (layer.grad_bias) store(put<double>(bias_sums_[l]), layer.grad_bias, layer.width());
      if (layer.o.norm != NormKind::layer) continue;
      if (layer.grad_gamma) store(sums + layer.width(), layer.grad_gamma, layer.width());
      if (layer.grad_beta) store(sums, layer.grad_beta, layer.width());
    }
    if (gate_at < 0) return;
    const int64_t width = layers[size_t(gate_at)].width();
    const double* sums = put<double>(gate_sums_);
    if (grad_gate_weight) store(sums + width, grad_gate_weight, width);
    if (grad_gate_bias) store(sums, grad_gate_bias, 1);
  }

  // --- room and passes ---
  Tensor like(std::vector<int64_t> shape) const { return uninitialised(on_, std::move(shape)); }
  Tensor room(std::vector<int64_t> shape) const { return uninitialised(on_, std::move(shape), stored_type<S>()); }
  Tensor doubles(std::vector<int64_t> shape) const { return uninitialised(on_, std::move(shape), ScalarType::Double); }
  Tensor zeros(std::vector<int64_t> shape) const {  // float64
    return torch::stable::new_zeros(on_, std::move(shape), ScalarType::Double);
  }
  Tensor stored(const Tensor& t) const {
    if constexpr (sizeof(S) == sizeof(T)) return t;
    return torch::stable::to(t, stored_type<S>());
  }
  template <class V>
  static V* put(const Tensor& t) {
    return static_cast<V*>(const_cast<void*>(t.const_data_ptr()));
  }
  template <class Pass>
  void pass(int64_t items, int64_t work, const Pass& p) const {
    Device::pass(on_, items, work, p);
  }
  // Sums of T from sums in float64.
  void store(const double* from, T* to, int64_t count) const {
    TileStore<double, T> p;
    p.count = p.stride = count;
    p.from = from;
    p.to = to;
    pass(1, count, p);
  }
  // to += a^T b; T from S
  void add_outer(const Tensor& a, const Tensor& b, T* to) const {
    const Tensor sum = room({a.size(1), b.size(1)});
    Device::template outer<S>(a, b, sum);
    TileStore<S, T> p;
    p.count = p.stride = b.size(1);
    p.from = put<S>(sum);
    p.add = true;
    p.to = to;
    pass(a.size(1), b.size(1), p);
  }

 private:
  const Tensor& on_;
  std::vector<Tensor> weights_;           // S
  std::vector<Tensor> scale_, pull_;      // T [2, width] of measured norms: scale and shift; level and slope of z
  std::vector<Tensor> sums_, bias_sums_;  // [2, width]
  Tensor gate_sums_;

  // The number decides about the last bits of sums, so it follows from sizes alone.
  int64_t rows_at_a_time(int64_t rows, bool keep) const {
    int64_t widest = edges ? layers[0].width() : layers[0].inputs(), all = edges ? 0 : layers[0].inputs();
    for (const Layer& l : layers) widest = std::max(widest, l.width()), all += 2 * l.width();
    if (gate_at >= 0) all += layers[size_t(gate_at)].width();
    int64_t bytes = more + (keep ? all + 2 * widest : 2 * widest) * int64_t(sizeof(S));
    bytes += (edges ? layers[0].width() : 2) * int64_t(sizeof(T)) + 2 * widest * int64_t(sizeof(double)) / kTileGroup;
    const int64_t fit = std::max<int64_t>(tile_workspace() / bytes, 1);
    return std::max<int64_t>(std::min(rows, fit < 128 ? fit : fit / 128 * 128), 1);
  }

  static Tensor rounded(const Tensor& t) {
    return torch::stable::to(torch::stable::to(t, ScalarType::BFloat16), t.scalar_type());
  }
  TileNormFold<T> fold(size_t l, int64_t rows) const {
    const Layer& layer = layers[l];
    TileNormFold<T> f;
    f.width = layer.width();
    f.rows = rows;
    f.mean = layer.mean;
    f.variance = layer.variance;
    f.running_mean = layer.running_mean;
    f.unbiased = layer.unbiased;
    f.gamma = layer.gamma;
    f.beta = layer.beta;
    f.eps = layer.o.eps;
    f.scale = put<T>(scale_[l]);
    f.shift = f.scale + layer.width();
    return f;
  }
  template <class Pass>
  Pass normed(size_t l, const Tensor& z) const {
    const Layer& layer = layers[l];
    Pass p;
    p.width = layer.width();
    p.z = put<S>(z);
    p.bias = edges && l == 0 ? nullptr : layer.bias;
    if (layer.measured()) p.scale = put<T>(scale_[l]), p.shift = p.scale + layer.width();
    p.layer_norm = layer.o.norm == NormKind::layer;
    p.eps = layer.o.eps;
    p.gamma = layer.gamma;
    p.beta = layer.beta;
    p.activation = layer.o.activation;
    p.slope = layer.o.slope;
    return p;
  }

  Tensor multiplied(const Tile& tile, size_t l, const Tensor& h) const {
    const Tensor z = kept.defined() ? kept_of(tile, l) : room({tile.rows, layers[l].width()});
    if (!was_kept && !(edges && l == 0))
      Device::template linear<S>(round_from <= l && l < round_to ? rounded(h) : h, weights_[l], std::nullopt, z);
    return z;
  }
  Tensor kept_of(const Tile& tile, size_t l) const {
    int64_t at = 0;
    for (size_t k = 0; k < l; ++k) at += kept_rows * layers[k].width();
    Tensor whole = kept;
    const int64_t width = layers[l].width();
    return torch::stable::view(torch::stable::narrow(whole, 0, at + tile.begin * width, tile.rows * width),
                               {tile.rows, width});
  }
  Tensor layer(Tile& tile, size_t l, const Tensor& h, bool keep) const {
    const Tensor z = multiplied(tile, l, h);
    const Tensor out = keep || kept.defined() ? room({tile.rows, layers[l].width()}) : z;
    auto p = normed<TileLayer<S, T>>(l, z);
    if (edges && l == 0 && !was_kept) {
      p.product = tile.product.defined() ? put<T>(tile.product) : nullptr;
      p.table[0] = tile.table[0], p.table[1] = tile.table[1];
      p.end[0] = put<int64_t>(tile.receiver), p.end[1] = put<int64_t>(tile.sender);
    }
    p.out = put<S>(out);
    pass(tile.rows, p.width, p);
    if (keep) tile.z.push_back(z), tile.out.push_back(out);
    if (int(l) != gate_at) return out;
    tile.gated = keep ? room({tile.rows, p.width}) : out;
    auto gate = gating(out);
    gate.out = put<S>(tile.gated);
    pass(tile.rows, p.width, gate);
    return tile.gated;
  }
  TileGate<S, T> gating(const Tensor& m) const {
    TileGate<S, T> g;
    g.width = m.size(1);
    g.m = put<S>(m);
    g.weight = gate_weight;
    g.bias = gate_bias;
    return g;
  }

  // Sums over the tile's rows of g, and of g times what p says of z, are added to sums.
  void add_sums(const Tensor& g, const TileNormed<S, T>* p, const T* stats, const Tensor& sums) const {
    const int64_t width = sums.size(1), rows = g.size(0);
    const Tensor partial = doubles({tile_groups(rows, kTileGroup), 2, width});
    TileSums<S, T> s;
    s.rows = rows;
    s.width = width;
    s.g = put<S>(g);
    s.of_row = g.size(1) != width;
    if (p) s.z = p->z, s.bias = p->bias, s.stats = stats;
    s.partial = put<double>(partial);
    pass(partial.size(0), kTileGroup * width, s);
    TileMerge merge;
    merge.groups = partial.size(0);
    merge.columns = 2 * width;
    merge.partial = put<double>(partial);
    merge.sums = put<double>(sums);
    pass(2 * width, merge.groups, merge);
  }

  // Back to layer `until`: all of it, with gradients of parameters; or to its norm, with the sums that it asks for.
  template <class G>
  Tensor pull(Tile& tile, size_t until, bool last, G&& seed) {
    Tensor g;
    for (size_t l = layers.size(); l-- > until;) {
      const Layer& layer = layers[l];
      const bool for_norm = !last && l == until;
      g = seed(tile, l, g);
      if (!g.defined()) {
        if (for_norm || !layer.measured()) continue;
        g = room({tile.rows, layer.width()});
        torch::stable::zero_(g);
      }
      if (int(l) == gate_at) pull_gate(tile.out[l], g, last);
      auto slope = normed<TileSlope<S, T>>(l, tile.z[l]);
      const Tensor stats = like({slope.layer_norm ? tile.rows : 0, 2});
      slope.grad = put<S>(g);
      slope.stats = put<T>(stats);
      pass(tile.rows, slope.width, slope);
      if (for_norm || (last && slope.layer_norm && (layer.grad_gamma || layer.grad_beta)))
        add_sums(g, &slope, slope.layer_norm ? slope.stats : nullptr, sums_[l]);
      if (for_norm) return g;
      if (layer.measured() || slope.layer_norm) {
        auto norm = normed<TileThroughNorm<S, T>>(l, tile.z[l]);
        norm.grad = put<S>(g);
        norm.stats = put<T>(stats);
        if (layer.measured()) norm.level = put<T>(pull_[l]), norm.slope_of_z = norm.level + norm.width;
        pass(tile.rows, norm.width, norm);
      }
      if (last && layer.grad_bias) add_sums(g, nullptr, nullptr, bias_sums_[l]);
      if (edges && l == 0) break;
      if (last && layer.grad_weight)
        add_outer(g, l == 0 ? tile.input : int(l) - 1 == gate_at ? tile.gated : tile.out[l - 1], layer.grad_weight);
      if (l == until) break;
      const Tensor next = room({tile.rows, layer.inputs()});
      Device::template product<S>(g, weights_[l], next);
      g = next;
    }
    return g;
  }
  void pull_gate(const Tensor& m, const Tensor& g, bool last) {
    const Tensor q = room({m.size(0), 1});
    auto gate = gating(m);
    gate.grad = put<S>(g);
    gate.pull = put<S>(q);
    pass(m.size(0), gate.width, gate);
    if (!last) return;
    TileNormed<S, T> of_m;
    of_m.z = put<S>(m);
    add_sums(q, &of_m, nullptr, gate_sums_);
  }
};

}  // namespace ek
