// The CUDA implementations. Loaded only beside a torch that has CUDA.
#include "common/cuda.h"
#include "cuda_ops.h"

STABLE_TORCH_LIBRARY_IMPL(equikernels, CUDA, m) { ek::implement_cuda_ops<ek::Cuda>(m); }
