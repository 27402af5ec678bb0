// The arguments of an op from a node, its results to the runtime.
#include "node.h"

#include <cmath>
#include <locale>
#include <mutex>

namespace ek::ort {

std::vector<Argument> arguments_of(const std::string& schema) {
  std::vector<Argument> found;
  const size_t open = schema.find('('), close = schema.find(") ->");
  std::istringstream whole(schema.substr(open + 1, close - open - 1));
  std::string text;
  while (std::getline(whole, text, ',')) {
    std::istringstream words(text);
    std::string type, name;
    words >> type >> name;
    Argument a;
    a.name = name;
    a.kind = type.rfind("Tensor", 0) == 0  ? Argument::tensor
             : type.rfind("float", 0) == 0 ? Argument::number
                                           : Argument::integer;
    a.list = type.find("[]") != std::string::npos;
    a.optional = type.back() == '?';
    found.push_back(a);
  }
  return found;
}

void SessionThreads::run(int64_t parts, const std::function<void(int64_t)>& part) const {
  struct Work {
    const std::function<void(int64_t)>& part;
    std::mutex lock;
    std::string error;  // exceptions must not cross the runtime, and exception_ptr needs a newer libstdc++
  } work{part, {}, {}};
  const auto each = [](void* data, size_t k) {
    Work& w = *static_cast<Work*>(data);
    try {
      w.part(int64_t(k));
    } catch (const std::exception& error) {
      const std::lock_guard<std::mutex> hold(w.lock);
      w.error = error.what();
    }
  };
  check(api_, KernelContext_ParallelFor(api_, context_, +each, size_t(parts), size_t(0), &work));
  if (!work.error.empty()) throw std::runtime_error(work.error);
}

std::vector<int64_t> Node::integers(const KernelInfo* info, const char* name) const {
  size_t count = 0;
  if (Status* none = KernelInfoGetAttributeArray_int64(api_, info, name, nullptr, &count)) {
    ReleaseStatus(api_, none);
    if (count == 0) return {};
  }
  std::vector<int64_t> found(count);
  if (count > 0) check(api_, KernelInfoGetAttributeArray_int64(api_, info, name, found.data(), &count));
  return found;
}

std::vector<double> Node::numbers(const KernelInfo* info, const char* name) const {
  size_t size = 0;
  if (Status* none = KernelInfoGetAttribute_string(api_, info, name, nullptr, &size)) ReleaseStatus(api_, none);
  if (size == 0) return {};
  std::string text(size, ' ');
  check(api_, KernelInfoGetAttribute_string(api_, info, name, text.data(), &size));
  std::istringstream words(text.c_str());
  words.imbue(std::locale::classic());
  std::vector<double> found;
  for (std::string word; words >> word;) {
    // streams read no "inf"
    const bool inf = word.find("inf") != std::string::npos;
    double number = word[0] == '-' ? -HUGE_VAL : HUGE_VAL;
    if (!inf) {
      std::istringstream one(word);
      one.imbue(std::locale::classic());
      one >> number;
    }
    found.push_back(number);
  }
  return found;
}

Node::Node(const Api& api, bool parallel, const std::string& name, const KernelInfo* info)
    : api_(api), parallel_(parallel), op_(ops().at(name)), arguments_(arguments_of(op_.schema)) {
  present_ = integers(info, "present");
  dynamic_ = integers(info, "dynamic");
  int64_t lists = 0;
  for (const Argument& a : arguments_)
    if (a.kind == Argument::tensor) ++(a.list ? lists : single_);
  STD_TORCH_CHECK(lists <= 1, "equikernels: an op of two lists of tensors");
  for (const Argument& a : arguments_) {
    StableIValue value;
    if (a.kind == Argument::integer && a.list) {
      value.value = integers(info, a.name.c_str());
    } else if (a.kind == Argument::integer) {
      int64_t number = 0;
      check(api_, KernelInfoGetAttribute_int64(api_, info, a.name.c_str(), &number));
      value.value = number;
    } else if (a.kind == Argument::number) {
      const std::vector<double> found = numbers(info, a.name.c_str());
      if (a.list)
        value.value = found;
      else if (!found.empty())
        value.value = found[0];
      else
        STD_TORCH_CHECK(a.optional, "equikernels: a node without the attribute ", a.name);
    }
    fixed_.push_back(value);
  }
}

Tensor Node::input(const Context* context, size_t k) const {
  const Value* value = nullptr;
  check(api_, KernelContext_GetInput(api_, context, k, &value));
  Shape* shape = nullptr;
  check(api_, GetTensorTypeAndShape(api_, value, &shape));
  int type = 0;
  size_t axes = 0;
  check(api_, GetTensorElementType(api_, shape, &type));
  check(api_, GetDimensionsCount(api_, shape, &axes));
  std::vector<int64_t> sizes(axes);
  check(api_, GetDimensions(api_, shape, sizes.data(), axes));
  ReleaseTensorTypeAndShapeInfo(api_, shape);
  STD_TORCH_CHECK(type == kFloat || type == kDouble || type == kInt64, op_.schema.substr(0, op_.schema.find('(')),
                  ": input ", k, ": expected float, double or int64");
  void* data = nullptr;
  check(api_, GetTensorMutableData(api_, const_cast<Value*>(value), &data));
  static int64_t nothing;  // an empty tensor may have no memory
  const ScalarType dtype = type == kFloat ? ScalarType::Float : type == kDouble ? ScalarType::Double : ScalarType::Long;
  return Tensor(dtype, std::move(sizes), data ? data : &nothing);
}

void Node::output(Context* context, size_t k, const Tensor& t) const {
  Value* value = nullptr;
  check(api_, KernelContext_GetOutput(api_, context, k, t.sizes().data(), t.sizes().size(), &value));
  void* data = nullptr;
  check(api_, GetTensorMutableData(api_, value, &data));
  if (t.scalar_type() == ScalarType::Double)
    std::transform(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel(), static_cast<float*>(data),
                   [](double number) { return float(number); });
  else if (t.numel() > 0)
    std::memcpy(data, t.const_data_ptr(), size_t(t.numel() * bytes_of(t.scalar_type())));
}

void Node::run(Context* context) const {
  size_t inputs = 0, outputs = 0;
  check(api_, KernelContext_GetInputCount(api_, context, &inputs));
  check(api_, KernelContext_GetOutputCount(api_, context, &outputs));
  // A kernel writes its results over its arguments.
  std::vector<StableIValue> stack(fixed_.begin(), fixed_.end());
  stack.resize(std::max<size_t>(stack.size(), 8));
  const size_t tensors = inputs - (dynamic_.empty() ? 0 : 1);
  size_t next = 0, slot = 0;
  const auto tensor = [&]() -> std::optional<Tensor> {
    if (!present_.empty() && present_[slot++] == 0) return std::nullopt;
    STD_TORCH_CHECK(next < tensors, "equikernels: a node has too few inputs");
    return input(context, next++);
  };
  const int64_t slots = present_.empty() ? int64_t(tensors) : int64_t(present_.size());
  for (size_t k = 0; k < arguments_.size(); ++k) {
    const Argument& a = arguments_[k];
    if (a.kind != Argument::tensor) continue;
    if (a.list) {
      std::vector<std::optional<Tensor>> list;
      for (int64_t count = slots - single_; count > 0; --count) list.push_back(tensor());
      stack[k].value = std::move(list);
    } else if (std::optional<Tensor> t = tensor()) {
      stack[k].value = *t;
    }
  }
  if (!dynamic_.empty()) {
    const Tensor sizes = input(context, inputs - 1);
    STD_TORCH_CHECK(sizes.scalar_type() == ScalarType::Long && sizes.numel() == int64_t(dynamic_.size()),
                    "equikernels: expected one int64 for each dynamic integer");
    size_t from = 0;
    int64_t at = 0;
    for (size_t k = 0; k < arguments_.size(); ++k) {
      if (arguments_[k].kind != Argument::integer) continue;
      int64_t* numbers;
      int64_t count = 1;
      if (arguments_[k].list) {
        auto& list = std::get<std::vector<int64_t>>(stack[k].value);
        numbers = list.data(), count = int64_t(list.size());
      } else {
        numbers = &std::get<int64_t>(stack[k].value);
      }
      for (; from < dynamic_.size() && dynamic_[from] < at + count; ++from)
        numbers[dynamic_[from] - at] = sizes.const_data_ptr<int64_t>()[from];
      at += count;
    }
  }
  const SessionThreads of_session(api_, context);
  struct Set {
    explicit Set(const Threads* now) { threads = now; }
    ~Set() { threads = nullptr; }
  } set(parallel_ ? &of_session : nullptr);
  op_.kernel(stack.data(), arguments_.size(), outputs);
  // Of an op's results the runtime wants those that are floats and not empty vectors, in their order.
  size_t k = 0;
  const auto give = [&](const Tensor& t) {
    const bool real = t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double;
    if (k < outputs && t.defined() && real && (t.dim() != 1 || t.numel() > 0)) output(context, k++, t);
  };
  if (const auto* list = std::get_if<std::vector<std::optional<Tensor>>>(&stack[0].value))
    for (const auto& t : *list) give(*t);
  else
    for (const StableIValue& v : stack)
      if (const Tensor* t = std::get_if<Tensor>(&v.value)) give(*t);
  STD_TORCH_CHECK(k == outputs, op_.schema.substr(0, op_.schema.find('(')), ": the node has ", outputs,
                  " outputs, the op gives ", k);
}

}  // namespace ek::ort
