// What of this CPU multiplies bfloat16 numbers.
#pragma once

namespace ek {

struct Bfloat16Unit {
  enum Kind : int { none, pairs, tiles };
  Kind kind = none;
  double rate = 0;  // products that it adds up in the time of a float32 one
};

// The fastest, measured once, in about 100 us: some CPUs have the instructions, but no faster unit for them.
const Bfloat16Unit& bfloat16_unit();

}  // namespace ek
