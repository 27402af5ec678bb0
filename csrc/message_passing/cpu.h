// How message_passing reaches the CPU.
#pragma once

#include "../edge_network/cpu.h"
#include "../message/cpu.h"
#include "../rank2/cpu.h"
#include "op.h"

namespace ek {

struct MessagePassingOnCpu : Cpu {
  using Channels = MessageOnCpu;
  using Edges = EdgeNetworkOnCpu;

  // work: of an item, in numbers.
  template <class Pass>
  static void pass(const Tensor&, int64_t items, int64_t work, const Pass& p) {
    constexpr int64_t kGrain = 1 << 15;  // numbers below which a second thread costs more than it brings
    share(
        items, [&](int64_t i) { return i * work; },
        [&](auto isa, int64_t begin, int64_t end) { PassCpu<decltype(isa), Pass>::run(p, begin, end); }, kGrain);
  }

  template <class X>
  static void moments(const Tensor&, const MomentsArgs<X>& args, bool forward) {
    over_receivers(args.graph, [&](auto isa, int64_t begin, int64_t end) {
      using Kernel = MomentsCpu<decltype(isa), X>;
      forward ? Kernel::forward(args, begin, end) : Kernel::backward(args, begin, end);
    });
  }

  // out = x weight^T + bias
  template <class T>
  static void linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& out) {
    RowsLayerArgs<T> a{x.size(0), x.size(1), weight.size(0), x.const_data_ptr<T>(), weight.const_data_ptr<T>()};
    a.bias = pointer<T>(bias);
    a.out = put<T>(out);
    Rank2OnCpu::rows_layer(a);
  }
  // out = x weight
  template <class T>
  static void product(const Tensor& x, const Tensor& weight, const Tensor& out) {
    RowsArgs<T> a{x.size(0), x.size(1), weight.size(1), x.const_data_ptr<T>()};
    a.weight = weight.const_data_ptr<T>();
    a.out = put<T>(out);
    Rank2OnCpu::rows_product(a);
  }
  // out = x^T y
  template <class T>
  static void outer(const Tensor& x, const Tensor& y, const Tensor& out) {
    RowsArgs<T> a{x.size(0), x.size(1), y.size(1), x.const_data_ptr<T>()};
    a.grad = y.const_data_ptr<T>();
    a.out = put<T>(out);
    Rank2OnCpu::rows_outer(a);
  }
  template <class T>
  static void column_sum(const Tensor& x, const Tensor& out) {
    Tensor ones = torch::stable::new_empty(x, {x.size(0), 1});
    outer<T>(torch::stable::fill_(ones, 1), x, out);
  }

 private:
  template <class T>
  static T* put(const Tensor& t) {
    return static_cast<T*>(const_cast<void*>(t.const_data_ptr()));
  }
};

}  // namespace ek
