// A node of the domain "equikernels" as ONNX Runtime runs it: its attributes and inputs become the arguments of the op
// of the same name, by the op's schema. See equikernels/deploy/onnx_nodes.py, which writes the nodes.
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "api.h"
#include "registry.h"

namespace ek::ort {

// Throws what a call of the API says.
inline void check(const Api& api, Status* status) {
  if (!status) return;
  const std::string text = GetErrorMessage(api, status);
  ReleaseStatus(api, status);
  throw std::runtime_error(text);
}

// An argument of a schema: "Tensor? weight", "SymInt[] options", "float? clamp", ...
struct Argument {
  enum Kind { tensor, integer, number } kind;
  bool list = false, optional = false;
  std::string name;
};

std::vector<Argument> arguments_of(const std::string& schema);

// The threads of the session whose node runs.
class SessionThreads : public Threads {
 public:
  SessionThreads(const Api& api, const Context* context) : api_(api), context_(context) {}
  int64_t count() const override { return std::max<int64_t>(1, std::thread::hardware_concurrency()); }
  void run(int64_t parts, const std::function<void(int64_t)>& part) const override;

 private:
  const Api& api_;
  const Context* context_;
};

class Node {
 public:
  Node(const Api& api, bool parallel, const std::string& name, const KernelInfo* info);
  void run(Context* context) const;

 private:
  const Api& api_;
  const bool parallel_;
  const Op& op_;
  std::vector<Argument> arguments_;
  std::vector<StableIValue> fixed_;  // of the arguments; of tensors nothing
  int64_t single_ = 0;               // arguments of one tensor each
  std::vector<int64_t> present_;     // for each tensor; empty: all are
  std::vector<int64_t> dynamic_;     // which integers of the call the last input brings

  std::vector<int64_t> integers(const KernelInfo* info, const char* name) const;
  std::vector<double> numbers(const KernelInfo* info, const char* name) const;
  Tensor input(const Context* context, size_t k) const;
  void output(Context* context, size_t k, const Tensor& t) const;
};

}  // namespace ek::ort
