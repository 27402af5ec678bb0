// How the edge network reaches the CPU: packing, threads, chunks.
#pragma once

#include "../../core/cpu.h"
#include "edge_network.h"

namespace ek {

struct EdgeNetworkOnCpu : Cpu {
  static constexpr int64_t kGrain = 256;  // edges below which a second thread costs more than it brings

  template <class T, class X>
  static void edge_network_forward(const Tensor&, const EdgeNetworkArgs<T, X>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = EdgeNetworkCpu<decltype(isa), T, X>;
      const Buffer packed(Kernel::packed_bytes(args, false));
      Kernel::pack(args, false, packed.p);
      const auto run = [&](auto, int64_t begin, int64_t end) {
        const Buffer scratch(Kernel::scratch_bytes(args, false));
        Kernel::forward(args, packed.p, scratch.p, begin, end);
      };
      if (args.rows >= 0)
        share(args.rows, [](int64_t i) { return i; }, run, kGrain);
      else
        over_receivers(args.graph, run, kGrain);
    });
  }

  template <class T, class X>
  static void edge_network_backward(const Tensor&, const EdgeNetworkArgs<T, X>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = EdgeNetworkCpu<decltype(isa), T, X>;
      const MessagePlan plan = Kernel::plan(args);
      const Buffer packed(Kernel::packed_bytes(args, true)), partials(plan.bytes());
      Kernel::pack(args, true, packed.p);
      over_items(plan.chunks, [&](Queue& queue) {
        const Buffer scratch(Kernel::scratch_bytes(args, true));
        for (int64_t chunk; queue.take(chunk);)
          Kernel::backward(args, packed.p, plan, int(chunk), partials.p, scratch.p);
      });
      if (args.rows < 0)
        share(
            args.graph.num_nodes, [](int64_t i) { return i; },
            [&](auto, int64_t begin, int64_t end) { Kernel::reduce_nodes(args, plan, partials.p, begin, end); },
            kGrain);
      Kernel::reduce_weights(args, plan, partials.p);
    });
  }
};

}  // namespace ek
