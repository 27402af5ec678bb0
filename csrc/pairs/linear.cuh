// What the kernels of linear_2to2 share: maps of the coefficients, factors of events, sums of an event.
#pragma once

#include "linear_cuda.h"
#include "tile.cuh"

namespace ek {
namespace {

// Element (c, d) of map k, from the coefficients.
template <class S>
__device__ inline Accumulator<S> map_value(const LinearArgs<S>& a, int k, int64_t c, int64_t d) {
  const int p = a.at[k];
  if (p < 0) return 0;
  if (!a.coefs01) return widen(a.coefs[(c * a.width + d) * a.kept + p]);
  return widen(a.coefs[c * a.kept + p]) * widen(a.coefs10[c * a.width + d]) +
         widen(a.coefs01[d * a.kept + p]) * widen(a.coefs11[c * a.width + d]);
}

template <class S>
__device__ inline Accumulator<S> size_of(const LinearArgs<S>& a, int64_t event) {
  using T = Accumulator<S>;
  const T n = a.nobj ? widen(a.nobj[event]) : T(a.graph.ptr[event + 1] - a.graph.ptr[event]);
  return n < T(1) ? T(1) : n;
}
template <class S>
__device__ inline Accumulator<S> log_of_size(const LinearArgs<S>& a, int64_t event) {
  using T = Accumulator<S>;
  return T(log(double(size_of(a, event) / T(a.nbar))));
}

// A number of the layer's input: scale x + count shift.
template <class S>
__device__ inline Accumulator<S> normed(const LinearArgs<S>& a, Accumulator<S> x, Accumulator<S> count, int64_t c) {
  return a.scale ? x * widen(a.scale[c]) + count * widen(a.shift[c]) : x;
}

template <class S>
struct Event {
  using T = Accumulator<S>;
  int64_t event, node, n;
  const T* factors;  // [10, in]
  __device__ Event(const LinearArgs<S>& a, int64_t b)
      : event(b),
        node(a.graph.ptr[b]),
        n(a.graph.ptr[b + 1] - a.graph.ptr[b]),
        factors(a.factors + b * a.factored * a.in) {}
  __device__ T factor(const LinearArgs<S>& a, int map, int64_t c) const { return factors[(map - 5) * a.in + c]; }
};

// sums[u] = sum over rows r < count of get(r, u), u < units. shared: a number of each thread.
template <class T, class Get>
__device__ inline void sum_rows(int64_t count, int units, T* shared, T* sums, Get&& get) {
  const int across = units < kThreads ? units : kThreads, teams = kThreads / across;
  const int unit = threadIdx.x % across, team = threadIdx.x / across;
  for (int first = 0; first < units; first += across) {
    const int u = first + unit;
    T sum = 0;
    if (u < units && team < teams) {
#pragma unroll 4
      for (int64_t r = team; r < count; r += teams) sum += get(r, u);
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (team == 0 && u < units) {
      for (int other = 1; other < teams; ++other) sum += shared[other * across + unit];
      sums[u] = sum;
    }
    __syncthreads();
  }
}

// Trace and total of an event's input, [2, in].
template <class S>
__device__ inline void event_sums(const LinearArgs<S>& a, const Event<S>& e, Accumulator<S>* shared,
                                  Accumulator<S>* sums) {
  using T = Accumulator<S>;
  const int C = int(a.in);
  sum_rows(e.n, 2 * C, shared, sums,
           [&](int64_t r, int u) { return widen(a.aggregates[(e.node + r) * 3 * C + (u < C ? u : u + C)]); });
  for (int u = threadIdx.x; u < 2 * C; u += kThreads)
    sums[u] = normed(a, sums[u], u < C ? T(e.n) : T(e.n) * T(e.n), u < C ? u : u - C);
  __syncthreads();
}

// What is multiplied to a slot of the table: a particle's diagonal, columns and rows, the last two with their factors.
template <class S>
__device__ inline Accumulator<S> node_input(const LinearArgs<S>& a, const Event<S>& e, int64_t node, int slot, int k) {
  using T = Accumulator<S>;
  const int C = int(a.in), part = (k >= C) + (k >= 2 * C), c = k - part * C;
  const T x = normed(a, widen(a.aggregates[node * 3 * a.in + k]), part == 0 ? T(1) : T(e.n), c);
  return part == 0 ? x : x * e.factor(a, a.map_of_node(part, slot), c);
}

}  // namespace
}  // namespace ek
