// Registers the ops on pairs.
#include "../core/register.h"

#include "sums_op.h"
#if defined(EK_WITH_CUDA)
#include "linear_on_cuda.h"
#define EK_PAIRS ek::Rank2Sums<ek::Rank2OnCuda<EK_DEVICE>>
#define EK_MIX ek::ProductsOnCuda<EK_DEVICE>
#define EK_ROWS EK_MIX
#define EK_LINEAR_2TO2 ek::LinearOnCuda<EK_DEVICE>
#define EK_LINEAR_2TO0 EK_LINEAR_2TO2
#else
#include "linear_1to2.h"
#include "linear_2to0.h"
#include "linear_2to2.h"
#include "mix_op.h"
#include "rows_op.h"
#define EK_PAIRS ek::Rank2Sums<ek::Rank2OnCpu>
#define EK_MIX ek::MixOnCpu
#define EK_LINEAR_2TO2 ek::Linear2to2OnCpu
#define EK_LINEAR_2TO0 ek::Linear2to0OnCpu
#define EK_ROWS ek::RowsOnCpu
#endif

EK_KERNELS(m) {
  m.impl("rank2_sum", TORCH_BOX(&EK_PAIRS::sum));
  m.impl("rank2_broadcast", TORCH_BOX(&EK_PAIRS::broadcast));
  m.impl("rank2_extremum", TORCH_BOX(&EK_PAIRS::extremum));
  m.impl("rank2_mix", ek::boxed<&EK_MIX::mix>);
  m.impl("rank2_mix_backward", ek::boxed<&EK_MIX::mix_backward>);
  m.impl("linear_2to2", TORCH_BOX(&EK_LINEAR_2TO2::forward_2to2));
  m.impl("linear_2to2_backward", TORCH_BOX(&EK_LINEAR_2TO2::backward_2to2));
  m.impl("linear_2to0", TORCH_BOX(&EK_LINEAR_2TO0::forward_2to0));
  m.impl("linear_2to0_backward", TORCH_BOX(&EK_LINEAR_2TO0::backward_2to0));
  m.impl("rows_product", TORCH_BOX(&EK_ROWS::product));
  m.impl("rows_outer", TORCH_BOX(&EK_ROWS::outer));
  m.impl("rows_network", TORCH_BOX(&EK_ROWS::network));
  m.impl("rows_network_backward", TORCH_BOX(&EK_ROWS::network_backward));
}

#if !defined(EK_WITH_CUDA)
EK_SCHEMAS(m) {
  m.def(ek::kRank2SumSchema);
  m.def(ek::kRank2BroadcastSchema);
  m.def(ek::kRank2ExtremumSchema);
  m.def(ek::kRank2MixSchema);
  m.def(ek::kRank2MixBackwardSchema);
  m.def(ek::kRank2ProductsSchema);
  m.def(EK_FUSED("linear_2to2"));
  m.def(EK_FUSED_BACKWARD("linear_2to2"));
  m.def(EK_FUSED("linear_2to0"));
  m.def(EK_FUSED_BACKWARD("linear_2to0"));
  m.def(EK_FUSED("linear_1to2"));
  m.def(EK_FUSED_BACKWARD("linear_1to2"));
  m.def(ek::kRowsProductSchema);
  m.def(ek::kRowsOuterSchema);
  m.def(EK_FUSED("rows_network"));
  m.def(EK_FUSED_BACKWARD("rows_network"));
  m.def(ek::kRowAffineSchema);
}

EK_KERNELS(m) {
  m.impl("linear_1to2", TORCH_BOX(&ek::Linear1to2OnCpu::forward_1to2));
  m.impl("linear_1to2_backward", TORCH_BOX(&ek::Linear1to2OnCpu::backward_1to2));
  m.impl("rank2_products", TORCH_BOX(&ek::MixOnCpu::products));
  m.impl("row_affine", TORCH_BOX(&ek::RowsOnCpu::affine));
}
#endif
