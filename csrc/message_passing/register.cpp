// Registers message_passing.
#include "../core/register.h"
#if defined(EK_WITH_CUDA)
#include "cuda.h"
#define EK_MESSAGE_PASSING ek::MessagePassing<ek::MessagePassingOnCuda<EK_DEVICE>>
#else
#include "cpu.h"
#define EK_MESSAGE_PASSING ek::MessagePassing<ek::MessagePassingOnCpu>
#endif

EK_SCHEMAS(m) {
  m.def(ek::kMessagePassingSchema);
  m.def(ek::kMessagePassingBackwardSchema);
  m.def(ek::kMessagePassingPlanSchema);
}

EK_KERNELS(m) {
  m.impl("message_passing", TORCH_BOX(&EK_MESSAGE_PASSING::forward));
  m.impl("message_passing_backward", TORCH_BOX(&EK_MESSAGE_PASSING::backward));
}

#if !defined(EK_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(equikernels, CompositeExplicitAutograd, m) {
  m.impl("message_passing_plan", TORCH_BOX(&ek::message_passing_plan));
}
#endif
