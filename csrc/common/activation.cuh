// Activations of one number, with their derivatives: value(a), and slope(a) = value'(a). activation.h in one lane.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "activation_kind.h"

namespace ek {
namespace {

template <class T>
struct DeviceIdentity {
  __device__ T value(T a) const { return a; }
  __device__ T slope(T) const { return T(1); }
};

template <class T>
struct DeviceRelu {
  __device__ T value(T a) const { return a <= T(0) ? T(0) : a; }
  __device__ T slope(T a) const { return a <= T(0) ? T(0) : T(1); }
};

template <class T>
struct DeviceLeakyRelu {
  T negative;
  __device__ T value(T a) const { return a > T(0) ? a : a * negative; }
  __device__ T slope(T a) const { return a > T(0) ? T(1) : negative; }
};

template <class T>
struct DeviceSigmoid {
  __device__ T value(T a) const { return T(1) / (T(1) + std::exp(-a)); }
  __device__ T slope(T a) const {
    const T h = value(a);
    return h * (T(1) - h);
  }
};

template <class T>
struct DeviceSilu {
  __device__ T value(T a) const { return a / (T(1) + std::exp(-a)); }
  __device__ T slope(T a) const {
    const T s = T(1) / (T(1) + std::exp(-a));
    return s + a * s * (T(1) - s);
  }
};

template <class T>
struct DeviceGelu {
  __device__ T cdf(T a) const { return T(0.5) * (T(1) + std::erf(a * T(0.70710678118654752440))); }
  __device__ T value(T a) const { return a * cdf(a); }
  __device__ T slope(T a) const { return cdf(a) + a * T(0.39894228040143267794) * std::exp(T(-0.5) * a * a); }
};

template <class T>
struct DeviceTanh {
  __device__ T value(T a) const { return std::tanh(a); }
  __device__ T slope(T a) const {
    const T h = std::tanh(a);
    return T(1) - h * h;
  }
};

// f(the activation): the branch is outside of f's loops.
template <class T, class F>
__device__ inline void with_device_activation(Activation kind, double slope, F&& f) {
  switch (kind) {
    case Activation::identity: return f(DeviceIdentity<T>{});
    case Activation::relu: return f(DeviceRelu<T>{});
    case Activation::leaky_relu: return f(DeviceLeakyRelu<T>{T(slope)});
    case Activation::silu: return f(DeviceSilu<T>{});
    case Activation::gelu: return f(DeviceGelu<T>{});
    case Activation::tanh: return f(DeviceTanh<T>{});
    case Activation::sigmoid: return f(DeviceSigmoid<T>{});
  }
}

}  // namespace
}  // namespace ek
