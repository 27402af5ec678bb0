// Arguments of the ops on rows, for any device; and their schemas.
#pragma once

#include "inputs.h"

namespace ek {

inline constexpr const char* kRowsProductSchema = "rows_product(Tensor x, Tensor weight) -> Tensor";
inline constexpr const char* kRowsOuterSchema = "rows_outer(Tensor x, Tensor grad) -> Tensor";
inline constexpr const char* kRowAffineSchema = "row_affine(Tensor x, Tensor scale, Tensor shift) -> Tensor";

// out = act(x weight^T + bias), or without a weight x itself, which is not returned: out is empty then. The norm (see
// Norm) as affine [2, width] = (scale, shift): norm(out) = scale out + shift. moments float64 [2, width]: mean and
// biased variance of out; running [2, width]: mean and unbiased variance, as running statistics take them in. Backward
// reads out and moments again.
enum class Norm : int64_t {
  none,
  batch,    // by the statistics of the batch
  running,  // by mean and variance as given
};

struct NetworkInputs {
  static constexpr size_t kTensors = 7;
  const char* op;
  Tensor x;
  OptionalTensor weight, bias, gamma, beta, mean, variance;
  double slope, eps;
  Norm norm;
  int64_t rows, in, width;

  NetworkInputs(const char* name, const Optionals& tensors, const std::vector<int64_t>& ints,
                const std::vector<double>& numbers)
      : op(name) {
    STD_TORCH_CHECK(tensors.size() == kTensors && tensors[0] && ints.size() == 1 && numbers.size() == 2, op,
                    ": tensors, options, numbers: unexpected sizes");
    x = *tensors[0], weight = tensors[1], bias = tensors[2], gamma = tensors[3], beta = tensors[4];
    mean = tensors[5], variance = tensors[6];
    norm = Norm(ints[0]), slope = numbers[0], eps = numbers[1];
    check_shape(x, op, "x", {-1, -1});
    rows = x.size(0), in = x.size(1), width = in;
    x = as_contiguous(x);
    if (weight) {
      match(weight, "weight", {-1, in});
      width = weight->size(0);
    }
    STD_TORCH_CHECK(Norm::none <= norm && norm <= Norm::running, op, ": norm: expected 0 to 2");
    STD_TORCH_CHECK(norm != Norm::running || (mean && variance), op, ": mean: expected running statistics");
    match(bias, "bias", {width});
    match(gamma, "gamma", {width});
    match(beta, "beta", {width});
    match(mean, "mean", {width});
    match(variance, "variance", {width});
  }
  void match(OptionalTensor& t, const char* argument, std::vector<int64_t> shape) const {
    ek::match(op, t, argument, x, "x", std::move(shape));
  }
  bool of_batch() const { return norm == Norm::batch; }
  std::vector<int64_t> shape_of_moments() const {
    return of_batch() ? std::vector<int64_t>{2, width} : std::vector<int64_t>{0};
  }
};

}  // namespace ek
