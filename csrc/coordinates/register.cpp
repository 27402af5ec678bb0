// Registers the coordinate update.
#include "../core/register.h"

#include "bind.h"

#define EK_OPTIONS "float c, float? clamp, bool mean, bool difference"

EK_SCHEMAS(m) {
  m.def("coordinates(Tensor x, Tensor weight, " EK_GRAPH_SCHEMA ", " EK_OPTIONS ") -> Tensor");
  m.def("coordinates_backward(Tensor grad, Tensor x, Tensor weight, " EK_GRAPH_SCHEMA ", " EK_OPTIONS
        ") -> (Tensor, Tensor)");
}

EK_KERNELS(m) {
  m.impl("coordinates", ek::boxed<&ek::Coordinates<EK_DEVICE>::forward>);
  m.impl("coordinates_backward", ek::boxed<&ek::Coordinates<EK_DEVICE>::backward>);
}
