// The CUDA implementations. Loaded only beside a torch that has CUDA.
#include "common/cuda.h"
#include "coordinates/bind.h"
#include "invariants/bind.h"

STABLE_TORCH_LIBRARY_IMPL(equikernels, CUDA, m) {
  m.impl("invariants", TORCH_BOX(&ek::Invariants<ek::Cuda>::forward));
  m.impl("invariants_backward", TORCH_BOX(&ek::Invariants<ek::Cuda>::backward));
  m.impl("coordinates", TORCH_BOX(&ek::Coordinates<ek::Cuda>::forward));
  m.impl("coordinates_backward", TORCH_BOX(&ek::Coordinates<ek::Cuda>::backward));
}
