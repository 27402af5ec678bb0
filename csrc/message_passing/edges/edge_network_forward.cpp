#include "../../core/isa.h"
#include "layers.h"

namespace ek {

template <class Isa, class T, class X>
int64_t EdgeNetworkCpu<Isa, T, X>::packed_bytes(const Args& args, bool backward) {
  return PackedChain<T>(args, backward, nullptr).bytes;
}
template <class Isa, class T, class X>
void EdgeNetworkCpu<Isa, T, X>::pack(const Args& args, bool backward, void* packed) {
  PackedChain<T>(args, backward, packed).fill(args, backward);
}
template <class Isa, class T, class X>
int64_t EdgeNetworkCpu<Isa, T, X>::scratch_bytes(const Args& args, bool backward) {
  return ChainScratch<T>(args, backward, nullptr).bytes;
}

template <class Isa, class T, class X>
void EdgeNetworkCpu<Isa, T, X>::forward(const Args& args, const void* packed_weights, void* scratch, int64_t begin,
                                        int64_t end) {
  // receivers without an edge
  if (args.messages) {
    const int64_t width = args.channels[args.messages_at];
    std::memset(args.messages + begin * width, 0, (end - begin) * width * sizeof(T));
  }
  if (args.coordinates) std::memset(args.coordinates + begin * args.dim, 0, (end - begin) * args.dim * sizeof(X));

  const PackedChain<T> packed(args, false, const_cast<void*>(packed_weights));
  ChainScratch<T> s(args, false, scratch);
  Geometry<X> geometry;
  double carry[kMessageDim] = {};
  for_blocks(args, begin, end, [&](EdgeBlock& block) {
    geometry.prepare(args, block, args.head, s.input);
    run_chain<false>(args, packed, block, s, [&](int k) {
      if (k != args.edges_at && k != args.messages_at) return;
      to_rows(s.h[k], args.channels[k], s.rows);
      if (k == args.edges_at) write_edges(block, s.rows, args.channels[k], args.edges);
      if (k == args.messages_at) aggregate(block, s.rows, args.channels[k], false, s.carry, args.messages);
    });
    if (args.coordinates) aggregate_coordinates(args, block, geometry, s.h[args.layers - 1], carry);
  });
}

#define EK_INSTANTIATE(T, X)                                                                                     \
  template int64_t EdgeNetworkCpu<EK_ISA, T, X>::packed_bytes(const EdgeNetworkArgs<T, X>&, bool);               \
  template void EdgeNetworkCpu<EK_ISA, T, X>::pack(const EdgeNetworkArgs<T, X>&, bool, void*);                   \
  template int64_t EdgeNetworkCpu<EK_ISA, T, X>::scratch_bytes(const EdgeNetworkArgs<T, X>&, bool);              \
  template void EdgeNetworkCpu<EK_ISA, T, X>::forward(const EdgeNetworkArgs<T, X>&, const void*, void*, int64_t, \
                                                      int64_t);
EK_INSTANTIATE(float, float)
EK_INSTANTIATE(float, double)
EK_INSTANTIATE(double, double)
#undef EK_INSTANTIATE

}  // namespace ek
