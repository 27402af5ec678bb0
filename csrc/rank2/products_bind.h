// From tensors to the products of pairs.
#pragma once

#include "bind.h"
#include "products.h"

namespace ek {

inline constexpr const char* kRank2ProductsSchema =
    "rank2_products(Tensor x, " EK_GRAPH_SCHEMA ", float[] metric) -> Tensor";

template <class Device>
Tensor rank2_products(const Tensor& x_in, const Tensor& graph, int64_t num_edges, int64_t kind,
                      const std::vector<double>& metric) {
  const char* op = "rank2_products";
  check_shape(x_in, op, "x", {-1, int64_t(metric.size())});
  STD_TORCH_CHECK(metric.size() >= 1 && metric.size() <= kMaxDim, op, ": metric: expected 1 to 8 entries");
  typename Device::Guard guard(x_in);
  const Tensor x = as_contiguous(x_in);
  Tensor out = torch::stable::new_empty(x, {num_edges, 1});
  dispatch_floating(x.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    Rank2ProductsArgs<T> args;
    args.graph = rank2_pairs<Device>(graph, x.size(0), num_edges, kind);
    args.x = x.const_data_ptr<T>();
    args.out = out.mutable_data_ptr<T>();
    args.dim = int(metric.size());
    for (size_t c = 0; c < metric.size(); ++c) args.metric[c] = metric[c];
    Device::over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
      Rank2ProductsCpu<decltype(isa), T>::run(args, begin, end);
    });
  });
  return out;
}

}  // namespace ek
