// Arithmetic per edge at H = 72, depth 2, gate and head: 2 x 72 x 72 multiply-adds in the products, about 6 x 72
// outside of them. What a block of edges touches, weights included, stays in the first two levels of cache.
#include "../../core/isa.h"
#include "network.h"

namespace ek {
namespace {

template <class T, class X>
inline void write_edges(const MessageArgs<T, X>& args, const EdgeBlock& block, Rows<T> rows) {
  const int64_t width = args.message_width();
  for (int e = 0; e < block.count; ++e) {
    T* out = args.edges + block.edge[e] * width;
    for_vectors<T>(width, [&](int64_t k, auto io) { io.store(out + k, load(rows[e] + k)); });
  }
}

template <class T, class X>
inline void keep_head(const MessageArgs<T, X>& args, const EdgeBlock& block, const Scratch<T>& s) {
  for (int e = 0; e < block.count; ++e) {
    int32_t* to = args.kept_of(block.edge[e]);
    std::memcpy(to, s.t + e, sizeof(T));
    to += sizeof(T) / 4;
    for (int64_t k = 0; k < args.head.width; k += 32) {
      uint32_t word = 0;
      for (int64_t c = k; c < k + 32 && c < args.head.width; c += lanes<T>)
        word |= uint32_t(lane_mask<T>(~(load(s.head[e] + c) <= T(0)))) << (c - k);
      *to++ = int32_t(word);
    }
  }
}

}  // namespace

template <class Isa, class T, class X>
int64_t MessageCpu<Isa, T, X>::packed_bytes(const Args& args, bool backward) {
  return Packed<T>(args, backward, nullptr).bytes;
}
template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::pack(const Args& args, bool backward, void* packed) {
  Packed<T>(args, backward, packed).fill(args);
}
template <class Isa, class T, class X>
int64_t MessageCpu<Isa, T, X>::scratch_bytes(const Args& args, bool backward) {
  return Scratch<T>(args, backward, nullptr).bytes;
}

template <class Isa, class T, class X>
void MessageCpu<Isa, T, X>::forward(const Args& args, const void* packed_weights, void* scratch, int64_t begin,
                                    int64_t end) {
  const int64_t width = args.message_width();
  const bool coordinates = wants_coordinates(args, false);
  // receivers without an edge
  if (args.messages) std::memset(args.messages + begin * width, 0, (end - begin) * width * sizeof(T));
  if (args.coordinates) std::memset(args.coordinates + begin * args.dim, 0, (end - begin) * args.dim * sizeof(X));

  const Packed<T> packed(args, false, const_cast<void*>(packed_weights));
  Scratch<T> s(args, false, scratch);
  Geometry<X> geometry;
  double carry[kMessageDim] = {};
  EdgeBlock block;
  EdgeCursor cursor(args.graph, begin, end);
  while (cursor.next(block)) {
    geometry.prepare(args, block, coordinates, s.coefficient);
    compute_messages<false>(args, packed, block, s);
    if (args.messages) aggregate(block, s.message, width, args.mean_messages, s.carry, args.messages);
    if (args.edges) write_edges(args, block, s.message);
    if (!coordinates) continue;
    compute_head<false>(args, packed, block, s);
    if (args.head_tanh) apply_tanh(s.t);
    if (args.kept_head) keep_head(args, block, s);
    aggregate_coordinates(args, block, geometry, s.t, carry);
  }
  release_tiles();
}

#define EK_INSTANTIATE(T, X)                                                                \
  template int64_t MessageCpu<EK_ISA, T, X>::packed_bytes(const MessageArgs<T, X>&, bool);  \
  template void MessageCpu<EK_ISA, T, X>::pack(const MessageArgs<T, X>&, bool, void*);      \
  template int64_t MessageCpu<EK_ISA, T, X>::scratch_bytes(const MessageArgs<T, X>&, bool); \
  template void MessageCpu<EK_ISA, T, X>::forward(const MessageArgs<T, X>&, const void*, void*, int64_t, int64_t);
EK_INSTANTIATE(float, float)
EK_INSTANTIATE(float, double)
EK_INSTANTIATE(double, double)
#undef EK_INSTANTIATE

}  // namespace ek
