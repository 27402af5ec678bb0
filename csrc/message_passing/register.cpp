// Registers message_passing and row_mlp.
#include "../core/register.h"
#if defined(EK_WITH_CUDA)
#include "cuda.h"
#define EK_MESSAGE_PASSING_DEVICE ek::MessagePassingOnCuda<EK_DEVICE>
#else
#include "cpu.h"
#define EK_MESSAGE_PASSING_DEVICE ek::MessagePassingOnCpu
#endif

EK_SCHEMAS(m) {
  m.def(ek::kMessagePassingSchema);
  m.def(ek::kMessagePassingBackwardSchema);
  m.def("message_passing_plan" EK_PLAN_SCHEMA);
  m.def("message_passing_plan_cuda" EK_PLAN_SCHEMA);
  m.def(ek::kRowMlpSchema);
  m.def(ek::kRowMlpBackwardSchema);
  m.def("row_mlp_plan" EK_PLAN_SCHEMA);
  m.def("row_mlp_plan_cuda" EK_PLAN_SCHEMA);
}

EK_KERNELS(m) {
  m.impl("message_passing", TORCH_BOX(&ek::MessagePassing<EK_MESSAGE_PASSING_DEVICE>::forward));
  m.impl("message_passing_backward", TORCH_BOX(&ek::MessagePassing<EK_MESSAGE_PASSING_DEVICE>::backward));
  m.impl("row_mlp", TORCH_BOX(&ek::RowMlp<EK_MESSAGE_PASSING_DEVICE>::forward));
  m.impl("row_mlp_backward", TORCH_BOX(&ek::RowMlp<EK_MESSAGE_PASSING_DEVICE>::backward));
}

#if defined(EK_WITH_CUDA)
#define EK_PLAN(name) name "_cuda"
#else
#define EK_PLAN(name) name
#endif
STABLE_TORCH_LIBRARY_IMPL(equikernels, CompositeExplicitAutograd, m) {
  m.impl(EK_PLAN("message_passing_plan"), TORCH_BOX(&ek::message_passing_plan<EK_MESSAGE_PASSING_DEVICE>));
  m.impl(EK_PLAN("row_mlp_plan"), TORCH_BOX(&ek::row_mlp_plan<EK_MESSAGE_PASSING_DEVICE>));
}
