// How the rank-2 ops reach the CPU: packing, threads, chunks.
#pragma once

#include "../core/cpu.h"
#include "nodes.h"
#include "pairs.h"
#include "rows.h"

namespace ek {

struct Rank2OnCpu : Cpu {
  // Pairs, particles, rows, numbers below which a second thread costs more than it brings, whatever the channels.
  static constexpr int64_t kMixGrain = 256, kNodeGrain = 32, kRowsGrain = 128, kNumbersGrain = 32768;

  // The work (see kWorkOfThread) of one row of a product with `matrices` matrices [in, width].
  static int64_t work_of(int64_t in, int64_t width, int64_t matrices = 1) {
    return in + width + matrices * in * width / kMultiplyAdds;
  }
  // The grain of rows that have few channels: there, more rows.
  static int64_t grain_of(int64_t least, int64_t work) {
    return std::max(least, kWorkOfThread / std::max<int64_t>(work, 1));
  }

  template <class T>
  static void rank2(const Tensor&, Rank2Kernel kernel, const Rank2Args<T>& args) {
    const GraphView& g = args.graph;
    share(
        g.num_nodes, [&](int64_t i) { return g.edges_before(i) + i; },
        [&](auto isa, int64_t begin, int64_t end) {
          using Kernel = Rank2Cpu<decltype(isa), T>;
          const Buffer scratch(Kernel::scratch_bytes(args));
          Kernel::run(kernel, args, scratch.p, begin, end);
        },
        grain_of(kGrain, args.channels));
  }

  template <class T>
  static void rank2_mix(const Rank2MixArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2MixCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_bytes(args, false));
      Kernel::pack(args, false, packed.p);
      share(
          args.graph.num_nodes, [&](int64_t i) { return tiles_before(args.graph, i); },
          [&](auto, int64_t begin, int64_t end) {
            const Buffer scratch(Kernel::scratch_bytes(args, false));
            Kernel::forward(args, packed.p, scratch.p, begin, end);
          },
          grain_of(kMixGrain, work_of(args.in, args.width, 2)));
    });
  }

  template <class T>
  static void rank2_mix_backward(const Rank2MixArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2MixCpu<decltype(isa), T>;
      const Rank2Plan plan = Kernel::plan(args);
      const Buffer packed(Kernel::packed_bytes(args, true)), partials(plan.chunks * plan.chunk_bytes);
      Kernel::pack(args, true, packed.p);
      const GraphView& g = args.graph;
      over_items(
          plan.chunks,
          [&](Queue& queue) {
            const Buffer scratch(Kernel::scratch_bytes(args, true));
            for (int64_t chunk; queue.take(chunk);)
              Kernel::backward(args, packed.p, plan, int(chunk), partials.p, scratch.p);
          },
          g.edge_ptr[g.num_events] * work_of(args.in, args.width, 4));
      Kernel::reduce_weights(args, plan, partials.p);
    });
  }

  template <class T>
  static void rank2_nodes(const Rank2NodesArgs<T>& args) {
    const GraphView& g = args.graph;
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2NodesCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args) * int64_t(sizeof(T)));
      Kernel::pack(args, false, static_cast<T*>(packed.p));
      share(
          g.num_events, [&](int64_t b) { return g.ptr[b]; },
          [&](auto, int64_t begin, int64_t end) {
            const Buffer scratch(Kernel::scratch_size(args) * int64_t(sizeof(T)));
            Kernel::forward(args, static_cast<const T*>(packed.p), static_cast<T*>(scratch.p), begin, end);
          },
          grain_of(kNodeGrain, work_of(3 * args.in, 3 * args.width, 2)));
    });
  }

  // A layer's sums, maps of particles and events, and mix: event by event, while its pairs are in cache; one after the
  // other where the largest event is too much of all for one thread.
  template <class T>
  static void rank2_layer(const Tensor& like, const Rank2Args<T>& sums, const Rank2NodesArgs<T>& nodes,
                          const Rank2MixArgs<T>& mix) {
    const GraphView& g = sums.graph;
    const int64_t pairs = g.edge_ptr[g.num_events], threads = torch::stable::get_num_threads();
    int64_t largest = 0;
    for (int64_t b = 0; b < g.num_events; ++b) largest = std::max(largest, g.edge_ptr[b + 1] - g.edge_ptr[b]);
    if (threads > 1 && largest > pairs / (kPartsOfThread * threads)) {
      rank2(like, Rank2Kernel::sum, sums);
      rank2_nodes(nodes);
      return rank2_mix(mix);
    }
    dispatch_isa([&](auto isa) {
      using Sums = Rank2Cpu<decltype(isa), T>;
      using Nodes = Rank2NodesCpu<decltype(isa), T>;
      using Mix = Rank2MixCpu<decltype(isa), T>;
      const Buffer packed_nodes(Nodes::packed_size(nodes) * int64_t(sizeof(T))),
          packed_mix(Mix::packed_bytes(mix, false));
      const T* maps = static_cast<const T*>(packed_nodes.p);
      Nodes::pack(nodes, false, static_cast<T*>(packed_nodes.p));
      Mix::pack(mix, false, packed_mix.p);
      over_items(
          g.num_events,
          [&](Queue& queue) {
            const Buffer of_sums(Sums::scratch_bytes(sums)), of_mix(Mix::scratch_bytes(mix, false));
            const Buffer of_nodes(Nodes::scratch_size(nodes) * int64_t(sizeof(T)));
            for (int64_t b; queue.take(b);) {
              Sums::run(Rank2Kernel::sum, sums, of_sums.p, g.ptr[b], g.ptr[b + 1]);
              Nodes::forward(nodes, maps, static_cast<T*>(of_nodes.p), b, b + 1);
              Mix::forward(mix, packed_mix.p, of_mix.p, g.ptr[b], g.ptr[b + 1]);
            }
          },
          pairs * work_of(mix.in, mix.width, 2));
    });
  }

  template <class T>
  static void rank2_nodes_backward(const Rank2NodesArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = Rank2NodesCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args) * int64_t(sizeof(T)));
      Kernel::pack(args, true, static_cast<T*>(packed.p));
      const int64_t events = args.graph.num_events;
      const int64_t work = args.graph.num_nodes * work_of(3 * args.in, 3 * args.width, 4);
      sum_chunks<Kernel, T>(args, events, events_of_chunk(events), work, true,
                            [&](T* partial, T* scratch, int64_t begin, int64_t end) {
                              Kernel::backward(args, static_cast<const T*>(packed.p), partial, scratch, begin, end);
                            });
    });
  }

  template <class T>
  static void rows_product(const RowsArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = RowsCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args) * int64_t(sizeof(T)));
      Kernel::pack(args, static_cast<T*>(packed.p));
      share(
          args.rows, [](int64_t i) { return i; },
          [&](auto, int64_t begin, int64_t end) { Kernel::product(args, static_cast<const T*>(packed.p), begin, end); },
          grain_of(kRowsGrain, work_of(args.in, args.width)));
    });
  }

  template <class T>
  static void rows_outer(const RowsArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = RowsCpu<decltype(isa), T>;
      sum_chunks<Kernel, T>(args, args.rows, outer_chunk(args.rows), args.rows * work_of(args.in, args.width), true,
                            [&](T* partial, T* scratch, int64_t begin, int64_t end) {
                              Kernel::outer(args, partial, scratch, begin, end);
                            });
    });
  }

  template <class T>
  static void rows_layer(const RowsLayerArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = RowsLayerCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args, false) * int64_t(sizeof(T)));
      Kernel::pack(args, false, static_cast<T*>(packed.p));
      // statistics are taken of a chunk of rows while it is in cache
      over_moments(
          RowMomentsArgs<T>{args.rows, args.width, args.out, args.moments}, isa, work_of(args.in, args.width),
          [&](int64_t begin, int64_t end) { Kernel::forward(args, static_cast<const T*>(packed.p), begin, end); });
    });
  }

  template <class T>
  static void rows_layer_backward(const RowsLayerArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = RowsLayerCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args, true) * int64_t(sizeof(T)));
      Kernel::pack(args, true, static_cast<T*>(packed.p));
      const int64_t work = args.rows * work_of(args.in, args.width, 2);
      sum_chunks<Kernel, T>(args, args.rows, outer_chunk(args.rows), work, args.grad_weight != nullptr,
                            [&](T* partial, T* scratch, int64_t begin, int64_t end) {
                              Kernel::backward(args, static_cast<const T*>(packed.p), partial, scratch, begin, end);
                            });
    });
  }

  template <class T>
  static void row_moments(const RowMomentsArgs<T>& args) {
    dispatch_isa([&](auto isa) { over_moments(args, isa, 0, [](int64_t, int64_t) {}); });
  }

  template <class T>
  static void row_affine(const RowAffineArgs<T>& args) {
    dispatch_isa([&](auto isa) {
      using Kernel = RowAffineCpu<decltype(isa), T>;
      const Buffer packed(Kernel::packed_size(args.channels) * int64_t(sizeof(T)));
      Kernel::pack(args, static_cast<T*>(packed.p));
      share(
          args.rows, [&](int64_t i) { return i * args.channels; },
          [&](auto, int64_t begin, int64_t end) { Kernel::run(args, static_cast<const T*>(packed.p), begin, end); },
          kNumbersGrain);
    });
  }

 private:
  // make(begin, end) for the chunks of rows, each followed by its statistics, if wanted. work: of making a row.
  template <class T, class Isa, class Make>
  static void over_moments(const RowMomentsArgs<T>& args, Isa, int64_t work, Make&& make) {
    using Kernel = RowMomentsCpu<Isa, T>;
    const int64_t step = outer_chunk(args.rows), chunks = (args.rows + step - 1) / step;
    const bool wanted = args.moments != nullptr;
    const Buffer buffer(wanted ? chunks * 2 * args.channels * int64_t(sizeof(double)) : 0);
    double* sums = static_cast<double*>(buffer.p);
    over_items(
        chunks,
        [&](Queue& queue) {
          const Buffer scratch(wanted ? Kernel::scratch_size(args.channels) * int64_t(sizeof(double)) : 0);
          for (int64_t c; queue.take(c);) {
            const int64_t begin = c * step, end = std::min(args.rows, begin + step);
            make(begin, end);
            if (wanted) Kernel::add_up(args, static_cast<double*>(scratch.p), sums + c * 2 * args.channels, begin, end);
          }
        },
        args.rows * (work + args.channels));
    if (wanted) Kernel::finish(args, sums, step);
  }

  // run(partial, scratch, begin, end) for the chunks of [0, count); the partial sums are added up in order, if wanted.
  // work: of all of them.
  template <class Kernel, class T, class Args, class Run>
  static void sum_chunks(const Args& args, int64_t count, int64_t step, int64_t work, bool wanted, Run&& run) {
    const int64_t chunks = (count + step - 1) / step, size = Kernel::partial_size(args);
    const Buffer buffer(chunks * size * int64_t(sizeof(T)));
    T* partials = static_cast<T*>(buffer.p);
    over_items(
        chunks,
        [&](Queue& queue) {
          const Buffer scratch(Kernel::scratch_size(args) * int64_t(sizeof(T)));
          for (int64_t c; queue.take(c);)
            run(partials + c * size, static_cast<T*>(scratch.p), c * step, std::min(count, (c + 1) * step));
        },
        work);
    if (wanted) Kernel::add_up(args, partials, chunks);
  }
};

}  // namespace ek
