// Runs programs written by equikernels.deploy.package in C++: loads a file, checks what a call gives, and calls it.
//
//   equikernels::Program tagger("tagger.pt2");
//   at::Tensor score = tagger({p4, ptr})[0];
//
// Needs LibTorch and the op library of equikernels, no Python.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

// Of the op library: what it was built from, and instruction sets of this CPU.
extern "C" const char* equikernels_build();
extern "C" const char* equikernels_cpu_features();

namespace equikernels {

// A tensor that a program reads.
struct Input {
  std::string name;
  // "nodes" [n, width], "edges" [E, width], "offsets" [n_events + 1], "ends" [2, E], "images" [n_events, 1, width,
  // width]
  std::string rows;
  int64_t width = 0;
  at::ScalarType dtype = at::kFloat;
};

class Program {
 public:
  // Loads a file. `callers` threads can run it at the same time; further ones wait for their turn. Throws
  // std::runtime_error where the file does not fit the op library or this CPU.
  explicit Program(const std::string& path, size_t callers = 1) : path_(path) {
    using torch::inductor::AOTIModelPackageLoader;
    if (!std::ifstream(path)) throw std::runtime_error(path + ": cannot be read");
    const Metadata metadata = AOTIModelPackageLoader::load_metadata_from_package(path, "model");
    read(metadata);
    loader_ = std::make_unique<AOTIModelPackageLoader>(path, "model", false, callers);
  }

  const std::vector<Input>& inputs() const { return inputs_; }

  // The network's results. Kernels read memory at offsets and indices, so these are checked at every call, as are
  // shapes and dtypes. Throws std::invalid_argument.
  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& tensors) const {
    const c10::InferenceMode guard;
    check(tensors);
    std::vector<at::Tensor> given;
    for (const at::Tensor& t : tensors) given.push_back(t.contiguous());
    return loader_->run(given);
  }

 private:
  using Metadata = std::unordered_map<std::string, std::string>;

  void read(const Metadata& metadata) {
    const auto found = metadata.find("equikernels");
    if (found == metadata.end()) throw std::runtime_error(path_ + ": not written by equikernels.deploy.package");
    const std::string build = equikernels_build(), key = "version: ";
    const size_t at = build.find(key) + key.size();
    const std::string version = build.substr(at, build.find('\n', at) - at);
    if (found->second != version)
      throw std::runtime_error(path_ + ": written by equikernels " + found->second + ", the op library is of " +
                               version + ": package the network again");
    const std::string features = std::string(" ") + equikernels_cpu_features() + " ";
    std::istringstream needs(metadata.at("cpu"));
    for (std::string feature; needs >> feature;)
      if (features.find(" " + feature + " ") == std::string::npos)
        throw std::runtime_error(path_ + ": this CPU has no " + feature + ": package the network for it");
    const std::unordered_map<std::string, at::ScalarType> dtypes = {
        {"float32", at::kFloat}, {"float64", at::kDouble}, {"int64", at::kLong}};
    std::istringstream listed(metadata.at("inputs"));
    Input input;
    for (std::string dtype; listed >> input.name >> input.rows >> input.width >> dtype;) {
      input.dtype = dtypes.at(dtype);
      inputs_.push_back(input);
    }
  }

  void check(const std::vector<at::Tensor>& tensors) const {
    if (tensors.size() != inputs_.size()) fail("arguments", inputs_.size(), tensors.size());
    int64_t nodes = -1, edges = -1;
    for (size_t k = 0; k < tensors.size(); ++k) {
      const Input& input = inputs_[k];
      const at::Tensor& t = tensors[k];
      if (!t.defined() || !t.is_cpu()) fail(input.name, "a tensor on the CPU", "another");
      if (t.scalar_type() != input.dtype) fail(input.name, input.dtype, t.scalar_type());
      if (input.rows == "offsets") {
        if (t.dim() != 1 || t.size(0) < 1) fail(input.name, "shape [n_events + 1]", t.sizes());
      } else if (input.rows == "ends") {
        if (t.dim() != 2 || t.size(0) != 2) fail(input.name, "shape [2, E]", t.sizes());
        same(input, edges, t.size(1));
      } else if (input.rows == "images") {
        const std::string width = std::to_string(input.width);
        if (t.dim() != 4 || t.size(1) != 1 || t.size(2) != input.width || t.size(3) != input.width)
          fail(input.name, "shape [n_events, 1, " + width + ", " + width + "]", t.sizes());
      } else {
        if (t.dim() != 2 || t.size(1) != input.width)
          fail(input.name, "shape [" + input.rows + ", " + std::to_string(input.width) + "]", t.sizes());
        same(input, input.rows == "nodes" ? nodes : edges, t.size(0));
      }
    }
    for (size_t k = 0; k < tensors.size(); ++k) {
      if (inputs_[k].rows == "offsets") check_offsets(inputs_[k], tensors[k], nodes);
      if (inputs_[k].rows == "ends") check_ends(inputs_[k], tensors[k], nodes);
    }
  }

  void check_offsets(const Input& input, const at::Tensor& t, int64_t nodes) const {
    const auto ptr = t.accessor<int64_t, 1>();
    if (ptr[0] != 0) fail(input.name, "a first entry of 0", ptr[0]);
    for (int64_t b = 1; b < ptr.size(0); ++b)
      if (ptr[b] < ptr[b - 1]) fail(input.name, "entries that do not decrease", ptr[b]);
    if (ptr[ptr.size(0) - 1] != nodes)
      fail(input.name, "a last entry of " + std::to_string(nodes), ptr[ptr.size(0) - 1]);
  }

  void check_ends(const Input& input, const at::Tensor& t, int64_t nodes) const {
    const auto ends = t.accessor<int64_t, 2>();
    for (int64_t side = 0; side < 2; ++side)
      for (int64_t e = 0; e < ends.size(1); ++e)
        if (ends[side][e] < 0 || ends[side][e] >= nodes)
          fail(input.name, "indices in [0, " + std::to_string(nodes) + ")", ends[side][e]);
  }

  // Tensors with a row for each node, or for each edge, have the same number of rows.
  void same(const Input& input, int64_t& rows, int64_t found) const {
    if (rows >= 0 && rows != found) fail(input.name, std::to_string(rows) + " " + input.rows, found);
    rows = found;
  }

  template <class Expected, class Got>
  [[noreturn]] void fail(const std::string& what, const Expected& expected, const Got& got) const {
    std::ostringstream text;
    text << path_ << ": " << what << ": expected " << expected << ", got " << got;
    throw std::invalid_argument(text.str());
  }

  std::string path_;
  std::vector<Input> inputs_;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace equikernels
