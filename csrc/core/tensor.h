// Tensors at the door of the kernels: checks, pointers, the graph, and how work reaches a device.
// The Python wrappers give the friendly errors; the checks here keep a direct call of an op from reading out of bounds.
#pragma once

#include <optional>
#include <vector>

#include "graph.h"
#include "storage.h"
#if defined(EK_WITHOUT_TORCH)
#include "../onnxruntime/tensor.h"
#else
#include "torch.h"
#endif

namespace ek {

// How an op's schema spells a graph. The table is one int64 vector, a concatenation:
//   complete graph: ptr, edge_ptr                                                    2 (num_events + 1) entries
//   CSR and its transpose: in_ptr, sender, in_edge, out_ptr, receiver, out_edge      2 (num_nodes + 1) + 4 num_edges
// kind: 0 CSR, 1 complete, 2 complete with self-loops.
#define EK_GRAPH_SCHEMA "Tensor graph, SymInt num_edges, int kind"
// A fused op, see equikernels/ops/fused_op.py, and its backward, which gives the gradients of the wanted tensors.
#define EK_FUSED_OPTIONS EK_GRAPH_SCHEMA ", SymInt[] options, float[] numbers"
#define EK_FUSED(name) name "(Tensor?[] tensors, " EK_FUSED_OPTIONS ") -> Tensor[]"
#define EK_FUSED_BACKWARD(name)                                                          \
  name "_backward(Tensor?[] grads, Tensor?[] tensors, Tensor[] saved, " EK_FUSED_OPTIONS \
       ", bool[] wanted) -> "                                                            \
       "Tensor[]"

inline GraphView graph_view(const Tensor& table, int64_t num_nodes, int64_t num_edges, int64_t kind) {
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Long && table.dim() == 1 && table.is_contiguous(),
                  "graph: expected a contiguous int64 vector");
  STD_TORCH_CHECK(0 <= kind && kind <= 2, "graph: kind: expected 0, 1 or 2, got ", kind);
  const int64_t* p = table.const_data_ptr<int64_t>();
  GraphView g;
  g.num_nodes = num_nodes;
  g.num_edges = num_edges;
  if (kind == 0) {
    const int64_t n = num_nodes + 1, e = num_edges;
    STD_TORCH_CHECK(table.size(0) == 2 * n + 4 * e, "graph: the table does not fit ", num_nodes, " nodes and ", e,
                    " edges");
    g.in = {p, p + n, p + n + e};
    g.out = {p + n + 2 * e, p + 2 * n + 2 * e, p + 2 * n + 3 * e};
  } else {
    STD_TORCH_CHECK(table.size(0) >= 2 && table.size(0) % 2 == 0, "graph: the table of a complete graph is odd");
    g.num_events = table.size(0) / 2 - 1;
    g.ptr = p;
    g.edge_ptr = p + g.num_events + 1;
    g.self_loops = kind == 2;
  }
  return g;
}

inline void check_shape(const Tensor& t, const char* op, const char* name, std::vector<int64_t> shape) {
  bool same = t.dim() == int64_t(shape.size());
  for (size_t d = 0; same && d < shape.size(); ++d) same = shape[d] < 0 || t.size(d) == shape[d];
  STD_TORCH_CHECK(same, op, ": ", name, ": unexpected shape");
}

// An optional argument: its data, or null.
template <class T>
const T* pointer(const std::optional<Tensor>& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

// An optional argument, where given, of this shape and of the dtype of another tensor; made contiguous.
inline void match(const char* op, std::optional<Tensor>& t, const char* name, const Tensor& like, const char* like_name,
                  std::vector<int64_t> shape) {
  if (!t) return;
  check_shape(*t, op, name, shape);
  STD_TORCH_CHECK(t->scalar_type() == like.scalar_type(), op, ": ", name, ": expected the dtype of ", like_name);
  t = as_contiguous(*t);
}

template <class F>
void dispatch_floating(ScalarType type, const char* op, F&& f) {
  if (type == ScalarType::Float)
    f(float{});
  else if (type == ScalarType::Double)
    f(double{});
  else
    STD_TORCH_CHECK(false, op, ": expected float32 or float64");
}

// With the numbers that are stored in 16 bits, too.
template <class F>
void dispatch_stored(ScalarType type, const char* op, F&& f) {
  if (type == ScalarType::BFloat16)
    f(BFloat16{});
  else if (type == ScalarType::Half)
    f(Float16{});
  else
    dispatch_floating(type, op, f);
}

}  // namespace ek
