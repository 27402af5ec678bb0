// Registers the table of a graph; on CUDA PyTorch's sort makes it.
#include "../core/register.h"

#include "table.h"

EK_SCHEMAS(m) { m.def("edge_table(Tensor edge_index, SymInt num_nodes) -> Tensor"); }

#if !defined(EK_WITH_CUDA)
EK_KERNELS(m) { m.impl("edge_table", TORCH_BOX(&ek::edge_table)); }
#endif
