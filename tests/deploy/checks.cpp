// What equikernels.h refuses: prints the message of each call, one a line. Arguments: a program of a jet network's
// events, one of EGNN, and a file that is none.
#include <equikernels.h>

#include <iostream>

using equikernels::Program;
using Tensors = std::vector<at::Tensor>;

template <class Call>
void expect(const Call& call) {
  try {
    call();
    std::cout << "no error\n";
  } catch (const std::exception& error) {
    std::cout << std::string(error.what()).substr(0, 200) << "\n";
  }
}

int main(int, char** argv) {
  const Program jets(argv[1]), points(argv[2]);
  for (const auto& input : points.inputs())
    std::cout << input.name << " " << input.rows << " " << input.width << " " << input.dtype << "\n";

  const at::Tensor p4 = at::ones({5, 4}, at::kDouble);
  const auto offsets = [](std::vector<int64_t> values) { return at::tensor(values, at::kLong); };
  expect([&] { jets({p4}); });
  expect([&] { jets({p4.to(at::kFloat), offsets({0, 5})}); });
  expect([&] { jets({p4.t(), offsets({0, 5})}); });
  expect([&] { jets({p4, offsets({1, 5})}); });
  expect([&] { jets({p4, offsets({0, 6, 5})}); });
  expect([&] { jets({p4, offsets({0, 3, 4})}); });
  expect([&] { jets({p4, at::empty({0}, at::kLong)}); });
  std::cout << jets({p4.t().contiguous().t(), offsets({0, 0, 2, 5})})[0].sizes() << "\n";  // strides are free

  const at::Tensor h = at::zeros({3, 2}), x = at::zeros({3, 3});
  const auto ends = [](std::vector<int64_t> values) { return at::tensor(values, at::kLong).view({2, -1}); };
  expect([&] { points({h, x.slice(0, 0, 2), ends({0, 1, 1, 0})}); });
  expect([&] { points({h, x, ends({0, 1, 1, 3})}); });
  expect([&] { points({h, x, ends({0, -1, 1, 0})}); });
  expect([&] { points({h, x, ends({0, 1, 1, 0}).t().slice(0, 0, 1)}); });
  std::cout << points({h, x, at::empty({2, 0}, at::kLong)})[0].sizes() << "\n";
  expect([&] { Program none(argv[3]); });
}
