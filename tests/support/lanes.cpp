// csrc/simd as a Python module, so that its functions can be compared number by number. CMake compiles it once for each
// instruction set, with the flags of the kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "../../csrc/simd/panels.h"
#include "../../csrc/simd/simd_storage.h"
#include "../../csrc/simd/transpose.h"

namespace py = pybind11;
using namespace ek;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// f of every number; whole vectors, the last one filled up with ones.
template <class From, class To, class T, class F>
Array<To> map(const Array<From>& x, F&& f) {
  Array<To> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); i += lanes<T>) {
    From in[lanes<T>];
    To result[lanes<T>];
    const int count = int(std::min<py::ssize_t>(lanes<T>, x.size() - i));
    for (int l = 0; l < lanes<T>; ++l) in[l] = l < count ? x.data()[i + l] : From(1);
    f(in, result);
    std::memcpy(out.mutable_data() + i, result, sizeof(To) * size_t(count));
  }
  return out;
}

template <class T>
Array<T> function(const std::string& name, const Array<T>& x) {
  return map<T, T, T>(x, [&](const T* in, T* out) {
    const Vec<T> v = load(in);
    store(out, name == "exp" ? exp_of<T>(v) : name == "log" ? log_of<T>(v) : log1p_of<T>(v));
  });
}

template <class S>
Array<float> widened(const Array<uint16_t>& x) {
  return map<uint16_t, float, float>(
      x, [](const uint16_t* in, float* out) { store(out, load_row(reinterpret_cast<const S*>(in))); });
}

template <class S>
Array<uint16_t> narrowed(const Array<float>& x) {
  return map<float, uint16_t, float>(
      x, [](const float* in, uint16_t* out) { store_row(reinterpret_cast<S*>(out), load(in)); });
}

template <class T>
Array<T> fused(const Array<T>& a, const Array<T>& b, const Array<T>& c) {
  Array<T> out(a.size());
  for (py::ssize_t i = 0; i + lanes<T> <= a.size(); i += lanes<T>)
    store(out.mutable_data() + i, fma(load(a.data() + i), load(b.data() + i), load(c.data() + i)));
  return out;
}

template <class T>
Array<T> transposed(const Array<T>& x) {
  Vec<T> rows[lanes<T>];
  for (int l = 0; l < lanes<T>; ++l) rows[l] = load(x.data() + l * lanes<T>);
  transpose<T>(rows);
  Array<T> out({lanes<T>, lanes<T>});
  for (int l = 0; l < lanes<T>; ++l) store(out.mutable_data() + l * lanes<T>, rows[l]);
  return out;
}

// The greater and the smaller of a bound and a number.
template <class T>
py::tuple bounded(const Array<T>& bound, const Array<T>& x) {
  Array<T> most(x.size()), least(x.size());
  for (py::ssize_t i = 0; i + lanes<T> <= x.size(); i += lanes<T>) {
    store(most.mutable_data() + i, max_of(load(bound.data() + i), load(x.data() + i)));
    store(least.mutable_data() + i, min_of(load(bound.data() + i), load(x.data() + i)));
  }
  return py::make_tuple(most, least);
}

// The mask of the lanes of one vector that are positive, and a vector that is 1 in them alone.
template <class T>
py::tuple positive(const Array<T>& x) {
  const unsigned mask = lane_mask<T>(load(x.data()) > T(0));
  Array<T> ones(lanes<T>);
  store(ones.mutable_data(), from_bits(masked_lanes<T>(mask) & bits(splat(T(1)))));
  return py::make_tuple(mask, ones);
}

// Of a vector's first `count` numbers: them written over the start of `over`, in two ways, them read, and them kept.
template <class T>
py::tuple tail_of(const Array<T>& x, const Array<T>& over, int64_t count) {
  const Tail<T> tail(count);
  Array<T> out(lanes<T>), first(lanes<T>), in(lanes<T>), kept(lanes<T>);
  std::copy_n(over.data(), lanes<T>, out.mutable_data());
  std::copy_n(over.data(), lanes<T>, first.mutable_data());
  tail.store(out.mutable_data(), load(x.data()));
  store_first(first.mutable_data(), load(x.data()), count);
  store(in.mutable_data(), tail.load(x.data()));
  store(kept.mutable_data(), tail.keep(load(x.data())));
  return py::make_tuple(out, first, in, kept);
}

template <class T>
void define(py::module_& m) {
  m.def("tail", &tail_of<T>);
  m.def("bounded", &bounded<T>);
  m.def("positive", &positive<T>);
  m.def("function", &function<T>);
  m.def("fma", &fused<T>);
  m.def("transpose", &transposed<T>);
}

}  // namespace

PYBIND11_MODULE(EK_MODULE, m) {
  m.attr("lanes32") = lanes<float>;
  m.attr("lanes64") = lanes<double>;
  define<float>(m);
  define<double>(m);
  m.def("widen_bfloat16", &widened<BFloat16>);
  m.def("widen_float16", &widened<Float16>);
  m.def("narrow_bfloat16", &narrowed<BFloat16>);
  m.def("narrow_float16", &narrowed<Float16>);
}
