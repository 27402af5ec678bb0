// The number of coordinates as a constant.
#pragma once

#include <type_traits>

#include "graph.h"

namespace ek {

// f(the dimension, as a constant that converts to int): 2, 3 and 4 are unrolled; the others share one loop, which goes
// up to kMaxDim and asks for the dimension itself.
template <class F>
auto with_dimension(int dim, F&& f) {
  switch (dim) {
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    default: return f(std::integral_constant<int, kMaxDim>{});
  }
}

}  // namespace ek
