// The order in which candidates for a maximum or a minimum are preferred.
#pragma once

#include "graph.h"

namespace ek {

// Whether (x, number k) comes before (y, number l): the larger or smaller value, NaN over everything, of equals the
// lower number; a negative number stands for no candidate.
template <class A, class I>
EK_HD bool precedes(bool largest, A x, I k, A y, I l) {
  if (k < 0 || l < 0) return l < 0 && k >= 0;
  if (x != x || y != y) return x != x && (y == y || k < l);
  if (x == y) return k < l;
  return largest ? x > y : x < y;
}

}  // namespace ek
