// What the rank-2 kernels share: walking the events that a range of nodes touches, activations.
#pragma once

#include "../core/graph.h"
#include "../simd/dense.h"

namespace ek {
namespace {

// f(first node of the event, its first pair, n, p0, p1): particles [p0, p1) of the event are in [begin, end).
template <class F>
inline void over_events(const GraphView& g, int64_t begin, int64_t end, F&& f) {
  if (begin >= end) return;
  for (int64_t b = g.event_of(begin); b < g.num_events && g.ptr[b] < end; ++b) {
    const int64_t node = g.ptr[b], n = g.ptr[b + 1] - node;
    const int64_t p0 = begin > node ? begin - node : 0, p1 = end < node + n ? end - node : n;
    if (p0 < p1) f(node, g.edge_ptr[b], n, p0, p1);
  }
}

inline int64_t longest_event(const GraphView& g) {
  int64_t n = 0;
  for (int64_t b = 0; b < g.num_events; ++b)
    if (g.ptr[b + 1] - g.ptr[b] > n) n = g.ptr[b + 1] - g.ptr[b];
  return n;
}

// k in every lane.
template <class T>
inline Bits<T> number(int64_t k) {
  return Bits<T>{} + decltype(Bits<T>{}[0] + 0)(k);
}

// An activation by the slope it has below zero: the identity at 1, a ReLU at 0.
template <class T>
inline Vec<T> act(Vec<T> z, T slope) {
  if (slope == T(0)) return max_of(Vec<T>{}, z);
  return z > T(0) ? z : z * slope;
}

// The share of a gradient that act lets through, from what came out of it.
template <class T>
inline Vec<T> through(Vec<T> grad, Vec<T> out, T slope) {
  if (slope == T(0)) return out <= T(0) ? Vec<T>{} : grad;
  return out > T(0) ? grad : grad * slope;
}

}  // namespace
}  // namespace ek
