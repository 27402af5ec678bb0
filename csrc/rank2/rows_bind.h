// From tensors to the products of rows, for any device.
#pragma once

#include <tuple>

#include "../core/tensor.h"
#include "rows.h"

namespace ek {

inline constexpr const char* kRowsProductSchema = "rows_product(Tensor x, Tensor weight) -> Tensor";
inline constexpr const char* kRowsOuterSchema = "rows_outer(Tensor x, Tensor grad) -> Tensor";

// moments: mean and biased variance of out's channels, float64 [2, width]; empty where not wanted.
inline constexpr const char* kRowsLayerSchema =
    "rows_layer(Tensor x, Tensor weight, Tensor? bias, float slope, bool moments) -> (Tensor, Tensor)";
// What reaches out's gradient is grad + to_mean + to_out * out. wanted: the gradients of x, of weight and bias; empty
// where not wanted.
inline constexpr const char* kRowsLayerBackwardSchema =
    "rows_layer_backward(Tensor? grad, Tensor? to_mean, Tensor? to_out, Tensor out, Tensor x, Tensor weight, float "
    "slope, bool[] wanted) -> (Tensor, Tensor, Tensor)";

// Mean and biased variance of x's channels, float64 [2, channels]; scale x + shift, channel by channel.
inline constexpr const char* kRowMomentsSchema = "row_moments(Tensor x) -> Tensor";
inline constexpr const char* kRowAffineSchema = "row_affine(Tensor x, Tensor scale, Tensor shift) -> Tensor";

template <class Device>
class RowProducts {
  using Optional = std::optional<Tensor>;

 public:
  static Tensor product(const Tensor& x, const Tensor& weight) { return run(x, weight, false); }
  static Tensor outer(const Tensor& x, const Tensor& grad) { return run(x, grad, true); }

  static std::tuple<Tensor, Tensor> layer(const Tensor& x, const Tensor& weight, Optional bias, double slope,
                                          bool want_moments) {
    Layer layer{"rows_layer", x, weight};
    typename Device::Guard guard(x);
    layer.match(bias, "bias", {layer.width});
    Tensor out = torch::stable::new_empty(x, {layer.rows, layer.width});
    Tensor moments = torch::stable::new_empty(
        x, want_moments ? std::vector<int64_t>{2, layer.width} : std::vector<int64_t>{0}, ScalarType::Double);
    dispatch_floating(x.scalar_type(), layer.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = layer.template args<T>(slope);
      args.bias = pointer<T>(bias);
      args.out = out.mutable_data_ptr<T>();
      if (want_moments) args.moments = moments.mutable_data_ptr<double>();
      Device::rows_layer(args);
    });
    return {out, moments};
  }

  static Tensor moments(const Tensor& x_in) {
    const char* op = "row_moments";
    check_shape(x_in, op, "x", {-1, -1});
    typename Device::Guard guard(x_in);
    const Tensor x = as_contiguous(x_in);
    Tensor out = torch::stable::new_empty(x, {2, x.size(1)}, ScalarType::Double);
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      Device::row_moments(
          RowMomentsArgs<T>{x.size(0), x.size(1), x.const_data_ptr<T>(), out.mutable_data_ptr<double>()});
    });
    return out;
  }

  static Tensor affine(const Tensor& x_in, const Tensor& scale_in, const Tensor& shift_in) {
    const char* op = "row_affine";
    check_shape(x_in, op, "x", {-1, -1});
    typename Device::Guard guard(x_in);
    const Tensor x = as_contiguous(x_in);
    Optional scale = scale_in, shift = shift_in;
    ek::match(op, scale, "scale", x, "x", {x.size(1)});
    ek::match(op, shift, "shift", x, "x", {x.size(1)});
    Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      Device::row_affine(RowAffineArgs<T>{x.size(0), x.size(1), x.const_data_ptr<T>(), pointer<T>(scale),
                                          pointer<T>(shift), out.mutable_data_ptr<T>()});
    });
    return out;
  }

  static std::tuple<Tensor, Tensor, Tensor> layer_backward(Optional grad, Optional to_mean, Optional to_out,
                                                           const Tensor& out_in, const Tensor& x, const Tensor& weight,
                                                           double slope, const std::vector<bool>& wanted) {
    Layer layer{"rows_layer_backward", x, weight};
    typename Device::Guard guard(x);
    STD_TORCH_CHECK(wanted.size() == 2, layer.op, ": wanted: expected two entries");
    Optional out = out_in;
    layer.match(out, "out", {layer.rows, layer.width});
    layer.match(grad, "grad", {layer.rows, layer.width});
    layer.match(to_mean, "to_mean", {layer.width});
    layer.match(to_out, "to_out", {layer.width});
    auto make = [&](bool want, std::vector<int64_t> shape) {
      return torch::stable::new_empty(x, want ? shape : std::vector<int64_t>{0});
    };
    Tensor grad_x = make(wanted[0], {layer.rows, layer.in}), grad_weight = make(wanted[1], {layer.width, layer.in});
    Tensor grad_bias = make(wanted[1], {layer.width});
    dispatch_floating(x.scalar_type(), layer.op, [&](auto zero) {
      using T = decltype(zero);
      auto args = layer.template args<T>(slope);
      args.out = const_cast<T*>(pointer<T>(out));
      args.grad = pointer<T>(grad);
      args.to_mean = pointer<T>(to_mean);
      args.to_out = pointer<T>(to_out);
      if (wanted[0]) args.grad_x = grad_x.mutable_data_ptr<T>();
      if (wanted[1]) args.grad_weight = grad_weight.mutable_data_ptr<T>();
      if (wanted[1]) args.grad_bias = grad_bias.mutable_data_ptr<T>();
      Device::rows_layer_backward(args);
    });
    return {grad_x, grad_weight, grad_bias};
  }

 private:
  struct Layer {
    const char* op;
    Tensor x, weight;
    int64_t rows, in, width;

    Layer(const char* name, const Tensor& x_in, const Tensor& weight_in) : op(name), x(x_in), weight(weight_in) {
      check_shape(x, op, "x", {-1, -1});
      check_shape(weight, op, "weight", {-1, x.size(1)});
      STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type(), op, ": weight: expected the dtype of x");
      x = as_contiguous(x);
      weight = as_contiguous(weight);
      rows = x.size(0), in = x.size(1), width = weight.size(0);
    }
    void match(Optional& t, const char* name, std::vector<int64_t> shape) const {
      ek::match(op, t, name, x, "x", std::move(shape));
    }
    template <class T>
    RowsLayerArgs<T> args(double slope) const {
      RowsLayerArgs<T> a{rows, in, width, x.const_data_ptr<T>(), weight.const_data_ptr<T>()};
      a.slope = T(slope);
      return a;
    }
  };

  static Tensor run(const Tensor& x_in, const Tensor& other_in, bool outer) {
    const char* op = outer ? "rows_outer" : "rows_product";
    check_shape(x_in, op, "x", {-1, -1});
    check_shape(other_in, op, outer ? "grad" : "weight", {x_in.size(outer ? 0 : 1), -1});
    STD_TORCH_CHECK(x_in.scalar_type() == other_in.scalar_type(), op, ": expected tensors of one dtype");
    typename Device::Guard guard(x_in);
    const Tensor x = as_contiguous(x_in), other = as_contiguous(other_in);
    const int64_t rows = x.size(0), in = x.size(1), width = other.size(1);
    Tensor out = torch::stable::new_empty(x, {outer ? in : rows, width});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      RowsArgs<T> args{rows, in, width, x.const_data_ptr<T>()};
      (outer ? args.grad : args.weight) = other.const_data_ptr<T>();
      args.out = out.mutable_data_ptr<T>();
      outer ? Device::rows_outer(args) : Device::rows_product(args);
    });
    return out;
  }
};

}  // namespace ek
