// A chain of layers on every edge j -> i, or on every row of a table:
//   z_ij = A_i + B_j + W_0 [s_ij, a_ij] + b_0     s_ij: the invariants asked for, as for messages
//   or     W_0 [s_ij, A_i, B_j, a_ij] + b_0       where ends are inputs
//   h^0  = f_0(z), h^k = f_k(W_k h^(k-1) + b_k)   f: an activation, after LayerNorm (no affine) if asked
//   e_ij = h^(edges_at)                           written once
//   M_i  = sum over received edges of h^(messages_at)
//   X_i  = sum over received edges of clamp(h^(layers-1) d_ij), d_ij made from x_i - x_j, or x_j
// Nothing else is stored per edge; the backward pass computes the layers again.
#pragma once

#include "../channels/message.h"

namespace ek {

inline constexpr int kMostLayers = 32;
inline constexpr int64_t kMostChannels = 512;
inline constexpr double kNormEpsilon = 1e-5;

struct Step {
  Activation activation = Activation::identity;
  bool norm = false;
};

// What happens at an edge's ends, its geometry and the outputs are as for messages (sums, differences); of the edge
// network there, nothing is read. A and B, `width` wide, may be null, and rows of theirs `receiver_stride`,
// `sender_stride` apart.
template <class T, class X>
struct EdgeNetworkArgs : MessageArgs<T, X> {
  int64_t rows = -1;       // >= 0: no graph; A and edge_attr have this many rows
  int64_t end_inputs = 0;  // columns of W_0 for A_i and B_j; 0: they are added
  int64_t receiver_stride = 0, sender_stride = 0;
  int layers = 0;
  int64_t channels[kMostLayers] = {};  // outputs of each layer
  Step step[kMostLayers];
  const T* weights = nullptr;  // W_0, b_0, W_1, b_1, ...; W_k [outputs, inputs]
  int edges_at = -1, messages_at = -1;
  bool head = false;  // X is part of the outputs

  T* grad_weights = nullptr;

  EK_HD int64_t inputs(int layer) const {
    return layer ? channels[layer - 1] : this->invariants() + end_inputs + this->edge_width;
  }
  EK_HD bool ends_added() const { return end_inputs == 0 && (this->receiver || this->sender); }
  int64_t widest() const {
    int64_t most = inputs(0);
    for (int k = 0; k < layers; ++k) most = channels[k] > most ? channels[k] : most;
    return most;
  }
};

// CPU. Buffers come from the caller, as for MessageCpu. Receivers are rows where there is no graph.
template <class Isa, class T, class X>
struct EdgeNetworkCpu {
  using Args = EdgeNetworkArgs<T, X>;

  static int64_t packed_bytes(const Args& args, bool backward);
  static void pack(const Args& args, bool backward, void* packed);
  static int64_t scratch_bytes(const Args& args, bool backward);

  static void forward(const Args& args, const void* packed, void* scratch, int64_t begin, int64_t end);

  static MessagePlan plan(const Args& args);
  static void backward(const Args& args, const void* packed, const MessagePlan& plan, int chunk, void* partials,
                       void* scratch);
  static void reduce_nodes(const Args& args, const MessagePlan& plan, const void* partials, int64_t begin, int64_t end);
  static void reduce_weights(const Args& args, const MessagePlan& plan, const void* partials);
};

}  // namespace ek
