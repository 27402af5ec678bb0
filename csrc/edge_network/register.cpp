// Registers the edge network.
#include "../core/register.h"
#if defined(EK_WITH_CUDA)
#include "cuda.h"
#define EK_EDGE_NETWORK ek::EdgeNetworkOp<ek::EdgeNetworkOnCuda<EK_DEVICE>>
#else
#include "cpu.h"
#define EK_EDGE_NETWORK ek::EdgeNetworkOp<ek::EdgeNetworkOnCpu>
#endif

EK_SCHEMAS(m) {
  m.def(ek::kEdgeNetworkSchema);
  m.def(ek::kEdgeNetworkBackwardSchema);
}

EK_KERNELS(m) {
  m.impl("edge_network", TORCH_BOX(&EK_EDGE_NETWORK::forward));
  m.impl("edge_network_backward", TORCH_BOX(&EK_EDGE_NETWORK::backward));
}
