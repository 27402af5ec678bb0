// The mix of pairs, products of rows and the network of rows as ops on CUDA.
#pragma once

#include "cuda.h"
#include "mix_inputs.h"
#include "products.h"
#include "rows_inputs.h"

namespace ek {

// Room for numbers of one type, taken piece by piece; every piece starts on 16 bytes.
template <class T>
class Workspace {
 public:
  // Reserves a piece: ask for all of them, then allocate once.
  void reserve(T*& piece, int64_t count) {
    pieces_.push_back({&piece, size_});
    size_ += (count + kAlign - 1) / kAlign * kAlign;
  }
  void allocate(const Tensor& on) {
    constexpr ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
    room_ = uninitialised(on, {size_}, type);
    for (auto& [piece, at] : pieces_) *piece = static_cast<T*>(room_->mutable_data_ptr()) + at;
  }

 private:
  static constexpr int64_t kAlign = 16 / sizeof(T);
  std::vector<std::pair<T**, int64_t>> pieces_;
  int64_t size_ = 0;
  std::optional<Tensor> room_;
};

template <class Device>
struct ProductsOnCuda : Rank2OnCuda<Device> {
  using Guard = typename Device::Guard;

  static Tensor mix(Reader& in) {
    const MixInputs m("rank2_mix", in);
    const Guard guard(m.tensor);
    Tensor out = make(m.tensor, true, {m.graph.num_edges, m.width});
    dispatch_stored(m.tensor.scalar_type(), m.op, [&](auto zero) {
      using S = decltype(zero);
      auto a = product_of<S, S>(m, m.in, m.width, m.tensor, out);
      a.first = pointer<S>(m.identity);
      a.second = pointer<S>(m.transpose);
      a.stride_in = m.width;
      a.table = pointer<S>(m.table);
      a.slope = Accumulator<S>(m.slope);
      multiply(m.tensor, a);
    });
    return out;
  }

  static std::array<Tensor, 4> mix_backward(Reader& in) {
    OptionalTensor grad = in.next<Tensor>(), activated = in.next<OptionalTensor>();
    const MixInputs m("rank2_mix_backward", in);
    const Guard guard(m.tensor);
    const std::vector<bool> wanted = in.next<std::vector<bool>>();
    STD_TORCH_CHECK(wanted.size() == 3, m.op, ": wanted: expected three entries");
    m.match(grad, "grad", {m.graph.num_edges, m.width});
    m.match(activated, "activated", {m.graph.num_edges, m.width});
    const bool identity = wanted[1] && m.identity, transpose = wanted[1] && m.transpose;
    Tensor grad_tensor = make(m.tensor, wanted[0], {m.graph.num_edges, m.in});
    Tensor grad_identity = make(m.tensor, identity, {m.in, m.width});
    Tensor grad_transpose = make(m.tensor, transpose, {m.in, m.width});
    Tensor grad_table = make(m.tensor, wanted[2], {m.num_nodes, 3, m.width});
    dispatch_stored(m.tensor.scalar_type(), m.op, [&](auto zero) {
      using S = decltype(zero);
      const Tensor inner = through<S>(*grad, activated, m.slope);
      if (wanted[0]) {
        auto a = product_of<S, S>(m, m.width, m.in, inner, grad_tensor);
        a.first = pointer<S>(m.identity);
        a.second = pointer<S>(m.transpose);
        a.stride_in = 1, a.stride_out = m.width;
        multiply(m.tensor, a);
      }
      if (identity || transpose) {
        OuterArgs<S> a{m.graph.template view<Device>(m.num_nodes), m.graph.num_edges, m.in, m.width};
        a.first = identity, a.second = transpose;
        a.x = static_cast<const S*>(m.tensor.const_data_ptr());
        a.grad = static_cast<const S*>(inner.const_data_ptr());
        sum_products(m.tensor, a, {data<S>(grad_identity), data<S>(grad_transpose)});
      }
      if (wanted[2]) sum_table(inner, m.graph.template view<Device>(m.num_nodes), grad_table);
    });
    return {grad_tensor, grad_identity, grad_transpose, grad_table};
  }

  static Tensor product(const Tensor& x_in, const Tensor& weight_in) {
    const char* op = "rows_product";
    const Guard guard(x_in);
    const auto [x, weight] = two(op, x_in, weight_in, "weight", 1);
    Tensor out = make(x, true, {x.size(0), weight.size(1)});
    dispatch_stored(x.scalar_type(), op, [&, &x = x, &weight = weight](auto zero) {
      using S = decltype(zero);
      ProductArgs<S, S> a{{}, x.size(0), x.size(1), weight.size(1), static_cast<const S*>(x.const_data_ptr())};
      a.first = static_cast<const S*>(weight.const_data_ptr());
      a.stride_in = a.width;
      a.out = static_cast<S*>(out.mutable_data_ptr());
      multiply(x, a);
    });
    return out;
  }

  static Tensor outer(const Tensor& x_in, const Tensor& grad_in) {
    const char* op = "rows_outer";
    const Guard guard(x_in);
    const auto [x, grad] = two(op, x_in, grad_in, "grad", 0);
    Tensor out = make(x, true, {x.size(1), grad.size(1)});
    dispatch_stored(x.scalar_type(), op, [&, &x = x, &grad = grad](auto zero) {
      using S = decltype(zero);
      OuterArgs<S> a{{}, x.size(0), x.size(1), grad.size(1)};
      a.x = static_cast<const S*>(x.const_data_ptr());
      a.grad = static_cast<const S*>(grad.const_data_ptr());
      sum_products(x, a, {data<S>(out)});
    });
    return out;
  }

  static std::vector<Tensor> network(const Optionals& tensors, const Tensor&, int64_t, int64_t,
                                     const std::vector<int64_t>& ints, const std::vector<double>& numbers) {
    const NetworkInputs n("rows_network", tensors, ints, numbers);
    const Guard guard(n.x);
    Tensor out = make(n.x, n.weight.has_value(), {n.rows, n.width});
    Tensor affine = make(n.x, n.norm != Norm::none, {2, n.width});
    Tensor running = make(n.x, n.of_batch(), {2, n.width});
    Tensor moments = uninitialised(n.x, n.shape_of_moments(), ScalarType::Double);
    dispatch_stored(n.x.scalar_type(), n.op, [&](auto zero) {
      using S = decltype(zero);
      if (n.weight) {
        ProductArgs<S, S> a{{}, n.rows, n.in, n.width, static_cast<const S*>(n.x.const_data_ptr())};
        a.first = pointer<S>(n.weight);
        a.stride_in = 1, a.stride_out = n.in;
        a.bias = pointer<S>(n.bias);
        a.slope = Accumulator<S>(n.slope);
        a.out = static_cast<S*>(out.mutable_data_ptr());
        multiply(n.x, a);
      }
      if (n.norm == Norm::none) return;
      auto a = norm_of<S>(n, n.weight ? out : n.x, moments);
      a.affine = static_cast<S*>(affine.mutable_data_ptr());
      Workspace<double> room;
      if (n.of_batch()) {
        a.running = static_cast<S*>(running.mutable_data_ptr());
        room.reserve(a.parts, moments_shares(n.rows) * 2 * n.width);
        room.allocate(n.x);
        Device::launch(n.x, [&](auto stream) { return moments_cuda(a, stream); });
      }
      Device::launch(n.x, [&](auto stream) { return norm_cuda(a, stream); });
    });
    return {out, affine, moments, running};
  }

  static std::vector<Tensor> network_backward(const Optionals& grads, const Optionals& tensors,
                                              const std::vector<Tensor>& saved, const Tensor&, int64_t, int64_t,
                                              const std::vector<int64_t>& ints, const std::vector<double>& numbers,
                                              const std::vector<bool>& wanted) {
    const NetworkInputs n("rows_network_backward", tensors, ints, numbers);
    const Guard guard(n.x);
    STD_TORCH_CHECK(grads.size() == 2 && saved.size() == 2 && wanted.size() == n.kTensors, n.op,
                    ": grads, saved, wanted: unexpected sizes");
    const bool linear = n.weight.has_value();
    OptionalTensor grad = grads[0], grad_affine = grads[1], out = linear ? saved[0] : n.x;
    const Tensor moments = saved[1];
    n.match(out, "out", {n.rows, n.width});
    n.match(grad, "grad", {n.rows, n.width});
    n.match(grad_affine, "grad_affine", {2, n.width});
    check_shape(moments, n.op, "moments", n.shape_of_moments());
    std::vector<Tensor> found{make(n.x, wanted[0], {n.rows, n.in}), make(n.x, wanted[1] && linear, {n.width, n.in})};
    for (size_t k = 2; k < n.kTensors; ++k) found.push_back(make(n.x, wanted[k], {n.width}));
    dispatch_stored(n.x.scalar_type(), n.op, [&](auto zero) {
      using S = decltype(zero);
      using T = Accumulator<S>;
      auto norm = norm_of<S>(n, *out, moments);
      norm.grad_affine = pointer<S>(grad_affine);
      for (size_t k = 3; k < n.kTensors; ++k)
        if (wanted[k]) norm.to[k - 3] = static_cast<S*>(found[k].mutable_data_ptr());
      Workspace<double> room;
      if (n.of_batch()) {
        room.reserve(norm.statistics, 3 * n.width);
        room.allocate(n.x);
      }
      if (n.norm != Norm::none) Device::launch(n.x, [&](auto stream) { return norm_backward_cuda(norm, stream); });
      if (!wanted[0] && !(linear && (wanted[1] || wanted[2]))) return;

      // what comes through the activation
      const bool direct = linear && !n.of_batch() && n.slope == 1 && grad;
      Tensor inner = direct ? *grad : linear ? make(n.x, true, {n.rows, n.width}) : found[0];
      if (!direct) {
        ThroughArgs<S> a{n.rows, n.width, linear ? pointer<S>(grad) : nullptr, pointer<S>(out)};
        a.statistics = norm.statistics;
        a.slope = linear ? T(n.slope) : T(1);
        a.out = static_cast<S*>(inner.mutable_data_ptr());
        Device::launch(n.x, [&](auto stream) { return through_cuda(a, stream); });
      }
      if (!linear) return;
      if (wanted[0]) {
        ProductArgs<S, S> a{{}, n.rows, n.width, n.in, static_cast<const S*>(inner.const_data_ptr())};
        a.first = pointer<S>(n.weight);
        a.stride_in = n.in;
        a.out = static_cast<S*>(found[0].mutable_data_ptr());
        multiply(n.x, a);
      }
      if (!wanted[1] && !wanted[2]) return;
      OuterArgs<S> a{{}, n.rows, n.in, n.width};
      a.first = wanted[1];
      a.ones = wanted[2];
      a.x = static_cast<const S*>(n.x.const_data_ptr());
      a.grad = static_cast<const S*>(inner.const_data_ptr());
      sum_products(n.x, a, {data<S>(found[1]), nullptr, data<S>(found[2])}, true);
    });
    return only(found, wanted);
  }

 protected:
  template <class S, class W>
  static ProductArgs<S, W> product_of(const MixInputs& m, int64_t in, int64_t width, const Tensor& x, Tensor& out) {
    ProductArgs<S, W> a{m.graph.template view<Device>(m.num_nodes), m.graph.num_edges, in, width};
    a.x = static_cast<const S*>(x.const_data_ptr());
    a.out = static_cast<S*>(out.mutable_data_ptr());
    return a;
  }
  template <class S, class W>
  static void multiply(const Tensor& on, const ProductArgs<S, W>& a) {
    Device::launch(on, [&](auto stream) { return product_cuda(a, stream); });
  }

  template <class S>
  static S* data(const Tensor& t) {
    return t.numel() > 0 ? static_cast<S*>(t.mutable_data_ptr()) : nullptr;
  }
  // Sums over rows into those of `to` that are asked for: of first, second, ones. turned: as [width, in].
  template <class S>
  static void sum_products(const Tensor& on, OuterArgs<S> a, std::array<S*, 3> to, bool turned = false) {
    using T = Accumulator<S>;
    const int64_t shares = outer_shares(a), part = a.depth() * a.width, matrix = a.in * a.width;
    Workspace<T> room;
    room.reserve(a.parts, shares * part);
    room.allocate(on);
    AddUpArgs<T, S> sums;
    const T* from = a.parts;
    for (int k = 0; k < 3; ++k) {
      if (!to[size_t(k)]) continue;
      const int64_t size = k < 2 ? matrix : a.width;
      sums.of[k] = {from, to[size_t(k)], shares, part, size, turned && k < 2 ? a.width : 0};
      from += size;
    }
    Device::launch(on, [&](auto stream) { return outer_cuda(a, stream); });
    Device::launch(on, [&](auto stream) { return add_up_cuda(sums, stream); });
  }

  template <class S>
  static NormArgs<S> norm_of(const NetworkInputs& n, const Tensor& x, const Tensor& moments) {
    NormArgs<S> a{n.rows, n.width, static_cast<const S*>(x.const_data_ptr())};
    if (n.of_batch()) a.moments = static_cast<double*>(const_cast<void*>(moments.const_data_ptr()));
    if (n.norm == Norm::running) a.mean = pointer<S>(n.mean), a.variance = pointer<S>(n.variance);
    a.gamma = pointer<S>(n.gamma), a.beta = pointer<S>(n.beta);
    a.eps = n.eps;
    return a;
  }

  static std::pair<Tensor, Tensor> two(const char* op, const Tensor& x, const Tensor& other, const char* name,
                                       int shared) {
    check_shape(x, op, "x", {-1, -1});
    check_shape(other, op, name, {x.size(shared), -1});
    STD_TORCH_CHECK(x.scalar_type() == other.scalar_type(), op, ": expected tensors of one dtype");
    return {as_contiguous(x), as_contiguous(other)};
  }

  // The gradient behind an activation: itself where that is the identity.
  template <class S>
  static Tensor through(const Tensor& grad, const OptionalTensor& activated, double slope) {
    if (!activated || slope == 1) return grad;
    Tensor out = make(grad, true, {grad.size(0), grad.size(1)});
    ThroughArgs<S> a{grad.size(0), grad.size(1), static_cast<const S*>(grad.const_data_ptr()), pointer<S>(activated)};
    a.slope = Accumulator<S>(slope);
    a.out = static_cast<S*>(out.mutable_data_ptr());
    Device::launch(grad, [&](auto stream) { return through_cuda(a, stream); });
    return out;
  }

  static void sum_table(const Tensor& of, const GraphView& g, Tensor& table) {
    dispatch_stored(of.scalar_type(), "rank2_sum", [&](auto zero) {
      using S = decltype(zero);
      Rank2Args<S> sums;
      sums.graph = g;
      sums.channels = of.size(1);
      sums.tensor = static_cast<const S*>(of.const_data_ptr());
      sums.out = static_cast<S*>(table.mutable_data_ptr());
      Rank2OnCuda<Device>::rank2(of, Rank2Kernel::sum, sums);
    });
  }
};

}  // namespace ek
