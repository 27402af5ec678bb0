// Registers the encoder of invariants.
#include "../core/register.h"

#include "bind.h"

EK_SCHEMAS(m) {
  m.def("encode(Tensor z, Tensor t, bool angles) -> Tensor");
  m.def("encode_backward(Tensor grad, Tensor z, Tensor t, bool angles) -> (Tensor, Tensor)");
}

EK_KERNELS(m) {
  m.impl("encode", TORCH_BOX(&ek::Encode<EK_DEVICE>::forward));
  m.impl("encode_backward", TORCH_BOX(&ek::Encode<EK_DEVICE>::backward));
}
