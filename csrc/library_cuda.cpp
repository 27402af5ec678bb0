// The CUDA implementations. Loaded only beside a torch that has CUDA.
#include "common/cuda.h"
#include "coordinates/bind.h"
#include "invariants/bind.h"
#include "segment/bind.h"

STABLE_TORCH_LIBRARY_IMPL(equikernels, CUDA, m) {
  m.impl("invariants", TORCH_BOX(&ek::Invariants<ek::Cuda>::forward));
  m.impl("invariants_backward", TORCH_BOX(&ek::Invariants<ek::Cuda>::backward));
  m.impl("coordinates", TORCH_BOX(&ek::Coordinates<ek::Cuda>::forward));
  m.impl("coordinates_backward", TORCH_BOX(&ek::Coordinates<ek::Cuda>::backward));
  m.impl("segment_sum", TORCH_BOX(&ek::Segment<ek::Cuda>::sum));
  m.impl("segment_spread", TORCH_BOX(&ek::Segment<ek::Cuda>::spread));
  m.impl("segment_product", TORCH_BOX(&ek::Segment<ek::Cuda>::product));
  m.impl("segment_extremum", TORCH_BOX(&ek::Segment<ek::Cuda>::extremum));
  m.impl("segment_softmax", TORCH_BOX(&ek::Segment<ek::Cuda>::softmax));
  m.impl("segment_softmax_backward", TORCH_BOX(&ek::Segment<ek::Cuda>::softmax_backward));
}
