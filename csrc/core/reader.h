// Arguments of an op as the dispatcher hands them over: a boxed stack, read into one struct of named inputs that the
// forward and the backward pass share. A field's initialiser reads it, so fields stand in the order of the schema:
//   struct Inputs {
//     Reader& in;
//     Tensor x = in.next<Tensor>();
//     GraphInputs graph{in};
//     bool mean = in.next<bool>();
//   };
//   static Tensor forward(Reader& in) { const Inputs inputs{in}; ... }
//   m.impl("name", boxed<&forward>);
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor.h"

namespace ek {

class Reader {
 public:
  Reader(StableIValue* stack, uint64_t count) : stack_(stack), count_(count) {}

  // The next argument, of the type the schema gives it: Tensor, int64_t, double, bool, a vector or optional of these.
  template <class T>
  T next() {
    STD_TORCH_CHECK(position_ < count_, "equikernels: the schema has ", count_, " arguments, the kernel reads more");
    return torch::stable::detail::to<T>(stack_[position_++]);
  }

  void finish() const {
    STD_TORCH_CHECK(position_ == count_, "equikernels: the schema has ", count_, " arguments, the kernel reads ",
                    position_);
  }

 private:
  StableIValue* stack_;
  uint64_t count_, position_ = 0;
};

// A kernel `f(Reader&)`, which returns a tensor or a tuple (or an array) of outputs, as the dispatcher calls it.
template <auto f>
void boxed(StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  Reader in(stack, inputs);
  auto out = f(in);
  in.finish();
  const auto write = [&](const auto&... value) {
    STD_TORCH_CHECK(sizeof...(value) == outputs, "equikernels: the schema has ", outputs, " outputs, the kernel ",
                    sizeof...(value));
    ((*stack++ = torch::stable::detail::from(value)), ...);
  };
  if constexpr (std::is_same_v<decltype(out), Tensor>)
    write(out);
  else
    std::apply(write, out);
}

// The graph among an op's arguments; EK_GRAPH_SCHEMA in its schema.
struct GraphInputs {
  Reader& in;
  Tensor table = in.next<Tensor>();
  int64_t num_edges = in.next<int64_t>();
  int64_t kind = in.next<int64_t>();

  GraphView view(int64_t num_nodes) const { return graph_view(table, num_nodes, num_edges, kind); }
};

}  // namespace ek
