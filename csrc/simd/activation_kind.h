// The activations a fused kernel can apply, by name. gelu_tanh: GELU's approximation by tanh; elu: of alpha 1;
// softplus: of beta 1, the identity above 20.
#pragma once

namespace ek {

enum class Activation : int {
  identity,
  relu,
  leaky_relu,
  silu,
  gelu,
  tanh,
  sigmoid,
  elu,
  softplus,
  mish,
  hardswish,
  gelu_tanh
};

}  // namespace ek
