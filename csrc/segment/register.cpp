// Registers the segment ops.
#include "../core/register.h"

#include "bind.h"

EK_SCHEMAS(m) {
  m.def("segment_sum(Tensor source, Tensor? weight, Tensor? arg, " EK_GRAPH_SCHEMA
        ", SymInt num_nodes, int rows, bool mean) -> Tensor");
  m.def("gather_to_edges(Tensor source, Tensor? arg, " EK_GRAPH_SCHEMA ") -> Tensor");
  m.def("edge_dot(Tensor receivers, Tensor senders, Tensor? arg, " EK_GRAPH_SCHEMA ", bool per_channel) -> Tensor");
  m.def("segment_extremum(Tensor source, Tensor? weight, " EK_GRAPH_SCHEMA
        ", SymInt num_nodes, int rows, bool largest) -> (Tensor, Tensor)");
  m.def("segment_softmax(Tensor values, " EK_GRAPH_SCHEMA ", SymInt num_nodes) -> Tensor");
  m.def("segment_softmax_backward(Tensor grad, Tensor output, " EK_GRAPH_SCHEMA ", SymInt num_nodes) -> Tensor");
}

EK_KERNELS(m) {
  m.impl("segment_sum", TORCH_BOX(&ek::Segment<EK_DEVICE>::sum));
  m.impl("gather_to_edges", TORCH_BOX(&ek::Segment<EK_DEVICE>::gather_to_edges));
  m.impl("edge_dot", TORCH_BOX(&ek::Segment<EK_DEVICE>::edge_dot));
  m.impl("segment_extremum", TORCH_BOX(&ek::Segment<EK_DEVICE>::extremum));
  m.impl("segment_softmax", TORCH_BOX(&ek::Segment<EK_DEVICE>::softmax));
  m.impl("segment_softmax_backward", TORCH_BOX(&ek::Segment<EK_DEVICE>::softmax_backward));
}
