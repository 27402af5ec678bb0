// Registers the invariants of edges.
#include "../core/register.h"

#include "bind.h"

#define EK_INPUTS "Tensor x, " EK_GRAPH_SCHEMA ", float[] metric, bool psi) -> Tensor"

EK_SCHEMAS(m) {
  m.def("invariants(" EK_INPUTS);
  m.def("invariants_backward(Tensor grad, " EK_INPUTS);
}

EK_KERNELS(m) {
  m.impl("invariants", ek::boxed<&ek::Invariants<EK_DEVICE>::forward>);
  m.impl("invariants_backward", ek::boxed<&ek::Invariants<EK_DEVICE>::backward>);
}
