// Tensors without PyTorch: what the ops use of LibTorch's stable ABI, under the same names, on memory of this library
// or of ONNX Runtime. Always on the CPU, always contiguous.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <variant>
#include <vector>

#define STD_TORCH_CHECK(condition, ...)        \
  do {                                         \
    if (!(condition)) ek::refuse(__VA_ARGS__); \
  } while (false)
#define STABLE_TORCH_ERROR_CODE_CHECK(call) call

namespace ek {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

enum class ScalarType { Float, Double, Int, Long, Bool, BFloat16, Half };

inline int64_t bytes_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::Long: return 8;
    case ScalarType::Float:
    case ScalarType::Int: return 4;
    case ScalarType::Bool: return 1;
    default: return 2;
  }
}

class Tensor {
 public:
  Tensor() = default;
  // Room of its own.
  Tensor(ScalarType type, std::vector<int64_t> sizes) : type_(type), sizes_(std::move(sizes)) {
    const size_t bytes = size_t((numel() * bytes_of(type) + 127) / 64 * 64);
    memory_.reset(std::aligned_alloc(64, bytes), std::free);
    STD_TORCH_CHECK(memory_, "out of memory for ", bytes, " bytes");
    data_ = memory_.get();
  }
  // Memory of somebody else, who keeps it.
  Tensor(ScalarType type, std::vector<int64_t> sizes, void* data)
      : type_(type), sizes_(std::move(sizes)), data_(data) {}

  bool defined() const { return data_ != nullptr; }
  ScalarType scalar_type() const { return type_; }
  int64_t dim() const { return int64_t(sizes_.size()); }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  int64_t size(int64_t axis) const { return sizes_[size_t(axis < 0 ? axis + dim() : axis)]; }
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t size : sizes_) count *= size;
    return count;
  }
  bool is_contiguous() const { return true; }
  bool is_cuda() const { return false; }

  const void* const_data_ptr() const { return data_; }
  void* mutable_data_ptr() const { return data_; }
  template <class T>
  const T* const_data_ptr() const {
    return static_cast<const T*>(data_);
  }
  template <class T>
  T* mutable_data_ptr() const {
    return static_cast<T*>(data_);
  }

  // Rows first to first + count - 1, in the same memory.
  Tensor rows(int64_t first, int64_t count) const {
    Tensor part = *this;
    const int64_t row = sizes_[0] > 0 ? numel() / sizes_[0] : 0;
    part.data_ = static_cast<char*>(data_) + first * row * bytes_of(type_);
    part.sizes_[0] = count;
    return part;
  }
  Tensor shaped(std::vector<int64_t> sizes) const {
    Tensor same = *this;
    same.sizes_ = std::move(sizes);
    return same;
  }

 private:
  ScalarType type_ = ScalarType::Float;
  std::vector<int64_t> sizes_;
  std::shared_ptr<void> memory_;
  void* data_ = nullptr;
};

inline Tensor uninitialised(const Tensor& like, std::vector<int64_t> shape, std::optional<ScalarType> type = {}) {
  return Tensor(type.value_or(like.scalar_type()), std::move(shape));
}
inline Tensor as_contiguous(const Tensor& t) { return t; }

// A stable sort of a vector of integers: its values and where they were.
inline std::array<Tensor, 2> sorted(const Tensor& t) {
  std::array<Tensor, 2> out{Tensor(ScalarType::Long, t.sizes()), Tensor(ScalarType::Long, t.sizes())};
  const int64_t* from = t.const_data_ptr<int64_t>();
  int64_t *values = out[0].mutable_data_ptr<int64_t>(), *places = out[1].mutable_data_ptr<int64_t>();
  std::iota(places, places + t.numel(), int64_t(0));
  std::stable_sort(places, places + t.numel(), [&](int64_t a, int64_t b) { return from[a] < from[b]; });
  std::transform(places, places + t.numel(), values, [&](int64_t k) { return from[k]; });
  return out;
}

// The session's threads while one of its nodes runs; see parallel_for.
struct Threads {
  virtual ~Threads() = default;
  virtual int64_t count() const = 0;
  virtual void run(int64_t parts, const std::function<void(int64_t)>& part) const = 0;
};
inline thread_local const Threads* threads = nullptr;

}  // namespace ek

// An argument or a result of an op.
struct StableIValue {
  std::variant<std::monostate, ek::Tensor, int64_t, double, std::vector<int64_t>, std::vector<double>,
               std::vector<std::optional<ek::Tensor>>, std::string>
      value;
};

namespace torch::stable {

inline ek::Tensor& zero_(ek::Tensor& t) {
  std::memset(t.mutable_data_ptr(), 0, size_t(t.numel() * ek::bytes_of(t.scalar_type())));
  return t;
}
inline ek::Tensor& zero_(ek::Tensor&& t) { return zero_(t); }
inline ek::Tensor new_zeros(const ek::Tensor& like, std::vector<int64_t> shape,
                            std::optional<ek::ScalarType> type = {}) {
  ek::Tensor made = ek::uninitialised(like, std::move(shape), type);
  zero_(made);
  return made;
}
inline ek::Tensor& fill_(ek::Tensor& t, double value) {
  if (t.scalar_type() == ek::ScalarType::Double)
    std::fill_n(t.mutable_data_ptr<double>(), t.numel(), value);
  else
    std::fill_n(t.mutable_data_ptr<float>(), t.numel(), float(value));
  return t;
}
inline ek::Tensor narrow(const ek::Tensor& t, int64_t, int64_t first, int64_t count) { return t.rows(first, count); }
inline ek::Tensor view(const ek::Tensor& t, std::vector<int64_t> sizes) { return t.shaped(std::move(sizes)); }
inline ek::Tensor clone(const ek::Tensor& t) {
  ek::Tensor made = ek::uninitialised(t, t.sizes());
  std::memcpy(made.mutable_data_ptr(), t.const_data_ptr(), size_t(t.numel() * ek::bytes_of(t.scalar_type())));
  return made;
}

// Only kernels that keep numbers in another type than their features ask for it, and none does on the CPU.
inline ek::Tensor to(const ek::Tensor& t, ek::ScalarType type) {
  STD_TORCH_CHECK(t.scalar_type() == type, "no conversion of dtypes");
  return t;
}

// How many parts of a loop may run at once.
inline int64_t get_num_threads() { return ek::threads ? ek::threads->count() : 1; }

// f(first, last) of shares of [begin, end), each of at least `grain` items but the last.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, F&& f) {
  const int64_t count = end - begin;
  if (count <= 0) return;
  const int64_t parts = std::min(get_num_threads(), (count + grain - 1) / grain);
  if (parts <= 1) return f(begin, end);
  const int64_t share = (count + parts - 1) / parts;
  ek::threads->run((count + share - 1) / share, [&](int64_t part) {
    const int64_t first = begin + part * share;
    f(first, std::min(end, first + share));
  });
}

namespace detail {

template <class T>
struct Reading {
  static T of(const StableIValue& v) { return std::get<T>(v.value); }
};
template <>
struct Reading<bool> {
  static bool of(const StableIValue& v) { return std::get<int64_t>(v.value) != 0; }
};
template <>
struct Reading<std::vector<bool>> {
  static std::vector<bool> of(const StableIValue& v) {
    const auto& whole = std::get<std::vector<int64_t>>(v.value);
    return {whole.begin(), whole.end()};
  }
};
template <>
struct Reading<std::vector<ek::Tensor>> {
  static std::vector<ek::Tensor> of(const StableIValue& v) {
    std::vector<ek::Tensor> found;
    for (const auto& t : std::get<std::vector<std::optional<ek::Tensor>>>(v.value)) found.push_back(t.value());
    return found;
  }
};
template <class T>
struct Reading<std::optional<T>> {
  static std::optional<T> of(const StableIValue& v) {
    if (std::holds_alternative<std::monostate>(v.value)) return std::nullopt;
    return Reading<T>::of(v);
  }
};

template <class T>
T to(const StableIValue& v) {
  return Reading<T>::of(v);
}

inline StableIValue from(const ek::Tensor& t) { return {t}; }
inline StableIValue from(const std::string& text) { return {text}; }
inline StableIValue from(const std::vector<ek::Tensor>& list) {
  return {std::vector<std::optional<ek::Tensor>>(list.begin(), list.end())};
}

}  // namespace detail
}  // namespace torch::stable
