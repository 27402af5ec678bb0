// How the fused message op reaches the CPU: packing, threads, chunks.
#pragma once

#include "../../core/bfloat16_unit.h"
#include "../../core/cpu.h"
#include "message.h"

namespace ek {

struct MessageOnCpu : Cpu {
  static bool has_tiles() { return active_isa() == Isa::avx512 && bfloat16_unit().kind == Bfloat16Unit::tiles; }

  template <class F>
  static void dispatch_products([[maybe_unused]] bool bfloat16, F&& f) {
    if (bfloat16 && active_isa() == Isa::avx512) switch (bfloat16_unit().kind) {
#if defined(EK_HAVE_AMX)
        case Bfloat16Unit::tiles: return f(Amx{});
#endif
#if defined(EK_HAVE_AVX512BF16)
        case Bfloat16Unit::pairs: return f(Avx512Bf16{});
#endif
        default: break;
      }
    dispatch_isa(f);
  }

  static constexpr int64_t kGrain = 256;  // edges below which a second thread costs more than it brings

  template <class T, class X>
  static void message_forward(const Tensor&, MessageArgs<T, X> args, bool tf32) {
    if (tf32 && sizeof(T) == 4 && has_tiles()) args.bfloat16 = args.two_parts = true;
    dispatch_products(args.bfloat16, [&](auto isa) {
      using Kernel = MessageCpu<decltype(isa), T, X>;
      const Buffer packed(Kernel::packed_bytes(args, false));
      Kernel::pack(args, false, packed.p);
      over_receivers(
          args.graph,
          [&](auto, int64_t begin, int64_t end) {
            const Buffer scratch(Kernel::scratch_bytes(args, false));
            Kernel::forward(args, packed.p, scratch.p, begin, end);
          },
          kGrain);
    });
  }

  template <class T, class X>
  static void message_backward(const Tensor&, const MessageArgs<T, X>& args, bool /*tf32*/) {
    dispatch_products(args.bfloat16, [&](auto isa) {
      using Kernel = MessageCpu<decltype(isa), T, X>;
      const MessagePlan plan = Kernel::plan(args);
      const Buffer packed(Kernel::packed_bytes(args, true)), partials(plan.bytes());
      Kernel::pack(args, true, packed.p);
      over_items(plan.chunks, [&](Queue& queue) {
        const Buffer scratch(Kernel::scratch_bytes(args, true));
        for (int64_t chunk; queue.take(chunk);)
          Kernel::backward(args, packed.p, plan, int(chunk), partials.p, scratch.p);
      });
      share(
          args.graph.num_nodes, [](int64_t i) { return i; },
          [&](auto, int64_t begin, int64_t end) { Kernel::reduce_nodes(args, plan, partials.p, begin, end); }, kGrain);
      Kernel::reduce_weights(args, plan, partials.p);
    });
  }
};

}  // namespace ek
