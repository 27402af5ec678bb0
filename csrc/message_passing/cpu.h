// How message_passing reaches the CPU.
#pragma once

#include "../pairs/cpu.h"
#include "channels/cpu.h"
#include "edges/cpu.h"
#include "op.h"
#include "row_activation.h"
#include "rows_op.h"

namespace ek {

struct MessagePassingOnCpu : Cpu {
  using Channels = MessageOnCpu;
  using Edges = EdgeNetworkOnCpu;
  using Rows = Rank2OnCpu;

  static std::string channels_limit(const EdgeMlpOptions&, const EdgeMlpShape&) { return ""; }
  static std::string edges_limit(const EdgeMlpOptions&, const EdgeMlpShape&, bool) { return ""; }
  static std::string lanes_limit(const EdgeMlpShape&) { return ""; }

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
    Rows::rows_layer(a);
  }
  // out = x weight
  template <class T>
  static void product(const Tensor& x, const Tensor& weight, const Tensor& out) {
    RowsArgs<T> a{x.size(0), x.size(1), weight.size(1), x.const_data_ptr<T>()};
    a.weight = weight.const_data_ptr<T>();
    a.out = put<T>(out);
    Rows::rows_product(a);
  }
  // out = x^T y
  template <class T>
  static void outer(const Tensor& x, const Tensor& y, const Tensor& out) {
    RowsArgs<T> a{x.size(0), x.size(1), y.size(1), x.const_data_ptr<T>()};
    a.grad = y.const_data_ptr<T>();
    a.out = put<T>(out);
    Rows::rows_outer(a);
  }
  template <class T>
  static void column_sum(const Tensor& x, const Tensor& out) {
    Tensor ones = uninitialised(x, {x.size(0), 1});
    outer<T>(torch::stable::fill_(ones, 1), x, out);
  }

  template <class T>
  static void activate(const RowActivationArgs<T>& args) {
    constexpr int64_t kGrain = 1 << 14;
    share(
        args.rows, [&](int64_t i) { return i * args.channels; },
        [&](auto isa, int64_t begin, int64_t end) { RowActivationCpu<decltype(isa), T>::forward(args, begin, end); },
        kGrain);
  }
  // sums [2, channels], over chunks of rows in order.
  template <class T>
  static void activate_backward(const RowActivationArgs<T>& args, double* sums) {
    const int64_t step = outer_chunk(args.rows), chunks = (args.rows + step - 1) / step, size = 2 * args.channels;
    const Buffer partial(chunks * size * int64_t(sizeof(double)));
    double* p = static_cast<double*>(partial.p);
    dispatch_isa([&](auto isa) {
      over_items(chunks, [&](Queue& queue) {
        for (int64_t c; queue.take(c);)
          RowActivationCpu<decltype(isa), T>::backward(args, c * step, std::min(args.rows, (c + 1) * step),
                                                       p + c * size);
      });
    });
    for (int64_t k = 0; k < size; ++k) {
      sums[k] = 0;
      for (int64_t c = 0; c < chunks; ++c) sums[k] += p[c * size + k];
    }
  }

 private:
  template <class T>
  static T* put(const Tensor& t) {
    return static_cast<T*>(const_cast<void*>(t.const_data_ptr()));
  }
};

}  // namespace ek
