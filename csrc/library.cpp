// Every op's schema in one table, and the CPU implementations.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "common/cpu.h"
#include "coordinates/bind.h"
#include "edge_network/cpu.h"
#include "encode/bind.h"
#include "invariants/bind.h"
#include "message/cpu.h"
#include "neighbors/bind.h"
#include "peak/peak.h"
#include "rank2/cpu.h"
#include "rank2/products_bind.h"
#include "segment/bind.h"

namespace ek {
namespace {

bool supported(Isa isa) {
  switch (isa) {
    case Isa::baseline: return true;
#if defined(EK_HAVE_AVX2)
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(EK_HAVE_AVX512)
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && supported(Isa::avx2);
#endif
    default: return false;
  }
}

Isa initial_isa() {
  const char* names[] = {"baseline", "avx2", "avx512"};
  const char* wanted = std::getenv("EQUIKERNELS_CPU");
  for (int i = 2; i >= 0; --i)
    if (supported(Isa(i)) && (!wanted || !*wanted || std::strcmp(wanted, names[i]) == 0)) return Isa(i);
  return Isa::baseline;  // the Python side reports an EQUIKERNELS_CPU that cannot be had
}

std::atomic<int> current{int(initial_isa())};

}  // namespace

Isa active_isa() { return Isa(current.load(std::memory_order_relaxed)); }

}  // namespace ek

// For the host module. request < 0 asks for the set in use; otherwise switches to that set.
// Returns the set then in use, or -1 where the CPU or the build lacks the one asked for.
extern "C" __attribute__((visibility("default"))) int equikernels_isa(int request) {
  if (request >= 0) {
    if (!ek::supported(ek::Isa(request))) return -1;
    ek::current.store(request, std::memory_order_relaxed);
  }
  return ek::current.load(std::memory_order_relaxed);
}

// For the host module: the multiply-add loop of the set in use, on the calling thread. Returns operations done.
extern "C" __attribute__((visibility("default"))) double equikernels_multiply_adds(int64_t iterations) {
  double done = 0;
  ek::dispatch_isa([&](auto isa) { done = ek::Peak<decltype(isa)>::float_multiply_adds(iterations); });
  return done;
}

STABLE_TORCH_LIBRARY(equikernels, m) {
  m.def(ek::kInvariantsSchema);
  m.def(ek::kInvariantsBackwardSchema);
  m.def(ek::kMomentsSchema);
  m.def(ek::kMomentsBackwardSchema);
  m.def(ek::kMessageSchema);
  m.def(ek::kMessageBackwardSchema);
  m.def(ek::kEdgeNetworkSchema);
  m.def(ek::kEdgeNetworkBackwardSchema);
  m.def(ek::kCoordinatesSchema);
  m.def(ek::kCoordinatesBackwardSchema);
  m.def(ek::kNearestSchema);
  m.def(ek::kWithinSchema);
  m.def(ek::kRank2SumSchema);
  m.def(ek::kRank2BroadcastSchema);
  m.def(ek::kRank2ExtremumSchema);
  m.def(ek::kRank2ProductsSchema);
  m.def(ek::kRank2MixSchema);
  m.def(ek::kRank2MixBackwardSchema);
  m.def(ek::kLinear2to2Schema);
  m.def(ek::kLinear2to2BackwardSchema);
  m.def(ek::kEncodeSchema);
  m.def(ek::kEncodeBackwardSchema);
  m.def(ek::kRowsProductSchema);
  m.def(ek::kRowsOuterSchema);
  m.def(ek::kRowsLayerSchema);
  m.def(ek::kRowsLayerBackwardSchema);
  m.def(ek::kRowMomentsSchema);
  m.def(ek::kRowAffineSchema);
  m.def(ek::kSegmentSumSchema);
  m.def(ek::kSegmentSpreadSchema);
  m.def(ek::kSegmentProductSchema);
  m.def(ek::kSegmentExtremumSchema);
  m.def(ek::kSegmentSoftmaxSchema);
  m.def(ek::kSegmentSoftmaxBackwardSchema);
}

STABLE_TORCH_LIBRARY_IMPL(equikernels, CPU, m) {
  m.impl("invariants", TORCH_BOX(&ek::Invariants<ek::Cpu>::forward));
  m.impl("invariants_backward", TORCH_BOX(&ek::Invariants<ek::Cpu>::backward));
  m.impl("invariant_moments", TORCH_BOX(&ek::Invariants<ek::Cpu>::moments));
  m.impl("invariant_moments_backward", TORCH_BOX(&ek::Invariants<ek::Cpu>::moments_backward));
  m.impl("message", TORCH_BOX(&ek::Message<ek::MessageOnCpu>::forward));
  m.impl("message_backward", TORCH_BOX(&ek::Message<ek::MessageOnCpu>::backward));
  m.impl("edge_network", TORCH_BOX(&ek::EdgeNetworkOp<ek::EdgeNetworkOnCpu>::forward));
  m.impl("edge_network_backward", TORCH_BOX(&ek::EdgeNetworkOp<ek::EdgeNetworkOnCpu>::backward));
  m.impl("coordinates", TORCH_BOX(&ek::Coordinates<ek::Cpu>::forward));
  m.impl("coordinates_backward", TORCH_BOX(&ek::Coordinates<ek::Cpu>::backward));
  m.impl("nearest_neighbors", TORCH_BOX(&ek::Neighbors<ek::Cpu>::nearest));
  m.impl("neighbors_within", TORCH_BOX(&ek::Neighbors<ek::Cpu>::within));
  m.impl("rank2_sum", TORCH_BOX(&ek::Rank2<ek::Rank2OnCpu>::sum));
  m.impl("rank2_broadcast", TORCH_BOX(&ek::Rank2<ek::Rank2OnCpu>::broadcast));
  m.impl("rank2_extremum", TORCH_BOX(&ek::Rank2<ek::Rank2OnCpu>::extremum));
  m.impl("rank2_products", TORCH_BOX(&ek::rank2_products<ek::Rank2OnCpu>));
  m.impl("rank2_mix", TORCH_BOX(&ek::Rank2<ek::Rank2OnCpu>::mix));
  m.impl("rank2_mix_backward", TORCH_BOX(&ek::Rank2<ek::Rank2OnCpu>::mix_backward));
  m.impl("encode", TORCH_BOX(&ek::Encode<ek::Cpu>::forward));
  m.impl("encode_backward", TORCH_BOX(&ek::Encode<ek::Cpu>::backward));
  m.impl("linear_2to2", TORCH_BOX(&ek::Linear2to2<ek::Rank2OnCpu>::forward));
  m.impl("linear_2to2_backward", TORCH_BOX(&ek::Linear2to2<ek::Rank2OnCpu>::backward));
  m.impl("rows_product", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::product));
  m.impl("rows_outer", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::outer));
  m.impl("rows_layer", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::layer));
  m.impl("rows_layer_backward", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::layer_backward));
  m.impl("row_moments", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::moments));
  m.impl("row_affine", TORCH_BOX(&ek::RowProducts<ek::Rank2OnCpu>::affine));
  m.impl("segment_sum", TORCH_BOX(&ek::Segment<ek::Cpu>::sum));
  m.impl("segment_spread", TORCH_BOX(&ek::Segment<ek::Cpu>::spread));
  m.impl("segment_product", TORCH_BOX(&ek::Segment<ek::Cpu>::product));
  m.impl("segment_extremum", TORCH_BOX(&ek::Segment<ek::Cpu>::extremum));
  m.impl("segment_softmax", TORCH_BOX(&ek::Segment<ek::Cpu>::softmax));
  m.impl("segment_softmax_backward", TORCH_BOX(&ek::Segment<ek::Cpu>::softmax_backward));
}
