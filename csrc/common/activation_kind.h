// The activations a fused kernel can apply, by name.
#pragma once

namespace ek {

enum class Activation : int { identity, relu, leaky_relu, silu, gelu, tanh, sigmoid };

}  // namespace ek
