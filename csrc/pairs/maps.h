// What a layer is made of before it sees a tensor: its maps, from coefficients as the layer holds them, and what sums
// over particles are multiplied by, from the sizes of the events.
//   maps_k [in, width] = coefs[:, :, k]   or, of factors,   coefs00[c, k] coefs10[c, d] + coefs01[d, k] coefs11[c, d]
//   factor_bkc = size_b^-powers_k (nobj_b / nbar)^alpha_ck     size: nobj for means, nbar for sums; without alpha: 0
// A map that is not among those of the coefficients is zero.
#pragma once

#include <cstdint>

namespace ek {

template <class T>
struct MapsArgs {
  int64_t in = 0, width = 0, maps = 0;
  int64_t kept = 0;                                // maps of the coefficients
  const int64_t* places = nullptr;                 // [kept], which of all maps each of them is; absent: all, in order
  const T* coefs = nullptr;                        // [in, width, kept], or of factors [in, kept], and then
  const T* coefs01 = nullptr;                      // [width, kept]
  const T *coefs10 = nullptr, *coefs11 = nullptr;  // [in, width]
  T* out = nullptr;                                // [maps, in, width]
  const T* grad = nullptr;                         // the same
  T *grad_coefs = nullptr, *grad_coefs01 = nullptr, *grad_coefs10 = nullptr, *grad_coefs11 = nullptr;
};

template <class T>
struct FactorsArgs {
  int64_t events = 0, maps = 0, in = 0;
  const int64_t* ptr = nullptr;  // [events + 1]; sizes are those of the events, at least 1, where nobj is absent
  const T* nobj = nullptr;       // [events], at least 1 is taken of each
  bool mean = false;
  double nbar = 1;
  const int* powers = nullptr;  // [maps], 0 to 2
  const T* alpha = nullptr;     // [in, maps] or absent
  T* out = nullptr;             // [events, maps, in]
  const T* grad = nullptr;      // the same
  T* grad_alpha = nullptr;      // [in, maps]

  T size_of(int64_t b) const {
    const T n = nobj ? nobj[b] : T(ptr[b + 1] - ptr[b]);
    return n < T(1) ? T(1) : n;
  }
};

// CPU, on the calling thread.
template <class Isa, class T>
struct MapsCpu {
  static int64_t scratch_size(const MapsArgs<T>& args);
  static void make(const MapsArgs<T>& args, T* scratch);
  static void backward(const MapsArgs<T>& args, T* scratch);

  static int64_t scratch_size(const FactorsArgs<T>& args);
  static void make(const FactorsArgs<T>& args, T* scratch);
  static void backward(const FactorsArgs<T>& args);  // reads what make wrote to out
};

}  // namespace ek
