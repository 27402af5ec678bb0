// Panels, which the kernels of sums.cu work on: how an event's matrix is cut, and how a block's threads share a piece.
#pragma once

#include "../core/launch.cuh"

namespace ek {
namespace {

// Columns a thread keeps, and rows it reads between two exchanges.
template <class T, int kVec>
constexpr int kColumns = sizeof(T) * kVec > 4 ? 4 : 8;
template <class T, int kVec>
constexpr int kRows = kColumns<T, kVec> / 2;

// How the threads of a block share a panel. A unit is kVec channels.
struct Layout {
  static constexpr int kMostUnits = 128, kMostGroups = 16;

  int units;      // at a time
  int groups;     // of threads, each with every groups-th column
  int teams;      // of groups, each with every teams-th row
  int columns;    // of a thread, at most
  int width;      // columns of a panel
  int log2;       // of the largest power of two not above width
  int64_t slots;  // panels of all events, a few of them empty

  Layout(const GraphView& g, int64_t channels, int vec, int most) {
    const int64_t all = channels / vec, times = (all + kMostUnits - 1) / kMostUnits;
    units = int((all + times - 1) / times);
    groups = kThreads / units < kMostGroups ? kThreads / units : kMostGroups;
    teams = kThreads / (units * groups);
    columns = panel_columns(g.num_nodes, g.num_events, groups, most);
    width = groups * columns;
    for (log2 = 0; width >> (log2 + 1); ++log2) {
    }
    slots = g.num_nodes / width + g.num_events + 1;
  }
  unsigned grid() const { return grid_for(slots, 1); }
};

// What one thread works on.
struct Panel {
  int64_t node, pair;     // first of the event
  int n, first;           // particles of the event; first column of the panel, n where there is none
  int unit, group, team;  // of this thread

  // Slot s begins `s * width` into the nodes, counting `width` more for each event: an event of n has at least
  // ceil(n / width) of them.
  __device__ Panel(const GraphView& g, const Layout& l, int64_t slot) {
    const int64_t at = slot * l.width;
    int64_t lo = 0, hi = g.num_events;  // the last event with ptr + event * width <= at
    while (hi - lo > 1) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (g.ptr[mid] + mid * l.width <= at)
        lo = mid;
      else
        hi = mid;
    }
    node = g.ptr[lo];
    pair = g.edge_ptr[lo];
    n = int(g.ptr[lo + 1] - node);
    const int64_t behind = at - node - lo * l.width;  // below n + width but in slots behind all events
    first = behind < n + l.width ? int(behind) / l.width * l.width : n;
    if (first > n) first = n;

    const int t = threadIdx.x;
    unit = t % l.units;
    group = t / l.units % l.groups;
    team = t / (l.units * l.groups);
  }
  __device__ int column(const Layout& l, int k) const { return first + group + k * l.groups; }
};

// f(panel, first channel) for the panels of this block, channel after channel.
template <int kVec, class F>
__device__ inline void over_panels(const GraphView& g, const Layout& l, int64_t channels, F&& f) {
  for (int64_t slot = blockIdx.x; slot < l.slots; slot += gridDim.x) {
    const Panel p(g, l, slot);
    if (p.first == p.n) continue;
    for (int64_t channel = 0; channel < channels; channel += l.units * kVec) f(p, channel);
  }
}

}  // namespace
}  // namespace ek
