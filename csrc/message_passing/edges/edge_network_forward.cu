// A block owns receivers and takes their edges by tiles; channels of a tile are columns in shared memory.
#include "products.cuh"
#include "tile.cuh"

namespace ek {
namespace {

// What the edges of the tile add to X, from t in `column`, coordinate by coordinate.
template <class T, class Form>
__device__ inline void steps(const Tile<T, Form>& tile, const T* column, double* step) {
  using L = Layers<T, Form::per_lane>;
  const ChainArgs<T>& args = tile.args;
  for (int e = threadIdx.x; e < tile.count; e += kChainThreads) {
    const double t = column[e], norm = tile.norm(e);
    for (int c = 0; c < args.dim; ++c) {
      const double s = t * tile.direction(tile.base + tile.node[e], tile.sender[e], norm, c);
      step[c * L::kStride + e] = s > args.clamp ? args.clamp : s < -args.clamp ? -args.clamp : s;  // NaN stays
    }
  }
}

template <class T, class Form>
__global__ void __launch_bounds__(kChainThreads, 4) forward_kernel(ChainArgs<T> args, ChainRoom<T> room) {
  using L = Layers<T, Form::per_lane>;
  Tile<T, Form> tile(args, room);
  T* const work[2] = {tile.column(0), tile.column(room.work)};
  tile.over_blocks([](int64_t) {},
                   [&] {
                     T *in = work[0], *out = work[1];
                     tile.read_inputs(in);
                     const bool ends = args.ends_added();
                     if (ends) tile.read_ends(out);
                     __syncthreads();
                     const T* weight = tile.weights;
                     for (int k = 0; k < args.layers; ++k) {
                       const int inputs = int(args.inputs(k)), outputs = int(args.channels[k]);
                       const T* bias = weight + outputs * ChainRoom<T>::packed(inputs);
                       if (k == 0 && ends)
                         L::template forward<true>(in, inputs, weight, bias, out, outputs);
                       else
                         L::template forward<false>(in, inputs, weight, bias, out, outputs);
                       weight = bias + ChainRoom<T>::packed(outputs);
                       __syncthreads();
                       if (args.step[k].norm || args.step[k].activation != Activation::identity) {
                         L::finish(args.step[k], args.slope, out, out, outputs, nullptr);
                         __syncthreads();
                       }
                       if (k == args.edges_at) tile.write_table(out, outputs, args.edges);
                       if (k == args.messages_at) tile.sum_at_receivers(out, outputs, args.messages);
                       T* const swap = in;
                       in = out;
                       out = swap;
                     }
                     if (!args.coordinates) return;
                     double* const step = reinterpret_cast<double*>(out);
                     steps(tile, in, step);
                     __syncthreads();
                     if (args.wide)
                       tile.sum_at_receivers(step, args.dim, static_cast<double*>(args.coordinates));
                     else
                       tile.sum_at_receivers(step, args.dim, static_cast<T*>(args.coordinates));
                   });
}

}  // namespace

template <class T>
cudaError_t edge_network_forward_cuda(const ChainArgs<T>& args, cudaStream_t stream) {
  return start_chain(args, false, stream, [](auto form) { return forward_kernel<T, decltype(form)>; });
}

template cudaError_t edge_network_forward_cuda(const ChainArgs<float>&, cudaStream_t);
template cudaError_t edge_network_forward_cuda(const ChainArgs<double>&, cudaStream_t);

}  // namespace ek
