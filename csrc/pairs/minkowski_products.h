// Products of the particles of an event under a diagonal metric, formed as in core/minkowski.h:
//   out_ij = <x_i, x_j>        one number a pair, pairs as in pairs.h
#pragma once

#include "../core/graph.h"

namespace ek {

template <class T>
struct Rank2ProductsArgs {
  GraphView graph;       // complete, with self-loops
  const T* x = nullptr;  // [nodes, dim]
  T* out = nullptr;      // [pairs]
  double metric[kMaxDim] = {};
  int dim = 4;
};

// CPU: the nodes [begin, end) as receivers.
template <class Isa, class T>
struct Rank2ProductsCpu {
  static void run(const Rank2ProductsArgs<T>& args, int64_t begin, int64_t end);
};

}  // namespace ek
