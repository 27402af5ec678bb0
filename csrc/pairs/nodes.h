// What a 2 -> 2 layer does on particles and events, between the sum over pairs and the mix:
//   aggregates A_i = (T_ii, C_i, R_i) [nodes, 3, in] of the raw tensor; those of scale T + shift, channel by channel,
//   are A' = scale A + (1, n, n) shift. Trace and total of an event are sums over its particles of A'_0 and A'_2.
//   table_i,slot = A'_i0 W_slot + f_slot A'_i1 V_slot + f_slot A'_i2 U_slot     slot: diagonal, columns, rows
//   rows also get Tr and S of the event with their factors, and bias; the diagonal Tr, S and diag_bias.
// Which of the maps [15, in, width] these are is in nodes.cpp; maps 0 and 1, of pairs, belong to mix.
#pragma once

#include "../core/graph.h"

namespace ek {

template <class T>
struct Rank2NodesArgs {
  GraphView graph;  // complete, with self-loops
  int64_t in = 0, width = 0;
  const T* aggregates = nullptr;                  // [nodes, 3, in]
  const T* maps = nullptr;                        // [15, in, width]
  const T* factors = nullptr;                     // [events, 10, in], of maps 5 to 14
  const T *scale = nullptr, *shift = nullptr;     // [in], 1 and 0 where absent
  const T *bias = nullptr, *diag_bias = nullptr;  // [width], 0 where absent
  T* table = nullptr;                             // [nodes, 3, width]
  const T* grad_table = nullptr;
  T* grad_aggregates = nullptr;                       // [nodes, 3, in]
  T* grad_maps = nullptr;                             // maps 2 to 14 are written
  T* grad_factors = nullptr;                          // [events, 10, in]
  T *grad_bias = nullptr, *grad_diag_bias = nullptr;  // [width]
  T *grad_scale = nullptr, *grad_shift = nullptr;     // [in]
};

// The backward pass sums over events in chunks, which are summed in order.
inline int64_t events_of_chunk(int64_t events) {
  constexpr int64_t kMostChunks = 16;
  return events <= kMostChunks ? 1 : (events + kMostChunks - 1) / kMostChunks;
}

// CPU: the events [begin, end).
template <class Isa, class T>
struct Rank2NodesCpu {
  static int64_t packed_size(const Rank2NodesArgs<T>& args);
  static void pack(const Rank2NodesArgs<T>& args, bool backward, T* packed);
  static int64_t scratch_size(const Rank2NodesArgs<T>& args);
  static void forward(const Rank2NodesArgs<T>& args, const T* packed, T* scratch, int64_t begin, int64_t end);

  static int64_t partial_size(const Rank2NodesArgs<T>& args);
  static void backward(const Rank2NodesArgs<T>& args, const T* packed, T* partial, T* scratch, int64_t begin,
                       int64_t end);
  static void add_up(const Rank2NodesArgs<T>& args, T* partials, int64_t chunks);
};

}  // namespace ek
