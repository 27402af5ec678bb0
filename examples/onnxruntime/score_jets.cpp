// Scores the jets of a text file, one at a time, by a tagger that equikernels.deploy.export_onnx wrote with
// reads="events".
//
//   score_jets tagger.onnx jets.txt [libequikernels_ort.so]
//
// A line of jets.txt is one jet: E px py pz of each constituent, in GeV. Prints one probability for each jet. Needs
// ONNX Runtime alone, 1.14 or later; with the library the network's ops are its kernels.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>

#include "../jets.h"

const OrtApi* const ort = OrtGetApiBase()->GetApi(14);  // later runtimes have it too

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(text);
}

// What a function of the API made, until the end of its scope.
template <class T, class Release, class Make>
auto made(Release release, const Make& make) {
  T* object = nullptr;
  check(make(&object));
  return std::unique_ptr<T, Release>(object, release);
}

// float32 [sizes...] on numbers that outlive it.
auto tensor(const OrtMemoryInfo* memory, std::vector<float>& numbers, const std::vector<int64_t>& sizes) {
  return made<OrtValue>(ort->ReleaseValue, [&](OrtValue** out) {
    return ort->CreateTensorWithDataAsOrtValue(memory, numbers.data(), 4 * numbers.size(), sizes.data(), sizes.size(),
                                               ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, out);
  });
}

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: score_jets tagger.onnx jets.txt [libequikernels_ort.so]");
  if (ort == nullptr) throw std::runtime_error("ONNX Runtime is older than 1.14");
  const auto environment = made<OrtEnv>(
      ort->ReleaseEnv, [](OrtEnv** out) { return ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "score_jets", out); });
  const auto options = made<OrtSessionOptions>(ort->ReleaseSessionOptions, ort->CreateSessionOptions);
  check(ort->SetIntraOpNumThreads(options.get(), 1));
  check(ort->DisableMemPattern(options.get()));  // before 1.19 it plans memory for the sizes of earlier calls
  if (argc > 3) check(ort->RegisterCustomOpsLibrary_V2(options.get(), argv[3]));
  const auto session = made<OrtSession>(ort->ReleaseSession, [&](OrtSession** out) {
    return ort->CreateSession(environment.get(), argv[1], options.get(), out);
  });
  const auto memory = made<OrtMemoryInfo>(ort->ReleaseMemoryInfo, [](OrtMemoryInfo** out) {
    return ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, out);
  });

  for (Jet<float>& jet : read_jets<float>(argv[2])) {
    const int64_t particles = int64_t(jet.size() / 4), slots = std::max<int64_t>(particles, 1);
    std::vector<float> mask(slots, particles > 0 ? 1.0f : 0.0f);
    jet.resize(4 * slots);
    const auto p4 = tensor(memory.get(), jet, {1, slots, 4}), real = tensor(memory.get(), mask, {1, slots});
    const char* const inputs[] = {"p4", "mask"};
    const char* const outputs[] = {"output"};
    const OrtValue* const given[] = {p4.get(), real.get()};
    const auto score = made<OrtValue>(ort->ReleaseValue, [&](OrtValue** out) {
      return ort->Run(session.get(), nullptr, inputs, given, 2, outputs, 1, out);
    });
    void* found = nullptr;
    check(ort->GetTensorMutableData(score.get(), &found));
    std::printf("%.9g\n", *static_cast<const float*>(found));
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
