// Instruction sets a CPU kernel is compiled for. Each kernel file is compiled once per set with EK_ISA naming the tag:
// kernels are templates on the tag, and their files include no torch header and use no standard container, so no symbol
// is shared between sets.
#pragma once

namespace ek {

struct Baseline {};
struct Avx2 {};
struct Avx512 {};
// Avx512 with what multiplies bfloat16 numbers, for the kernels that have a use for it; never the set in use.
struct Avx512Bf16 {};  // dot products of pairs
struct Amx {};         // tiles

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The set in use: the best this CPU has, or what EQUIKERNELS_CPU or select_isa() asks for.
Isa active_isa();

// Switches to a set; false where the CPU or the build lacks it.
bool select_isa(Isa isa);

}  // namespace ek
