// The host side for Python: what was built, what the CPU has, which instruction set is in use.
// Links neither torch nor CUDA; the op library is reached through the handle torch has already opened.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace {

using IsaFunction = int (*)(int);
using LoopFunction = double (*)(int64_t);
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

template <class Function>
Function exported(const std::string& library, const char* name) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  void* symbol = handle ? dlsym(handle, name) : nullptr;
  if (!symbol) throw std::runtime_error("equikernels: the op library is not loaded: " + library);
  return reinterpret_cast<Function>(symbol);
}

IsaFunction isa_function(const std::string& library) { return exported<IsaFunction>(library, "equikernels_isa"); }

py::dict build_info() {
  py::dict d;
  d["compiler"] = EK_COMPILER;
  d["target_torch"] = EK_TARGET_TORCH;
  d["instruction_sets"] = EK_ISAS;
  d["cuda_archs"] = EK_CUDA_ARCHS;
  return d;
}

py::dict cpu_features() {
  py::dict d;
#if defined(__x86_64__)
  __builtin_cpu_init();
  d["avx2"] = bool(__builtin_cpu_supports("avx2"));
  d["fma"] = bool(__builtin_cpu_supports("fma"));
  d["avx512f"] = bool(__builtin_cpu_supports("avx512f"));
  d["avx512bw"] = bool(__builtin_cpu_supports("avx512bw"));
  d["avx512dq"] = bool(__builtin_cpu_supports("avx512dq"));
  d["avx512vl"] = bool(__builtin_cpu_supports("avx512vl"));
  d["avx512bf16"] = bool(__builtin_cpu_supports("avx512bf16"));
#endif
  return d;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information and CPU control of equikernels.";
  m.def("build_info", &build_info, "What this copy was built with.");
  m.def("cpu_features", &cpu_features, "Instruction sets of this CPU that the kernels can use.");
  m.def(
      "active_isa", [](const std::string& library) { return std::string(kNames[isa_function(library)(-1)]); },
      py::arg("library"), "The instruction set the kernels in this op library use now.");
  m.def(
      "set_isa",
      [](const std::string& library, const std::string& name) {
        for (int i = 0; i < 3; ++i)
          if (name == kNames[i]) return isa_function(library)(i) == i;
        throw std::invalid_argument("set_isa: name: expected baseline, avx2 or avx512, got " + name);
      },
      py::arg("library"), py::arg("name"), "Switches the instruction set; False where it cannot be had.");
  m.def(
      "multiply_adds",
      [](const std::string& library, int64_t iterations) {
        const auto loop = exported<LoopFunction>(library, "equikernels_multiply_adds");
        const py::gil_scoped_release released;
        return loop(iterations);
      },
      py::arg("library"), py::arg("iterations"),
      "Runs float32 multiply-adds that wait for nothing, on the calling thread; returns the operations done.");
}
