// The part of ONNX Runtime's C API (version 14 and later) that the library uses. The API is a table of functions to
// which versions only append: an entry is known by its place. The official header, where EK_ONNXRUNTIME_HEADER names
// it, is compared with these places when the library is compiled.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek::ort {

struct Status;
struct Context;     // of one run of a node
struct Value;       // a tensor
struct Shape;       // its element type and sizes
struct Options;     // of a session
struct Domain;      // of custom ops
struct KernelInfo;  // a node's attributes
struct CustomOp;

enum ElementType : int { kUndefined = 0, kFloat = 1, kInt64 = 7, kDouble = 11 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
constexpr int kFail = 1;  // an error code

// Its functions by their places in the table.
struct Api {
  static constexpr int kEntries = 275;
  void* entry[kEntries];

  template <int place, class Function>
  Function* at() const {
    static_assert(place < kEntries);
    return reinterpret_cast<Function*>(entry[place]);
  }
};

// Places of the functions, and their types.
#define EK_ORT_FUNCTION(name, place, result, ...)              \
  constexpr int k##name = place;                               \
  template <class... Arguments>                                \
  result name(const Api& api, Arguments... arguments) {        \
    return api.at<place, result(__VA_ARGS__)>()(arguments...); \
  }
EK_ORT_FUNCTION(CreateStatus, 0, Status*, int, const char*)
EK_ORT_FUNCTION(GetErrorMessage, 2, const char*, const Status*)
EK_ORT_FUNCTION(CreateCustomOpDomain, 26, Status*, const char*, Domain**)
EK_ORT_FUNCTION(CustomOpDomain_Add, 27, Status*, Domain*, const CustomOp*)
EK_ORT_FUNCTION(AddCustomOpDomain, 28, Status*, Options*, Domain*)
EK_ORT_FUNCTION(GetTensorMutableData, 51, Status*, Value*, void**)
EK_ORT_FUNCTION(GetTensorElementType, 60, Status*, const Shape*, int*)
EK_ORT_FUNCTION(GetDimensionsCount, 61, Status*, const Shape*, size_t*)
EK_ORT_FUNCTION(GetDimensions, 62, Status*, const Shape*, int64_t*, size_t)
EK_ORT_FUNCTION(GetTensorTypeAndShape, 65, Status*, const Value*, Shape**)
EK_ORT_FUNCTION(KernelInfoGetAttribute_int64, 86, Status*, const KernelInfo*, const char*, int64_t*)
EK_ORT_FUNCTION(KernelInfoGetAttribute_string, 87, Status*, const KernelInfo*, const char*, char*, size_t*)
EK_ORT_FUNCTION(KernelContext_GetInputCount, 88, Status*, const Context*, size_t*)
EK_ORT_FUNCTION(KernelContext_GetOutputCount, 89, Status*, const Context*, size_t*)
EK_ORT_FUNCTION(KernelContext_GetInput, 90, Status*, const Context*, size_t, const Value**)
EK_ORT_FUNCTION(KernelContext_GetOutput, 91, Status*, Context*, size_t, const int64_t*, size_t, Value**)
EK_ORT_FUNCTION(ReleaseStatus, 93, void, Status*)
EK_ORT_FUNCTION(ReleaseTensorTypeAndShapeInfo, 99, void, Shape*)
EK_ORT_FUNCTION(KernelInfoGetAttributeArray_int64, 163, Status*, const KernelInfo*, const char*, int64_t*, size_t*)
// since version 17
EK_ORT_FUNCTION(KernelContext_ParallelFor, 274, Status*, const Context*, void (*)(void*, size_t), size_t, size_t, void*)
#undef EK_ORT_FUNCTION

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// A custom op as ONNX Runtime reads it, up to version 16.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, Context*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const CustomOp*, size_t);
  int (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  // since version 16
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, Context*);
  Status* (*InferOutputShapeFn)(const CustomOp*, void*);
};

}  // namespace ek::ort
