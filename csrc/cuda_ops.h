// The ops that have CUDA kernels, for any device that runs those: a GPU, or the emulator of the tests.
#pragma once

#include "coordinates/bind.h"
#include "edge_network/cuda.h"
#include "encode/bind.h"
#include "invariants/bind.h"
#include "message/cuda.h"
#include "neighbors/bind.h"
#include "rank2/cuda.h"
#include "segment/bind.h"

namespace ek {

template <class Device, class Library>
void implement_cuda_ops(Library& m) {
  m.impl("invariants", TORCH_BOX(&Invariants<Device>::forward));
  m.impl("invariants_backward", TORCH_BOX(&Invariants<Device>::backward));
  m.impl("invariant_moments", TORCH_BOX(&Invariants<Device>::moments));
  m.impl("invariant_moments_backward", TORCH_BOX(&Invariants<Device>::moments_backward));
  m.impl("coordinates", TORCH_BOX(&Coordinates<Device>::forward));
  m.impl("coordinates_backward", TORCH_BOX(&Coordinates<Device>::backward));
  m.impl("edge_network", TORCH_BOX(&EdgeNetworkOp<EdgeNetworkOnCuda<Device>>::forward));
  m.impl("edge_network_backward", TORCH_BOX(&EdgeNetworkOp<EdgeNetworkOnCuda<Device>>::backward));
  m.impl("nearest_neighbors", TORCH_BOX(&Neighbors<Device>::nearest));
  m.impl("neighbors_within", TORCH_BOX(&Neighbors<Device>::within));
  m.impl("encode", TORCH_BOX(&Encode<Device>::forward));
  m.impl("encode_backward", TORCH_BOX(&Encode<Device>::backward));
  m.impl("message", TORCH_BOX(&Message<MessageOnCuda<Device>>::forward));
  m.impl("message_backward", TORCH_BOX(&Message<MessageOnCuda<Device>>::backward));
  m.impl("rank2_sum", TORCH_BOX(&Rank2<Rank2OnCuda<Device>>::sum));
  m.impl("rank2_broadcast", TORCH_BOX(&Rank2<Rank2OnCuda<Device>>::broadcast));
  m.impl("rank2_extremum", TORCH_BOX(&Rank2<Rank2OnCuda<Device>>::extremum));
  m.impl("segment_sum", TORCH_BOX(&Segment<Device>::sum));
  m.impl("segment_spread", TORCH_BOX(&Segment<Device>::spread));
  m.impl("segment_product", TORCH_BOX(&Segment<Device>::product));
  m.impl("segment_extremum", TORCH_BOX(&Segment<Device>::extremum));
  m.impl("segment_softmax", TORCH_BOX(&Segment<Device>::softmax));
  m.impl("segment_softmax_backward", TORCH_BOX(&Segment<Device>::softmax_backward));
}

}  // namespace ek
