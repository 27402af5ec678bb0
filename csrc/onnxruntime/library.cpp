// RegisterCustomOps: what ONNX Runtime calls when it loads the library. Every op that has a kernel becomes a custom op
// of the domain "equikernels".
#include <cstdio>

#include "node.h"

#if defined(EK_ONNXRUNTIME_HEADER)
#include <cstddef>
#include EK_ONNXRUNTIME_HEADER
#define EK_SAME(name) static_assert(offsetof(OrtApi, name) == ek::ort::k##name * sizeof(void*), "place of " #name)
EK_SAME(CreateStatus);
EK_SAME(GetErrorMessage);
EK_SAME(CreateCustomOpDomain);
EK_SAME(CustomOpDomain_Add);
EK_SAME(AddCustomOpDomain);
EK_SAME(GetTensorMutableData);
EK_SAME(GetTensorElementType);
EK_SAME(GetDimensionsCount);
EK_SAME(GetDimensions);
EK_SAME(GetTensorTypeAndShape);
EK_SAME(KernelInfoGetAttribute_string);
EK_SAME(KernelInfoGetAttribute_int64);
EK_SAME(KernelContext_GetInputCount);
EK_SAME(KernelContext_GetOutputCount);
EK_SAME(KernelContext_GetInput);
EK_SAME(KernelContext_GetOutput);
EK_SAME(ReleaseStatus);
EK_SAME(ReleaseTensorTypeAndShapeInfo);
EK_SAME(KernelInfoGetAttributeArray_int64);
#if ORT_API_VERSION >= 17
EK_SAME(KernelContext_ParallelFor);
#endif
#define EK_SAME_OP(name) static_assert(offsetof(OrtCustomOp, name) == offsetof(ek::ort::CustomOp, name), #name)
EK_SAME_OP(CreateKernel);
EK_SAME_OP(GetOutputTypeCount);
EK_SAME_OP(KernelDestroy);
EK_SAME_OP(GetInputMemoryType);
EK_SAME_OP(GetVariadicOutputHomogeneity);
#if ORT_API_VERSION >= 16
EK_SAME_OP(CreateKernelV2);
EK_SAME_OP(KernelComputeV2);
EK_SAME_OP(InferOutputShapeFn);
#endif
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) == int(ek::ort::kFloat), "float");
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) == int(ek::ort::kInt64), "int64");
static_assert(int(ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE) == int(ek::ort::kDouble), "double");
static_assert(int(INPUT_OUTPUT_VARIADIC) == int(ek::ort::kVariadic), "variadic");
#endif

namespace ek::ort {
namespace {

struct Made : CustomOp {
  const Api* api = nullptr;
  bool parallel = false;
  std::string op, name;  // the op, and the node's name for it
};

// Nodes of one op may have functions that differ. They are named by the op, and by the op with a number behind it
// (equikernels/deploy/onnx_functions.py); beyond the last number known here their functions run.
constexpr int kNames = 32;

const Made& of(const CustomOp* op) { return *static_cast<const Made*>(op); }

struct Running {
  const Made& op;
  Node node;
};

// f(), or its error as a status.
template <class F>
Status* guarded(const Api& api, F&& f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    return CreateStatus(api, kFail, error.what());
  }
}

Made make(const Api* api, uint32_t version, const std::string& of_op, int number) {
  Made op{};
  op.api = api, op.parallel = version >= 17;
  op.op = of_op, op.name = number == 0 ? of_op : of_op + "_" + std::to_string(number);
  op.version = std::min<uint32_t>(version, 16);
  op.CreateKernel = [](const CustomOp* o, const Api* a, const KernelInfo* info) -> void* {
    return new Running{of(o), Node(*a, of(o).parallel, of(o).op, info)};
  };
  op.CreateKernelV2 = [](const CustomOp* o, const Api* a, const KernelInfo* info, void** kernel) {
    return guarded(*a, [&] { *kernel = new Running{of(o), Node(*a, of(o).parallel, of(o).op, info)}; });
  };
  op.KernelCompute = [](void* kernel, Context* context) { static_cast<Running*>(kernel)->node.run(context); };
  op.KernelComputeV2 = [](void* kernel, Context* context) {
    Running& running = *static_cast<Running*>(kernel);
    return guarded(*running.op.api, [&] { running.node.run(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Running*>(kernel); };
  op.GetName = [](const CustomOp* o) { return of(o).name.c_str(); };
  op.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputType = [](const CustomOp*, size_t) { return int(kUndefined); };             // any
  op.GetOutputType = [](const CustomOp*, size_t) { return int(kFloat); };
  op.GetInputTypeCount = op.GetOutputTypeCount = [](const CustomOp*) { return size_t(1); };
  op.GetInputCharacteristic = op.GetOutputCharacteristic = [](const CustomOp*, size_t) { return int(kVariadic); };
  op.GetInputMemoryType = [](const CustomOp*, size_t) { return 0; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const CustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  return op;
}

}  // namespace
}  // namespace ek::ort

extern "C" __attribute__((visibility("default"))) ek::ort::Status* RegisterCustomOps(ek::ort::Options* options,
                                                                                     const ek::ort::ApiBase* base) {
  using namespace ek::ort;
  unsigned major = 0, minor = 0;
  std::sscanf(base->GetVersionString(), "%u.%u", &major, &minor);
  const uint32_t version = major > 1 || minor >= 17 ? 17 : minor >= 16 ? 16 : 14;
  const Api* api = base->GetApi(version);
  if (!api) return nullptr;  // a runtime before 1.14: its own functions run
  static std::vector<Made> made = [&] {
    std::vector<Made> all;
    for (const auto& [name, op] : ek::ops())
      if (op.kernel && !op.schema.empty() && name.find("backward") == std::string::npos)
        for (int number = 0; number < kNames; ++number) all.push_back(make(api, version, name, number));
    return all;
  }();
  Domain* domain = nullptr;
  if (Status* status = CreateCustomOpDomain(*api, "equikernels", &domain)) return status;
  for (const Made& op : made)
    if (Status* status = CustomOpDomain_Add(*api, domain, static_cast<const CustomOp*>(&op))) return status;
  return AddCustomOpDomain(*api, options, domain);
}
