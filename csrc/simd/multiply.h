// How tensor cores multiply float32 numbers.
#pragma once

namespace ek {

// Sums are in float32.
//   tf32x3    each number as the sum of two of 11 bits, of the products of which the smallest is left out: about
//             float32's accuracy. An infinity comes out as NaN.
//   tf32      numbers rounded to 11 bits
//   bfloat16  numbers rounded to 8 bits
enum class Multiply : int { tf32x3, tf32, bfloat16 };

}  // namespace ek
