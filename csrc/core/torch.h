// PyTorch's tensors: what the ops use of LibTorch's stable ABI. onnxruntime/tensor.h has the same without PyTorch.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace ek {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Asks Linux for pages of 2 MiB where all of a page belongs to this memory. The allocator takes large tensors fresh
// from the system and gives them back: in pages of 4 KiB, their first use costs more than most kernels that write them.
// Where the system has no such pages to give, nothing changes.
inline void ask_for_large_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), end = begin + uintptr_t(bytes);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Room of a shape beside a tensor, in its dtype or another one. torch::stable::new_empty goes through the dispatcher
// twice, which takes a microsecond; a training step of one jet asks six hundred times.
inline Tensor uninitialised(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                            std::optional<ScalarType> dtype = {}) {
  int32_t type, device, index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  if (dtype) type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const int64_t ndim = int64_t(shape.size());
  std::vector<int64_t> strides(shape.size(), 1);
  for (int64_t d = ndim - 2; d >= 0; --d) strides[d] = strides[d + 1] * std::max<int64_t>(shape[d + 1], 1);
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(ndim, shape.data(), strides.data(), type, device, index, &made));
  constexpr int64_t kLarge = int64_t(1) << 22;  // bytes; below, the question costs what it saves
  Tensor room(made);
  const int64_t bytes = int64_t(room.numel() * aoti_torch_dtype_element_size(type));
  if (bytes >= kLarge && device == aoti_torch_device_type_cpu()) ask_for_large_pages(room.mutable_data_ptr(), bytes);
  return room;
}

// The tensor itself where it is contiguous already: asking the dispatcher costs a microsecond.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// A stable sort of a vector: its values and where they were.
inline std::array<Tensor, 2> sorted(const Tensor& t) {
  const std::optional<bool> stable = true;
  std::array<StableIValue, 4> stack{torch::stable::detail::from(t), torch::stable::detail::from(stable),
                                    torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

}  // namespace ek
