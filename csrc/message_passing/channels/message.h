// Fused messages of an edge j -> i, from node tables to node tables:
//   s_ij = (||x_i - x_j||^2, <x_i, x_j>)            those asked for, through psi(z) = sign(z) ln(1 + |z|) if asked
//   z_ij = A_i + B_j + S s_ij + Q a_ij
//   m_ij = act(W_3 act(W_2 act(z_ij) + b_2) + b_3)  depth 1 to 3
//   m_ij = sigmoid(w_g . m_ij + b_g) m_ij           if there is a gate
//   M_i  = sum or mean over received edges of m_ij
//   t_ij = w_x . act(W_x m_ij + b_x)                if there is a head; through tanh if asked
//   X_i  = sum or mean over received edges of clamp(t_ij d_ij), d_ij made from x_i - x_j, or x_j
// The backward pass computes the messages again. Per edge nothing is stored but, of a ReLU head in training, t_ij and
// the signs of W_x m_ij + b_x, a bit each, from which the head's derivatives follow without its product.
// T: type of the features, X: of the coordinates. All tensors are contiguous.
#pragma once

#include "../../core/graph.h"
#include "../../simd/activation_kind.h"

namespace ek {

inline constexpr int kMessageDim = 8;    // most coordinates a node can have
inline constexpr int kMessageDepth = 3;  // most layers of the edge network, the first one included

// What t_ij multiplies.
enum class Direction : int {
  difference,   // r = x_i - x_j
  normed_held,  // r / (sqrt(||r||^2 + inside) + offset), the norm held constant by the backward pass
  normed,       // the same, differentiated; where the root is 0 its derivative is taken as 0
  sender        // x_j
};
EK_HD bool has_norm(Direction d) { return d == Direction::normed_held || d == Direction::normed; }

// A linear layer; gradients that are not wanted are null.
template <class T>
struct MessageLayer {
  int64_t width = 0;          // outputs
  const T* weight = nullptr;  // [width, inputs]
  const T* bias = nullptr;    // [width] or null
  T* grad_weight = nullptr;
  T* grad_bias = nullptr;
};

template <class T, class X>
struct MessageArgs {
  GraphView graph;
  int64_t width = 0;            // H
  const T* receiver = nullptr;  // A [n, H]
  const T* sender = nullptr;    // B [n, H]

  const X* x = nullptr;  // [n, dim]; read if there are invariants or coordinates
  int dim = 4;
  double metric[kMessageDim] = {};
  bool interval = true, product = true, psi = true;
  const T* invariant_weight = nullptr;  // S [H, interval + product]
  int64_t edge_width = 0;
  const T* edge_attr = nullptr;    // a [E, edge_width]
  const T* edge_weight = nullptr;  // Q [H, edge_width]

  Activation activation = Activation::relu;
  double slope = 0.01;  // of leaky_relu
  int depth = 2;
  MessageLayer<T> hidden[kMessageDepth - 1];  // W_2, b_2; W_3, b_3

  const T* gate_weight = nullptr;  // w_g [H'] or null: no gate
  const T* gate_bias = nullptr;    // [1] or null

  MessageLayer<T> head;         // W_x, b_x
  const T* head_out = nullptr;  // w_x [head.width] or null: no head
  bool head_tanh = false;
  Direction direction = Direction::difference;
  double norm_inside = 0, norm_offset = 0;
  double clamp = __builtin_inf();

  bool mean_messages = false, mean_coordinates = true;

  // The factors of products with W_2, W_3 and W_x are rounded to bfloat16, sums stay in T; on CUDA forward alone.
  bool bfloat16 = false;
  // Forward, CPUs with tiles, together with bfloat16: every number as the sum of two of bfloat16.
  bool two_parts = false;

  // Of a ReLU head, [E, kept_words()]: t_ij, then a bit for each channel, set unless W_x m + b_x is at most 0. The
  // forward pass writes them. The backward pass reads them and gives all gradients of the head; null: it computes the
  // head again.
  int32_t* kept_head = nullptr;

  // Forward. Any of them may be null: not wanted.
  T* messages = nullptr;     // M [n, H']
  X* coordinates = nullptr;  // X [n, dim]; needs a head
  T* edges = nullptr;        // m [E, H']

  // Backward. Null: the cotangent is zero.
  const T* grad_messages = nullptr;     // [n, H']
  const X* grad_coordinates = nullptr;  // [n, dim]
  const T* grad_edges = nullptr;        // [E, H']
  // Null: not wanted. Gradients of the layers are in them.
  T* grad_receiver = nullptr;          // [n, H]
  T* grad_sender = nullptr;            // [n, H]
  X* grad_x = nullptr;                 // [n, dim]
  T* grad_invariant_weight = nullptr;  // [H, interval + product]
  T* grad_edge_weight = nullptr;       // [H, edge_width]
  T* grad_edge_attr = nullptr;         // [E, edge_width]
  T* grad_gate_weight = nullptr;       // [H']
  T* grad_gate_bias = nullptr;         // [1]
  T* grad_head_out = nullptr;          // [head.width]

  EK_HD int invariants() const { return int(interval) + int(product); }
  int64_t message_width() const { return depth > 1 ? hidden[depth - 2].width : width; }  // H'
  static constexpr int64_t kept_words(int64_t head_width) { return int64_t(sizeof(T) / 4) + (head_width + 31) / 32; }
  int32_t* kept_of(int64_t edge) const { return kept_head + edge * kept_words(head.width); }
};

// How the backward pass is shared out: by the problem alone, so that results do not depend on the threads.
// A chunk owns its receivers. What it adds to senders and to weights goes to a partial of its own, and the partials
// are added in order at the end.
struct MessagePlan {
  static constexpr int kMostChunks = 32;
  // A power of two, each with at least 4,096 edges (or rows), the first four 1,024: one jet is enough for two threads.
  static int chunks_of(int64_t edges) {
    int chunks = 1;
    while (chunks < kMostChunks && edges / (2 * chunks) >= (chunks < 4 ? 1024 : 4096)) chunks *= 2;
    return chunks;
  }
  int chunks = 0;
  int64_t first[kMostChunks + 1] = {};  // receivers of chunk k: first[k] .. first[k + 1] - 1
  int64_t low[kMostChunks] = {};        // its senders: low[k] .. high[k] - 1
  int64_t high[kMostChunks] = {};
  int64_t offset[kMostChunks + 1] = {};  // bytes: its partial in the buffer of all partials
  int64_t bytes() const { return offset[chunks]; }
};

// CPU. With Avx512Bf16 or Amx for the instruction set T = float has bfloat16 products in hardware; the other sets round
// and multiply. Buffers come from the caller, aligned to 64 bytes:
//   packed   weights in the kernels' order, written once by pack(), read by all threads
//   scratch  one per concurrent call of forward() or backward()
//   partials plan.bytes(), backward only
template <class Isa, class T, class X>
struct MessageCpu {
  using Args = MessageArgs<T, X>;

  static int64_t packed_bytes(const Args& args, bool backward);
  static void pack(const Args& args, bool backward, void* packed);
  static int64_t scratch_bytes(const Args& args, bool backward);

  // The receivers [begin, end): their rows of messages and coordinates, their edges. Any split gives the same bits.
  static void forward(const Args& args, const void* packed, void* scratch, int64_t begin, int64_t end);

  static MessagePlan plan(const Args& args);
  // One chunk of the plan: rows of grad_receiver, of grad_edge_attr, the receivers' part of grad_x, and its partial.
  static void backward(const Args& args, const void* packed, const MessagePlan& plan, int chunk, void* partials,
                       void* scratch);
  // After all chunks. Nodes [begin, end): grad_sender, and the senders' part of grad_x. Any split gives the same bits.
  static void reduce_nodes(const Args& args, const MessagePlan& plan, const void* partials, int64_t begin, int64_t end);
  // Gradients of all weights.
  static void reduce_weights(const Args& args, const MessagePlan& plan, const void* partials);
};

}  // namespace ek
