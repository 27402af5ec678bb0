// The ops by name: what register.cpp files say, kept for ONNX Runtime in place of PyTorch's dispatcher.
#pragma once

#include <map>
#include <string>
#include <type_traits>
#include <utility>

#include "tensor.h"

namespace ek {

using Boxed = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);

struct Op {
  std::string schema;
  Boxed kernel = nullptr;
};

inline std::map<std::string, Op>& ops() {
  static std::map<std::string, Op> all;
  return all;
}

// Reads a function's arguments from the stack, calls it, and writes its results there.
template <auto f, class Signature = decltype(f)>
struct Box;
template <auto f, class R, class... Arguments>
struct Box<f, R (*)(Arguments...)> {
  static void call(StableIValue* stack, uint64_t, uint64_t) { run(stack, std::index_sequence_for<Arguments...>()); }

 private:
  template <size_t... k>
  static void run(StableIValue* stack, std::index_sequence<k...>) {
    put(stack, f(torch::stable::detail::to<std::decay_t<Arguments>>(stack[k])...));
  }
  template <class Value>
  static void put(StableIValue* stack, const Value& value) {
    *stack = torch::stable::detail::from(value);
  }
  template <class... Values>
  static void put(StableIValue* stack, const std::tuple<Values...>& values) {
    std::apply([&](const auto&... value) { ((*stack++ = torch::stable::detail::from(value)), ...); }, values);
  }
};

struct Registry {
  void def(const char* schema) {
    const std::string text = schema;
    ops()[text.substr(0, text.find('('))].schema = text;
  }
  void impl(const char* name, Boxed kernel) { ops()[name].kernel = kernel; }
};

struct Registering {
  explicit Registering(void (*f)(Registry&)) {
    Registry registry;
    f(registry);
  }
};

}  // namespace ek

#define TORCH_BOX(f) (&ek::Box<f>::call)
#define EK_PASTE_(a, b) a##b
#define EK_PASTE(a, b) EK_PASTE_(a, b)
#define EK_REGISTERING(function, library)                           \
  static void function(ek::Registry&);                              \
  static const ek::Registering EK_PASTE(function, _now)(&function); \
  static void function(ek::Registry& library)
#define STABLE_TORCH_LIBRARY_FRAGMENT(name, library) EK_REGISTERING(EK_PASTE(define_, __LINE__), library)
#define STABLE_TORCH_LIBRARY_IMPL(name, key, library) EK_REGISTERING(EK_PASTE(implement_, __LINE__), library)
