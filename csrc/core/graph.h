// The one graph type as kernels see it: raw pointers, valid on host and device alike.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define EK_HD __host__ __device__ __forceinline__
#else
#define EK_HD inline
#endif

namespace ek {

inline constexpr int kMaxDim = 8;  // most coordinates a node can have

// Edges that meet one node, seen from its receiving or its sending side (CSR graphs).
struct Side {
  const int64_t* ptr = nullptr;    // [num_nodes + 1]
  const int64_t* other = nullptr;  // [num_edges] node at the other end of each slot
  const int64_t* edge = nullptr;   // [num_edges] slot -> position in per-edge tensors
};

// The edges on one side of one node, in slots 0 .. count - 1, always walked in this order.
struct Row {
  int64_t count = 0;
  int64_t node0 = 0;               // complete: first node of the event
  int64_t self = 0;                // complete: slot from which the node itself is skipped
  int64_t edge0 = 0;               // complete: edge of slot 0
  int64_t stride = 1;              // complete: edge step from slot to slot
  int64_t skip = 0;                // complete: extra edge step from slot self on
  const int64_t* other = nullptr;  // CSR: this row's part of Side::other
  const int64_t* edges = nullptr;  // CSR: this row's part of Side::edge

  EK_HD int64_t node(int64_t k) const { return other ? other[k] : node0 + k + (k >= self); }
  EK_HD int64_t edge(int64_t k) const { return edges ? edges[k] : edge0 + k * stride + (k >= self ? skip : 0); }
};

struct GraphView {
  int64_t num_nodes = 0;
  int64_t num_edges = 0;              // CSR graphs; a complete graph has edge_ptr[num_events]
  int64_t num_events = 0;             // complete graphs only, as the next three
  const int64_t* ptr = nullptr;       // [num_events + 1] first node of each event
  const int64_t* edge_ptr = nullptr;  // [num_events + 1] first edge of each event
  bool self_loops = false;
  Side in;   // edges a node receives
  Side out;  // edges a node sends

  EK_HD bool complete() const { return ptr != nullptr; }

  // The event of a node: the last b with ptr[b] <= node (empty events are stepped over).
  EK_HD int64_t event_of(int64_t node) const {
    int64_t lo = 0, hi = num_events;
    while (hi - lo > 1) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (ptr[mid] <= node)
        lo = mid;
      else
        hi = mid;
    }
    return lo;
  }

  EK_HD Row received(int64_t node, int64_t event) const {
    return complete() ? dense(node, event, true) : sparse(in, node);
  }
  EK_HD Row sent(int64_t node, int64_t event) const {
    return complete() ? dense(node, event, false) : sparse(out, node);
  }

  // Edges received by all nodes before `node`: the measure of work by which receivers are shared out.
  EK_HD int64_t edges_before(int64_t node) const {
    if (!complete()) return in.ptr[node];
    if (node >= num_nodes) return edge_ptr[num_events];
    const int64_t b = event_of(node), n = ptr[b + 1] - ptr[b];
    return edge_ptr[b] + (node - ptr[b]) * (self_loops ? n : n - 1);
  }

 private:
  static EK_HD Row sparse(const Side& s, int64_t node) {
    const int64_t first = s.ptr[node];
    Row r;
    r.count = s.ptr[node + 1] - first;
    r.other = s.other + first;
    r.edges = s.edge + first;
    return r;
  }

  // A complete graph numbers its edges row-major (receiver, sender) inside each event. Edge (i, p), without
  // self-loops, is i * (n - 1) + p - (p > i): a sender's edges are n - 1 apart, and n more behind the diagonal.
  EK_HD Row dense(int64_t node, int64_t event, bool receiving) const {
    const int64_t n = ptr[event + 1] - ptr[event], p = node - ptr[event];
    const int64_t width = self_loops ? n : n - 1;
    Row r;
    r.node0 = ptr[event];
    r.count = width;
    r.self = self_loops ? n : p;
    r.edge0 = edge_ptr[event] + (receiving ? p * width : (self_loops ? p : p - 1));
    r.stride = receiving ? 1 : width;
    r.skip = receiving ? 0 : width + 1;
    return r;
  }
};

}  // namespace ek
