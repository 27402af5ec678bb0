// Registers the fused message op.
#include "../core/register.h"
#if defined(EK_WITH_CUDA)
#include "cuda.h"
#define EK_MESSAGE ek::Message<ek::MessageOnCuda<EK_DEVICE>>
#else
#include "cpu.h"
#define EK_MESSAGE ek::Message<ek::MessageOnCpu>
#endif

EK_SCHEMAS(m) {
  m.def(ek::kMessageSchema);
  m.def(ek::kMessageBackwardSchema);
}

EK_KERNELS(m) {
  m.impl("message", TORCH_BOX(&EK_MESSAGE::forward));
  m.impl("message_backward", TORCH_BOX(&EK_MESSAGE::backward));
}
