// From tensors to the products of rows, for any device.
#pragma once

#include "../common/tensor.h"
#include "rows.h"

namespace ek {

inline constexpr const char* kRowsProductSchema = "rows_product(Tensor x, Tensor weight) -> Tensor";
inline constexpr const char* kRowsOuterSchema = "rows_outer(Tensor x, Tensor grad) -> Tensor";

template <class Device>
class RowProducts {
 public:
  static Tensor product(const Tensor& x, const Tensor& weight) { return run(x, weight, false); }
  static Tensor outer(const Tensor& x, const Tensor& grad) { return run(x, grad, true); }

 private:
  static Tensor run(const Tensor& x_in, const Tensor& other_in, bool outer) {
    const char* op = outer ? "rows_outer" : "rows_product";
    check_shape(x_in, op, "x", {-1, -1});
    check_shape(other_in, op, outer ? "grad" : "weight", {x_in.size(outer ? 0 : 1), -1});
    STD_TORCH_CHECK(x_in.scalar_type() == other_in.scalar_type(), op, ": expected tensors of one dtype");
    typename Device::Guard guard(x_in);
    const Tensor x = dense(x_in), other = dense(other_in);
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
