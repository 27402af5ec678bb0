// The row_mlp op for any device. Layer by layer, each one's output kept, it runs on the CPU alone.
#pragma once

#include "../pairs/rows.h"
#include "layer_ops.h"
#include "row_activation.h"
#include "row_mlp.h"
#include "row_tiles.h"

namespace ek {

template <class Device>
class RowMlp : LayerOps<Device, RowMlpInputs> {
  using Base = LayerOps<Device, RowMlpInputs>;
  using Base::bias;
  using Base::copy;
  using Base::depth;
  using Base::doubles;
  using Base::empty;
  using Base::in;
  using Base::pass;
  using Base::weight;
  using typename Base::Optional;
  using typename Base::Optionals;
  template <class T>
  static T* put(const Tensor& t) {
    return Base::template put<T>(t);
  }

 public:
  // out; mean and variance of measured norms, side by side (float64 [2, C]), and as running averages want them; what
  // backward reads again: the outputs of layers, one after the other.
  static std::vector<Tensor> forward(const Optionals& tensors, const Tensor&, int64_t rows, int64_t,
                                     const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    RowMlp op(tensors, rows, ints, numbers);
    typename Device::Guard guard(op.in.like());
    std::vector<Tensor> out;
    dispatch_floating(op.in.like().scalar_type(), "row_mlp",
                      [&](auto zero) { out = op.template run<decltype(zero)>(); });
    return out;
  }

  static std::vector<Tensor> backward(const Optionals& grads, const Optionals& tensors,
                                      const std::vector<Tensor>& saved, const Tensor&, int64_t rows, int64_t,
                                      const std::vector<int64_t>& ints, const std::vector<double>& numbers,
                                      const std::vector<bool>& wanted) {
    RowMlp op(tensors, rows, ints, numbers);
    STD_TORCH_CHECK(grads.size() == 2 && saved.size() == 2 && wanted.size() == tensors.size(),
                    "row_mlp_backward: grads, saved, wanted: unexpected sizes");
    typename Device::Guard guard(op.in.like());
    std::vector<Tensor> out;
    dispatch_floating(op.in.like().scalar_type(), "row_mlp", [&](auto zero) {
      out = op.template run_backward<decltype(zero)>(grads, tensors, saved, wanted);
    });
    return out;
  }

 private:
  const RowMlpOptions& o = in.options;
  const int64_t rows;
  Tensor input;  // the tables side by side
  Tensor kept;   // backward: the outputs of layers
  double* statistics = nullptr;
  int64_t measured_width = 0;

  RowMlp(const Optionals& tensors, int64_t count, const std::vector<int64_t>& ints, const std::vector<double>& numbers)
      : Base(tensors, count, RowMlpOptions(ints, numbers)), rows(count) {
    for (size_t l = 0; l < depth(); ++l)
      if (o.layers[l].norm == NormKind::batch) measured_width += in.width(l);
  }

  int64_t inputs(size_t l) const { return l ? in.width(l - 1) : in.columns; }
  // A layer whose activation the products apply, and whose output tells its derivative.
  bool sloped(size_t l) const {
    const Activation a = o.layers[l].activation;
    return o.layers[l].norm != NormKind::batch && (a == Activation::identity || a == Activation::relu ||
                                                   (a == Activation::leaky_relu && o.layers[l].slope > 0));
  }
  template <class T>
  T slope(size_t l) const {
    const LayerOptions& layer = o.layers[l];
    if (!sloped(l) || layer.activation == Activation::identity) return T(1);
    return layer.activation == Activation::relu ? T(0) : T(layer.slope);
  }
  // Where a layer's output begins in `kept`, in columns of `rows` numbers; the last one's is kept where its derivative
  // needs it.
  int64_t kept_before(size_t l) const {
    int64_t at = 0;
    for (size_t k = 0; k < l; ++k) at += in.width(k);
    return at;
  }
  bool last_kept() const { return !(sloped(depth() - 1) && o.layers[depth() - 1].activation == Activation::identity); }
  int64_t kept_columns() const {
    return o.plan != RowPlan::layers ? 0 : kept_before(depth() - 1 + (last_kept() ? 1 : 0));
  }

  template <class T>
  void prepare() {
    this->template fold<T>();
    input = in.tables[0];
    if (in.tables.size() == 1) return;
    input = empty({rows, in.columns});
    int64_t at = 0;
    for (const Tensor& t : in.tables) {
      copy(put<T>(t), t.size(1), put<T>(input) + at, in.columns, rows, t.size(1));
      at += t.size(1);
    }
  }

  template <class T>
  std::vector<Tensor> run() {
    prepare<T>();
    Tensor out = empty({rows, in.width(depth() - 1)}), moments = empty({0}), mean = empty({0}), unbiased = empty({0});
    kept = empty({rows * kept_columns()});
    if (o.measured()) {
      moments = doubles({2, measured_width});
      mean = empty({measured_width});
      unbiased = empty({measured_width});
    }
    if (o.plan == RowPlan::lanes) {
      const Tensor packed = pack<T>();
      auto args = lanes_args<T>(packed);
      args.edges = put<T>(out);
      Device::Edges::template edge_network_forward<T, T>(in.like(), args);
    } else if (o.plan == RowPlan::tiles) {
      this->template with_storage<T>(o.storage, [&](auto zero) {
        RowTiles<Device, decltype(zero), T> tiles(in, weight, bias, input, moments);
        tiles.forward(put<T>(out), put<T>(mean), put<T>(unbiased));
      });
    } else if constexpr (!Device::cuda) {
      run_layers<T>(out, moments, put<T>(mean), put<T>(unbiased));
    } else {
      STD_TORCH_CHECK(false, "row_mlp: options: expected the plan of row_mlp_plan");
    }
    if (in.residual) copy(put<T>(*in.residual), 0, put<T>(out), 0, 1, rows * out.size(1), true);
    return {out, moments, mean, unbiased, kept};
  }

  // --- lanes across rows ---
  template <class T>
  Tensor pack() const {
    int64_t size = 0;
    for (size_t l = 0; l < depth(); ++l) size += in.width(l) * (inputs(l) + 1);
    Tensor packed = this->zeros({size});
    T* p = put<T>(packed);
    for (size_t l = 0; l < depth(); ++l) {
      const int64_t count = in.width(l) * inputs(l);
      copy(put<T>(weight[l]), 0, p, 0, 1, count);
      if (bias[l]) copy(put<T>(*bias[l]), 0, p + count, 0, 1, in.width(l));
      p += count + in.width(l);
    }
    return packed;
  }
  template <class T>
  EdgeNetworkArgs<T, T> lanes_args(const Tensor& packed) const {
    EdgeNetworkArgs<T, T> a;
    a.rows = rows;
    a.interval = a.product = false;
    a.edge_width = in.columns;
    a.edge_attr = put<T>(input);
    a.mean_coordinates = false;
    a.layers = int(depth());
    for (size_t l = 0; l < depth(); ++l) {
      a.channels[l] = in.width(l);
      a.step[l] = {o.layers[l].activation, o.layers[l].norm == NormKind::layer};
      if (o.layers[l].activation == Activation::leaky_relu) a.slope = o.layers[l].slope;
    }
    a.weights = put<T>(packed);
    a.edges_at = int(depth()) - 1;
    return a;
  }

  // --- layer by layer ---
  // scale and shift of a measured norm, from its statistics
  template <class T>
  void scale_and_shift(size_t l, const double* moments, T* scale, T* shift) const {
    const LayerTensors& t = in.layers[l];
    const T *gamma = pointer<T>(t.norm_weight), *beta = pointer<T>(t.norm_bias);
    for (int64_t c = 0; c < in.width(l); ++c) {
      const double s = (gamma ? double(gamma[c]) : 1) / std::sqrt(moments[measured_width + c] + o.layers[l].eps);
      scale[c] = T(s);
      shift[c] = T((beta ? double(beta[c]) : 0) - moments[c] * s);
    }
  }
  template <class T>
  RowActivationArgs<T> activation_args(size_t l, const T* z, const Tensor& affine, const double* moments) const {
    RowActivationArgs<T> a{rows, in.width(l), z};
    a.activation = o.layers[l].activation;
    a.slope = o.layers[l].slope;
    if (o.layers[l].norm != NormKind::batch) return a;
    T* p = put<T>(affine);
    scale_and_shift<T>(l, moments, p, p + in.width(l));
    a.scale = p;
    a.shift = p + in.width(l);
    return a;
  }

  template <class T>
  void run_layers(const Tensor& out, const Tensor& moments, T* running_mean, T* unbiased) {
    Tensor h = input, spare;
    int64_t norm = 0;
    for (size_t l = 0; l < depth(); ++l) {
      const bool last = l + 1 == depth(), measured = o.layers[l].norm == NormKind::batch;
      const int64_t width = in.width(l);
      const bool keep = !last || last_kept();
      T* z = keep ? put<T>(kept) + rows * kept_before(l) : put<T>(out);
      Tensor of_layer = measured ? doubles({2, width}) : Tensor();
      RowsLayerArgs<T> a{rows, inputs(l), width, put<T>(h), put<T>(weight[l]), pointer<T>(bias[l])};
      a.slope = slope<T>(l);
      a.out = z;
      a.moments = measured ? put<double>(of_layer) : nullptr;
      Device::Rows::rows_layer(a);
      if (measured) {
        double* m = put<double>(moments) + norm;
        for (int64_t c = 0; c < width; ++c) {
          const double mean = a.moments[c], variance = a.moments[width + c];
          m[c] = mean;
          m[measured_width + c] = variance;
          running_mean[norm + c] = T(mean);
          unbiased[norm + c] = T(variance * double(rows) / double(rows > 1 ? rows - 1 : 1));
        }
      }
      if (sloped(l)) {
        if (last && keep) copy(z, 0, put<T>(out), 0, 1, rows * width);
        if (!last) h = view_of(kept, rows * kept_before(l));
      } else {
        const Tensor y = last ? out : empty({rows, width});
        const Tensor affine = empty({2, width});
        auto act = activation_args<T>(l, z, affine, put<double>(moments) + norm);
        act.out = put<T>(y);
        Device::activate(act);
        h = y;
      }
      if (measured) norm += width;
    }
  }
  // Row products read from the beginning of a tensor: the part of one from `offset` on.
  static Tensor view_of(const Tensor& t, int64_t offset) {
    Tensor whole = t;
    return torch::stable::narrow(whole, 0, offset, t.numel() - offset);
  }

  using Gradients = RowGradients;

  template <class T>
  std::vector<Tensor> run_backward(const Optionals& grads, const Optionals& tensors, const std::vector<Tensor>& saved,
                                   const std::vector<bool>& wanted) {
    prepare<T>();
    kept = saved[1];
    Optional g = grads[0], to_statistics = grads[1];
    match("row_mlp_backward", g, "grads", in.like(), "the output", {rows, in.width(depth() - 1)});
    if (!g) g = this->zeros({rows, in.width(depth() - 1)});
    if (o.measured())
      match("row_mlp_backward", to_statistics, "grads", saved[0], "the statistics", {2, measured_width});
    bool of_tables = false;
    for (int k = 0; k < RowMlpInputs::kTables; ++k) of_tables = of_tables || wanted[k];
    Gradients to(in, of_tables);
    if (o.plan == RowPlan::lanes) {
      lanes_backward<T>(*g, to, of_tables);
    } else if (o.plan == RowPlan::tiles) {
      this->template with_storage<T>(o.storage, [&](auto zero) {
        RowTiles<Device, decltype(zero), T> tiles(in, weight, bias, input, saved[0]);
        tiles.backward(put<T>(*g), pointer<double>(to_statistics), to, of_tables);
      });
    } else if constexpr (!Device::cuda) {
      layers_backward<T>(*g, saved[0], o.measured() ? pointer<double>(to_statistics) : nullptr, to, of_tables);
    }
    for (size_t l = 0; l < depth(); ++l) {
      if (o.layers[l].norm != NormKind::given) continue;
      FoldNormGradient<T> f{this->template fold_of<T>(l), put<T>(to.weight[l]), put<T>(to.bias[l])};
      if (in.layers[l].norm_weight) f.grad_norm_weight = put<T>(to.norm_weight[l]);
      if (in.layers[l].norm_bias) f.grad_norm_bias = put<T>(to.norm_bias[l]);
      f.grad_mean = put<T>(to.mean[l]);
      f.grad_variance = put<T>(to.variance[l]);
      pass(in.width(l), f.fold.inputs, f);
    }
    return listed<T>(*g, tensors, to, wanted);
  }

  template <class T>
  std::vector<Tensor> listed(const Tensor& g, const Optionals& tensors, const Gradients& to,
                             const std::vector<bool>& wanted) const {
    std::vector<Tensor> out;
    int64_t at = 0;
    for (size_t k = 0; k < RowMlpInputs::kTables; ++k) {
      const int64_t width = tensors[k] ? tensors[k]->size(1) : 0;
      if (wanted[k]) {
        out.push_back(empty({rows, width}));
        copy(put<T>(to.input) + at, in.columns, put<T>(out.back()), width, rows, width);
      }
      at += width;
    }
    if (wanted[RowMlpInputs::kTables]) out.push_back(torch::stable::clone(g));
    size_t k = RowMlpInputs::kFirst;
    for (size_t l = 0; l < depth(); ++l)
      for (const auto* of : {&to.weight, &to.bias, &to.norm_weight, &to.norm_bias, &to.mean, &to.variance})
        if (wanted[k++]) out.push_back((*of)[l]);
    return out;
  }

  template <class T>
  void lanes_backward(const Tensor& g, Gradients& to, bool of_tables) {
    const Tensor packed = pack<T>(), to_packed = empty({packed.size(0)});
    auto a = lanes_args<T>(packed);
    a.grad_edges = put<T>(g);
    a.grad_edge_attr = of_tables ? put<T>(to.input) : nullptr;
    a.grad_weights = put<T>(to_packed);
    Device::Edges::template edge_network_backward<T, T>(in.like(), a);
    T* p = put<T>(to_packed);
    for (size_t l = 0; l < depth(); ++l) {
      const int64_t count = in.width(l) * inputs(l);
      copy(p, 0, put<T>(to.weight[l]), 0, 1, count);
      copy(p + count, 0, put<T>(to.bias[l]), 0, 1, in.width(l));
      p += count + in.width(l);
    }
  }

  template <class T>
  void layers_backward(const Tensor& grad, const Tensor& moments, const double* to_statistics, Gradients& to,
                       bool of_tables) {
    Tensor g = grad;
    int64_t norm = measured_width;
    for (size_t l = depth(); l-- > 0;) {
      const bool last = l + 1 == depth(), measured = o.layers[l].norm == NormKind::batch;
      const int64_t width = in.width(l);
      if (measured) norm -= width;
      // what this layer read: made again where its activation was not kept
      const Tensor h = l == 0 ? input : output_of<T>(l - 1, put<double>(moments) + norm - norm_width(l - 1));
      T* z = last && !last_kept() ? nullptr : put<T>(kept) + rows * kept_before(l);
      RowsLayerArgs<T> a{rows, inputs(l), width, put<T>(h), put<T>(weight[l])};
      Tensor level, slope_of_z;
      if (!sloped(l)) {
        Tensor through = empty({rows, width});
        copy(put<T>(g), 0, put<T>(through), 0, 1, rows * width);
        const Tensor affine = empty({2, width});
        auto act = activation_args<T>(l, z, affine, put<double>(moments) + norm);
        act.grad = put<T>(through);
        const Tensor sums = doubles({2, width});
        Device::activate_backward(act, put<double>(sums));
        g = through;
        if (measured) {
          level = empty({width}), slope_of_z = empty({width});
          norm_gradients<T>(l, put<double>(moments) + norm, put<double>(sums),
                            to_statistics ? to_statistics + norm : nullptr, to, put<T>(level), put<T>(slope_of_z));
          a.to_mean = put<T>(level);
          a.to_out = put<T>(slope_of_z);
        }
      }
      a.slope = slope<T>(l);
      a.grad = put<T>(g);
      a.out = a.to_out || a.slope != T(1) ? z : put<T>(g);
      const Tensor to_h = l == 0 ? to.input : empty({rows, inputs(l)});
      a.grad_x = l > 0 || of_tables ? put<T>(to_h) : nullptr;
      a.grad_weight = put<T>(to.weight[l]);
      a.grad_bias = put<T>(to.bias[l]);
      Device::Rows::rows_layer_backward(a);
      g = to_h;
    }
  }
  int64_t norm_width(size_t l) const { return o.layers[l].norm == NormKind::batch ? in.width(l) : 0; }

  template <class T>
  Tensor output_of(size_t l, const double* moments) const {
    const Tensor z = view_of(kept, rows * kept_before(l));
    if (sloped(l)) return z;
    const Tensor y = empty({rows, in.width(l)}), affine = empty({2, in.width(l)});
    auto act = activation_args<T>(l, put<T>(z), affine, moments);
    act.out = put<T>(y);
    Device::activate(act);
    return y;
  }

  // Gradients of a measured norm's parameters; what its statistics bring to the gradient of z: level + slope z.
  template <class T>
  void norm_gradients(size_t l, const double* moments, const double* sums, const double* to_statistics, Gradients& to,
                      T* level, T* slope_of_z) const {
    const int64_t width = in.width(l);
    const T* gamma = pointer<T>(in.layers[l].norm_weight);
    const double count = double(rows > 1 ? rows : 1);
    for (int64_t c = 0; c < width; ++c) {
      const double mean = moments[c], rate = 1 / std::sqrt(moments[measured_width + c] + o.layers[l].eps);
      const double gain = gamma ? double(gamma[c]) : 1, shift = sums[c], scale = sums[width + c] - shift * mean;
      if (in.layers[l].norm_weight) put<T>(to.norm_weight[l])[c] = T(scale * rate);
      if (in.layers[l].norm_bias) put<T>(to.norm_bias[l])[c] = T(shift);
      double to_mean = -shift * gain * rate, to_variance = -0.5 * scale * gain * rate * rate * rate;
      if (to_statistics) {
        to_mean += to_statistics[c];
        to_variance += to_statistics[measured_width + c];
      }
      slope_of_z[c] = T(2 * to_variance / count);
      level[c] = T((to_mean - 2 * to_variance * mean) / count);
    }
  }
};

}  // namespace ek
