// Registers the rank-2 ops. CUDA has the sums, the broadcast and the extremum.
#include "../core/register.h"
#if defined(EK_WITH_CUDA)
#include "cuda.h"
#define EK_RANK2 ek::Rank2OnCuda<EK_DEVICE>
#else
#include "cpu.h"
#include "products_bind.h"
#define EK_RANK2 ek::Rank2OnCpu
#endif

EK_KERNELS(m) {
  m.impl("rank2_sum", TORCH_BOX(&ek::Rank2<EK_RANK2>::sum));
  m.impl("rank2_broadcast", TORCH_BOX(&ek::Rank2<EK_RANK2>::broadcast));
  m.impl("rank2_extremum", TORCH_BOX(&ek::Rank2<EK_RANK2>::extremum));
}

#if !defined(EK_WITH_CUDA)
EK_SCHEMAS(m) {
  m.def(ek::kRank2SumSchema);
  m.def(ek::kRank2BroadcastSchema);
  m.def(ek::kRank2ExtremumSchema);
  m.def(ek::kRank2ProductsSchema);
  m.def(ek::kRank2MixSchema);
  m.def(ek::kRank2MixBackwardSchema);
  m.def(ek::kLinear2to2Schema);
  m.def(ek::kLinear2to2BackwardSchema);
  m.def(ek::kRowsProductSchema);
  m.def(ek::kRowsOuterSchema);
  m.def(ek::kRowsLayerSchema);
  m.def(ek::kRowsLayerBackwardSchema);
  m.def(ek::kRowMomentsSchema);
  m.def(ek::kRowAffineSchema);
}

EK_KERNELS(m) {
  m.impl("rank2_products", TORCH_BOX(&ek::rank2_products<EK_RANK2>));
  m.impl("rank2_mix", TORCH_BOX(&ek::Rank2<EK_RANK2>::mix));
  m.impl("rank2_mix_backward", TORCH_BOX(&ek::Rank2<EK_RANK2>::mix_backward));
  m.impl("linear_2to2", TORCH_BOX(&ek::Linear2to2<EK_RANK2>::forward));
  m.impl("linear_2to2_backward", TORCH_BOX(&ek::Linear2to2<EK_RANK2>::backward));
  m.impl("rows_product", TORCH_BOX(&ek::RowProducts<EK_RANK2>::product));
  m.impl("rows_outer", TORCH_BOX(&ek::RowProducts<EK_RANK2>::outer));
  m.impl("rows_layer", TORCH_BOX(&ek::RowProducts<EK_RANK2>::layer));
  m.impl("rows_layer_backward", TORCH_BOX(&ek::RowProducts<EK_RANK2>::layer_backward));
  m.impl("row_moments", TORCH_BOX(&ek::RowProducts<EK_RANK2>::moments));
  m.impl("row_affine", TORCH_BOX(&ek::RowProducts<EK_RANK2>::affine));
}
#endif
