// Rows (of pairs, of particles) on the CPU: products with small matrices, a linear layer with its activation and the
// batch norm behind it, and the norm.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu.h"
#include "rows.h"
#include "rows_inputs.h"

namespace ek {

struct RowsOnCpu : Rank2OnCpu {
  static Tensor product(const Tensor& x, const Tensor& weight) { return multiply("rows_product", x, weight, false); }
  static Tensor outer(const Tensor& x, const Tensor& grad) { return multiply("rows_outer", x, grad, true); }

  static Tensor affine(const Tensor& x_in, const Tensor& scale_in, const Tensor& shift_in) {
    const char* op = "row_affine";
    check_shape(x_in, op, "x", {-1, -1});
    const Tensor x = as_contiguous(x_in);
    OptionalTensor scale = scale_in, shift = shift_in;
    ek::match(op, scale, "scale", x, "x", {x.size(1)});
    ek::match(op, shift, "shift", x, "x", {x.size(1)});
    Tensor out = make(x, true, {x.size(0), x.size(1)});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      row_affine(RowAffineArgs<T>{x.size(0), x.size(1), x.const_data_ptr<T>(), pointer<T>(scale), pointer<T>(shift),
                                  out.mutable_data_ptr<T>()});
    });
    return out;
  }

  static std::vector<Tensor> network(const Optionals& tensors, const Tensor&, int64_t, int64_t,
                                     const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    const NetworkInputs n("rows_network", tensors, ints, numbers);
    Tensor out = make(n.x, n.weight.has_value(), {n.rows, n.width});
    Tensor affine = make(n.x, n.norm != Norm::none, {2, n.width});
    Tensor running = make(n.x, n.of_batch(), {2, n.width});
    Tensor moments = uninitialised(n.x, n.shape_of_moments(), ScalarType::Double);
    dispatch_floating(n.x.scalar_type(), n.op, [&](auto zero) {
      using T = decltype(zero);
      double* statistics = n.of_batch() ? moments.mutable_data_ptr<double>() : nullptr;
      if (n.weight) {
        auto args = layer_args<T>(n);
        args.out = out.mutable_data_ptr<T>();
        args.moments = statistics;
        rows_layer(args);
      } else if (statistics) {
        row_moments(RowMomentsArgs<T>{n.rows, n.in, n.x.const_data_ptr<T>(), statistics});
      }
      if (n.of_batch()) {
        make_affine(n, statistics, statistics + n.width, affine.mutable_data_ptr<T>());
        T* to = running.mutable_data_ptr<T>();
        const double unbiased = double(n.rows) / double(n.rows - 1);
        for (int64_t c = 0; c < n.width; ++c) {
          to[c] = T(statistics[c]);
          to[n.width + c] = T(statistics[n.width + c] * unbiased);
        }
      } else if (n.norm == Norm::running) {
        make_affine(n, pointer<T>(n.mean), pointer<T>(n.variance), affine.mutable_data_ptr<T>());
      }
    });
    return {out, affine, moments, running};
  }

  static std::vector<Tensor> network_backward(const Optionals& grads, const Optionals& tensors,
                                              const std::vector<Tensor>& saved, const Tensor&, int64_t, int64_t,
                                              const std::vector<int64_t>& ints, const std::vector<double>& numbers,
                                              const std::vector<bool>& wanted) {
    const NetworkInputs n("rows_network_backward", tensors, ints, numbers);
    STD_TORCH_CHECK(grads.size() == 2 && saved.size() == 2 && wanted.size() == n.kTensors, n.op,
                    ": grads, saved, wanted: unexpected sizes");
    const bool linear = n.weight.has_value();
    OptionalTensor grad = grads[0], grad_affine = grads[1], out = linear ? saved[0] : n.x;
    const Tensor moments = saved[1];
    n.match(out, "out", {n.rows, n.width});
    n.match(grad, "grad", {n.rows, n.width});
    n.match(grad_affine, "grad_affine", {2, n.width});
    check_shape(moments, n.op, "moments", n.shape_of_moments());
    const bool of_x = wanted[0], of_weight = linear && (wanted[1] || wanted[2]);
    Tensor to_x = make(n.x, of_x, {n.rows, n.in}), to_weight = make(n.x, of_weight, {n.width, n.in});
    std::vector<Tensor> found{to_x, to_weight};  // the others are vectors [width]
    for (size_t k = 2; k < n.kTensors; ++k) found.push_back(make(n.x, k == 2 ? of_weight : wanted[k], {n.width}));
    dispatch_floating(n.x.scalar_type(), n.op, [&](auto zero) {
      using T = decltype(zero);
      const Buffer to_out(2 * n.width * int64_t(sizeof(T)));
      Through<T> t{static_cast<T*>(to_out.p)};
      for (size_t k = 3; k < n.kTensors; ++k)
        if (wanted[k]) t.to[k - 3] = found[k].template mutable_data_ptr<T>();
      through_norm(n, pointer<T>(grad_affine), moments, t);
      if (!linear) {
        if (of_x)
          row_affine(RowAffineArgs<T>{n.rows, n.in, n.x.const_data_ptr<T>(), t.statistics + n.width, t.statistics,
                                      to_x.mutable_data_ptr<T>()});
        return;
      }
      auto args = layer_args<T>(n);
      args.out = const_cast<T*>(pointer<T>(out));
      args.grad = pointer<T>(grad);
      if (n.of_batch()) args.to_mean = t.statistics, args.to_out = t.statistics + n.width;
      if (of_x) args.grad_x = to_x.mutable_data_ptr<T>();
      if (of_weight) args.grad_weight = to_weight.mutable_data_ptr<T>();
      if (of_weight) args.grad_bias = found[2].template mutable_data_ptr<T>();
      rows_layer_backward(args);
    });
    return only(found, wanted);
  }

 private:
  template <class T>
  static RowsLayerArgs<T> layer_args(const NetworkInputs& n) {
    RowsLayerArgs<T> a{n.rows, n.in, n.width, n.x.const_data_ptr<T>(), pointer<T>(n.weight), pointer<T>(n.bias)};
    a.slope = T(n.slope);
    return a;
  }

  // Where gradients of the norm go: to gamma, beta, mean and variance as given [width], if wanted, and through the
  // statistics to out, which gets statistics[0] + statistics[1] out, [2, width].
  template <class T>
  struct Through {
    T *statistics, *to[4] = {};
  };

  // scale = gamma / sqrt(variance + eps), shift = beta - mean scale, in the precision of the statistics.
  template <class S, class T>
  static void make_affine(const NetworkInputs& n, const S* mean, const S* variance, T* affine) {
    const T *gamma = pointer<T>(n.gamma), *beta = pointer<T>(n.beta);
    for (int64_t c = 0; c < n.width; ++c) {
      S scale = S(1) / std::sqrt(variance[c] + S(n.eps));
      if (gamma) scale = scale * S(gamma[c]);
      const S moved = mean[c] * scale;
      affine[c] = T(scale);
      affine[n.width + c] = T(beta ? S(beta[c]) - moved : -moved);
    }
  }

  template <class T>
  static void through_norm(const NetworkInputs& n, const T* grad_affine, const Tensor& moments, const Through<T>& to) {
    const T *gamma = pointer<T>(n.gamma), *mean = pointer<T>(n.mean), *variance = pointer<T>(n.variance);
    const double* measured = n.of_batch() ? moments.const_data_ptr<double>() : nullptr;
    const double rows = double(std::max<int64_t>(n.rows, 1));
    for (int64_t c = 0; c < n.width; ++c) {
      const double centre = measured ? measured[c] : mean ? double(mean[c]) : 0;
      double to_mean = 0, to_variance = 0, to_gamma = 0, to_beta = 0;
      if (grad_affine) {
        const double spread = measured ? measured[n.width + c] : double(variance[c]);
        const double inverse = 1 / std::sqrt(spread + n.eps), factor = gamma ? double(gamma[c]) : 1;
        to_beta = double(grad_affine[n.width + c]);
        const double to_scale = double(grad_affine[c]) - to_beta * centre;
        to_gamma = to_scale * inverse;
        to_mean = -to_beta * (inverse * factor);
        to_variance = -0.5 * (to_scale * factor) * (inverse * inverse * inverse);
      }
      const double gradients[] = {to_gamma, to_beta, to_mean, to_variance};
      for (size_t k = 0; k < 4; ++k)
        if (to.to[k]) to.to[k][c] = measured && k > 1 ? T(0) : T(gradients[k]);
      // d mean = d out / rows, d variance = 2 (out - mean) d out / rows
      const double per_mean = measured ? to_mean / rows : 0, per_variance = measured ? to_variance / rows : 0;
      to.statistics[c] = T(per_mean - 2 * per_variance * centre);
      to.statistics[n.width + c] = T(2 * per_variance);
    }
  }

  static Tensor multiply(const char* op, const Tensor& x_in, const Tensor& other_in, bool outer) {
    check_shape(x_in, op, "x", {-1, -1});
    check_shape(other_in, op, outer ? "grad" : "weight", {x_in.size(outer ? 0 : 1), -1});
    STD_TORCH_CHECK(x_in.scalar_type() == other_in.scalar_type(), op, ": expected tensors of one dtype");
    const Tensor x = as_contiguous(x_in), other = as_contiguous(other_in);
    const int64_t rows = x.size(0), in = x.size(1), width = other.size(1);
    Tensor out = make(x, true, {outer ? in : rows, width});
    dispatch_floating(x.scalar_type(), op, [&](auto zero) {
      using T = decltype(zero);
      RowsArgs<T> args{rows, in, width, x.const_data_ptr<T>()};
      (outer ? args.grad : args.weight) = other.const_data_ptr<T>();
      args.out = out.mutable_data_ptr<T>();
      outer ? rows_outer(args) : rows_product(args);
    });
    return out;
  }
};

}  // namespace ek
