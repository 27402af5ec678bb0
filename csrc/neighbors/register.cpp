// Registers the neighbour search.
#include "../core/register.h"

#include "bind.h"

#define EK_OPTIONS "float? radius, float[] metric, bool periodic, bool compensated, bool loop"

EK_SCHEMAS(m) {
  m.def("nearest_neighbors(Tensor x, " EK_GRAPH_SCHEMA ", " EK_OPTIONS ", SymInt k) -> (Tensor, Tensor)");
  m.def("neighbors_within(Tensor x, " EK_GRAPH_SCHEMA ", " EK_OPTIONS ") -> (Tensor, Tensor, Tensor)");
}

EK_KERNELS(m) {
  m.impl("nearest_neighbors", ek::boxed<&ek::Neighbors<EK_DEVICE>::nearest>);
  m.impl("neighbors_within", ek::boxed<&ek::Neighbors<EK_DEVICE>::within>);
}
