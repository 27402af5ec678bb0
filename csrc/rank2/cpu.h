// How the rank-2 ops reach the CPU: packing, threads, chunks.
#pragma once

#include <cstdlib>

#include "../common/cpu.h"
#include "bind.h"

namespace ek {

struct Rank2OnCpu : Cpu {
  static constexpr int64_t kMixGrain = 256;  // pairs below which a second thread costs more than it brings

  // Memory for one task of a kernel, aligned as the kernels ask.
  struct Buffer {
    explicit Buffer(int64_t bytes) : p(std::aligned_alloc(64, size_t((bytes + 127) / 64 * 64))) {
      STD_TORCH_CHECK(p, "rank2: out of memory");
    }
    ~Buffer() { std::free(p); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    void* p;
  };

  template <class T>
  static void rank2(Rank2Kernel kernel, const Rank2Args<T>& args) {
    const GraphView& g = args.graph;
    share(
        g.num_nodes, [&](int64_t i) { return g.edges_before(i) + i; },
        [&](auto isa, int64_t begin, int64_t end) {
          using Kernel = Rank2Cpu<decltype(isa), T>;
          const Buffer scratch(Kernel::scratch_bytes(args));
          Kernel::run(kernel, args, scratch.p, begin, end);
        });
  }

  template <class T>
  static void rank2_mix(const Rank2MixArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2MixCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_bytes(args, false));
      Kernel::pack(args, false, packed.p);
      share(
          args.graph.num_nodes, [&](int64_t i) { return tiles_before(args.graph, i); },
          [&](auto, int64_t begin, int64_t end) { Kernel::forward(args, packed.p, begin, end); }, kMixGrain);
    });
  }

  template <class T>
  static void rank2_mix_backward(const Rank2MixArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2MixCpu<decltype(isa), T>;
      const Rank2Plan plan = Kernel::plan(args);
      const Buffer packed(Kernel::packed_bytes(args, true)), partials(plan.chunks * plan.chunk_bytes);
      Kernel::pack(args, true, packed.p);
      torch::stable::parallel_for(0, plan.chunks, 1, [&](int64_t first, int64_t last) {
        const Buffer scratch(Kernel::scratch_bytes(args));
        for (int64_t chunk = first; chunk < last; ++chunk)
          Kernel::backward(args, packed.p, plan, int(chunk), partials.p, scratch.p);
      });
      Kernel::reduce_weights(args, plan, partials.p);
    });
  }
};

}  // namespace ek
