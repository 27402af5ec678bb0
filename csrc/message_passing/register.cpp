// message_passing on the CPU.
#include "cpu.h"

STABLE_TORCH_LIBRARY_FRAGMENT(equikernels, m) {
  m.def(ek::kMessagePassingSchema);
  m.def(ek::kMessagePassingBackwardSchema);
  m.def(ek::kMessagePassingPlanSchema);
}

STABLE_TORCH_LIBRARY_IMPL(equikernels, CPU, m) {
  m.impl("message_passing", TORCH_BOX(&ek::MessagePassing<ek::MessagePassingOnCpu>::forward));
  m.impl("message_passing_backward", TORCH_BOX(&ek::MessagePassing<ek::MessagePassingOnCpu>::backward));
}

STABLE_TORCH_LIBRARY_IMPL(equikernels, CompositeExplicitAutograd, m) {
  m.impl("message_passing_plan", TORCH_BOX(&ek::message_passing_plan));
}
