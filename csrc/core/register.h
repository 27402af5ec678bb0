// Registration of an op's schemas and kernels. An op's register.cpp is compiled for the CPU, and again with
// EK_WITH_CUDA for CUDA, where it registers kernels only. Tests define EK_DEVICE and EK_DISPATCH_KEY for a device of
// their own.
#pragma once

#if !defined(EK_WITH_CUDA)
#include "cpu.h"
#define EK_DEVICE ek::Cpu
#define EK_DISPATCH_KEY CPU
#define EK_SCHEMAS(library) STABLE_TORCH_LIBRARY_FRAGMENT(equikernels, library)
#else
#if !defined(EK_DEVICE)
#include "cuda.h"
#define EK_DEVICE ek::Cuda
#define EK_DISPATCH_KEY CUDA
#endif
#define EK_SCHEMAS(library) [[maybe_unused]] static void schemas(torch::stable::detail::StableLibrary& library)
#endif

#define EK_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(equikernels, EK_DISPATCH_KEY, library)
