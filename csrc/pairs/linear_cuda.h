// linear_2to2 and linear_2to0 on particles and events, on CUDA; the formulas are those of maps.h and nodes.h.
// Parameters are stored as S; what is made of them, and gradients on the way, are T.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/graph.h"
#include "../core/storage.h"

namespace ek {

template <class S>
struct LinearArgs {
  using T = Accumulator<S>;
  static constexpr int kMaps = 15, kFactors = 10, kSlots = 3, kParts = 3, kOfEvent = 2;

  GraphView graph;  // complete, with self-loops
  int64_t in = 0, width = 0;

  // The layer, see maps.h. at: which of the coefficients' maps a map is, or -1.
  int64_t kept = 0;
  int8_t at[kMaps] = {}, powers[kFactors] = {};
  const S *coefs = nullptr, *coefs01 = nullptr, *coefs10 = nullptr, *coefs11 = nullptr;
  const S *scale = nullptr, *shift = nullptr, *bias = nullptr, *diag_bias = nullptr, *alpha = nullptr, *nobj = nullptr;
  bool mean = false;
  double nbar = 1;
  T inner_slope = 1, slope = 1;               // of a 2 -> 0 layer
  int64_t maps = kMaps, factored = kFactors;  // 2 and 2 in a 2 -> 0 layer
  bool of_pairs = true;                       // whether maps 0 and 1 are of pairs; not in a 2 -> 0 layer

  // What is made of it: maps [maps, in, width]; those of pairs as the mix of the raw tensor takes them [2, in, width],
  // and their bias [width]; factors [events, factored, in]; of each event 1 / size of a sum and ln(nobj / nbar).
  T *made = nullptr, *pairs = nullptr, *pair_bias = nullptr, *factors = nullptr, *of_events = nullptr;

  const S* aggregates = nullptr;  // [nodes, 3, in]
  T* values = nullptr;            // of an event, for rows and for the diagonal [events, 2, width]
  T* table = nullptr;             // [nodes, 3, width]

  // 2 -> 0: total and trace [2, events, in], out and what backward has of it [events, width], and the gradient of the
  // sums as a table [nodes, 3, in] or absent.
  T* event_sums = nullptr;
  S* out = nullptr;
  const S *grad = nullptr, *activated = nullptr;
  S* to_pairs = nullptr;

  const S* grad_table = nullptr;                    // [nodes, 3, width]
  T* grad_values = nullptr;                         // [events, slots, width]
  T* event_inputs = nullptr;                        // what is multiplied to values [events, slots, 2 in]
  T* grad_sums = nullptr;                           // of trace and total [events, 2, in]
  T* grad_factors = nullptr;                        // [events, factored, in]
  T* grad_inputs = nullptr;                         // of what is multiplied to a slot of the table [3, nodes, 3 in]
  T* grad_aggregates = nullptr;                     // [nodes, 3, in]
  T* of_affine = nullptr;                           // an event's share of that of scale and shift [events, 2, in]
  T *node_parts = nullptr, *event_parts = nullptr;  // [shares, 3, 3 in, width], [shares, slots, 2 in + 1, width]

  // Sums of parts: of the maps of pairs [2 in, width], of a table's slots [3, 3 in, width], of events with the biases
  // [slots, 2 in + 1, width], of scale and shift [2, in].
  const T *of_pair_maps = nullptr, *of_node_maps = nullptr;
  T *of_event_maps = nullptr, *of_events_affine = nullptr;
  S *to_coefs = nullptr, *to_coefs01 = nullptr, *to_coefs10 = nullptr, *to_coefs11 = nullptr;
  S *to_affine = nullptr, *to_bias = nullptr, *to_diag_bias = nullptr, *to_alpha = nullptr;  // absent where not wanted

  // Values of an event: one for rows and one for the diagonal, or its output.
  EK_HD int event_slots() const { return of_pairs ? 2 : 1; }
  EK_HD int64_t event_part() const { return event_slots() * (2 * in + 1) * width; }

  // The map that takes part (0 the diagonal, 1 columns, 2 rows) to a slot (alike), and the one that takes the trace (0)
  // or the total (1) everywhere (0) or to the diagonal (1). Map k has factor k - 5.
  static EK_HD int map_of_node(int part, int slot) { return 2 + 3 * part + slot; }
  static EK_HD int map_of_event(int part, int slot) { return 11 + 2 * part + slot; }
};

// Forward: make, events, nodes. Backward: make; events_backward, from the gradient of the table to that of the sums of
// events; grad_inputs and pull, from there to that of the aggregates; node_maps and event_maps, to parts of those of
// the maps; parameters, from their sums. A 2 -> 0 layer: make, 2to0; and make, 2to0_backward, event_maps, parameters.
#define EK_LINEAR_STEP(name) \
  template <class S>         \
  cudaError_t linear_##name##_cuda(const LinearArgs<S>& args, cudaStream_t stream);
EK_LINEAR_STEP(make)
EK_LINEAR_STEP(events)
EK_LINEAR_STEP(nodes)
EK_LINEAR_STEP(events_backward)
EK_LINEAR_STEP(grad_inputs)
EK_LINEAR_STEP(pull)
EK_LINEAR_STEP(node_maps)
EK_LINEAR_STEP(event_maps)
EK_LINEAR_STEP(parameters)
EK_LINEAR_STEP(2to0)
EK_LINEAR_STEP(2to0_backward)
#undef EK_LINEAR_STEP
template <class S>
int64_t linear_node_shares(const LinearArgs<S>& args);
template <class S>
int64_t linear_event_shares(const LinearArgs<S>& args);

}  // namespace ek
