// A layer of the message kernels by tiles in plain C++, as a Python module: AMX is tested on CPUs that have none.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <memory>
#include <vector>

#include "../../csrc/core/isa.h"
#include "../../csrc/message_passing/channels/network.h"

namespace py = pybind11;
using namespace ek;

namespace {

using Array = py::array_t<float, py::array::c_style>;

// x [rows, in] times weight [out, in] plus bias, rows <= kEdges; what lies beside them in scratch is not a number.
Array layer(const Array& x, const Array& weight, const Array& bias, bool two_parts, bool relu) {
  const int64_t rows = x.shape(0), in = x.shape(1), out = weight.shape(0);
  const MessageLayer<float> given{out, weight.data(), bias.data()};
  PackedLayer<float> packed;
  Arena count(nullptr);
  packed.lay_out(count, in, out, false);
  std::vector<char> memory(count.used() + 64);
  void* base = memory.data();
  size_t space = memory.size();
  Arena arena(std::align(64, count.used(), base, space));
  packed.lay_out(arena, in, out, false);
  packed.fill(given, true, two_parts);
  const int64_t stride = padded<float>(std::max(in, out));
  std::vector<float> from(stride * kEdges, NAN), rest(stride * kEdges, NAN), to(stride * kEdges, NAN);
  for (int64_t e = 0; e < rows; ++e)
    for (int64_t k = 0; k < padded<float>(in); ++k) from[e * stride + k] = k < in ? x.at(e, k) : 0;
  const Rows<float> source{from.data(), stride}, result{to.data(), stride};
  const auto multiply_into = [&](auto into) {
    multiply_rounded<decltype(into)::value>(source, in, packed.panels, packed.bias, result, out, rows, true,
                                            source.data);
  };
  if (two_parts)
    multiply_two_parts(packed, source, {rest.data(), stride}, result, rows);
  else if (relu)
    multiply_into(std::integral_constant<Into, Into::relu>{});
  else
    multiply_into(std::integral_constant<Into, Into::place>{});
  Array found({rows, padded<float>(out)});
  for (int64_t e = 0; e < rows; ++e) std::memcpy(found.mutable_data(e), result[e], sizeof(float) * padded<float>(out));
  return found;
}

// Sum over rows of g [rows, out] and in [rows, in], rounded: [out, in], whole vectors both.
Array sums_of_products(const Array& g, const Array& in) {
  const int64_t rows = g.shape(0), n = padded<float>(g.shape(1)), k = padded<float>(in.shape(1));
  const int64_t stride = std::max(n, k);
  std::vector<float> from(stride * kEdges, NAN), with(stride * kEdges, NAN), room(stride * outer_room(kEdges), NAN);
  for (int64_t e = 0; e < rows; ++e)
    for (int64_t c = 0; c < stride; ++c) {
      from[e * stride + c] = c < g.shape(1) ? g.at(e, c) : 0;
      with[e * stride + c] = c < in.shape(1) ? in.at(e, c) : 0;
    }
  Array found({n, k});
  std::memset(found.mutable_data(), 0, sizeof(float) * n * k);
  outer_rounded({from.data(), stride}, g.shape(1), {with.data(), stride}, in.shape(1), rows,
                Rows<float>{found.mutable_data(), k}, room.data());
  return found;
}

}  // namespace

PYBIND11_MODULE(tile_products, m) {
  m.attr("most_rows") = kEdges;
  m.def("layer", &layer);
  m.def("sums_of_products", &sums_of_products);
}
