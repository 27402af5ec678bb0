// Scores the jets of a text file by a tagger that equikernels.deploy.package wrote with reads="events".
//
//   score_jets tagger.pt2 jets.txt [threads] [jets per call]
//
// A line of jets.txt is one jet: E px py pz of each constituent, in GeV. Prints one probability for each jet.
#include <ATen/Parallel.h>
#include <equikernels.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <iostream>
#include <mutex>
#include <thread>

#include "../jets.h"

// The constituents of jets [begin, end) as one table, and the first of each jet.
std::vector<at::Tensor> batch(const std::vector<Jet<double>>& jets, size_t begin, size_t end) {
  std::vector<double> p4;
  std::vector<int64_t> ptr = {0};
  for (size_t b = begin; b < end; ++b) {
    p4.insert(p4.end(), jets[b].begin(), jets[b].end());
    ptr.push_back(int64_t(p4.size() / 4));
  }
  return {at::tensor(p4, at::kDouble).view({-1, 4}), at::tensor(ptr, at::kLong)};
}

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: score_jets tagger.pt2 jets.txt [threads] [jets per call]");
  const std::vector<Jet<double>> jets = read_jets<double>(argv[2]);
  const size_t threads = argc > 3 ? std::stoul(argv[3]) : 1, per_call = argc > 4 ? std::stoul(argv[4]) : 1;
  at::set_num_threads(1);  // of each call: jets are shared out, not the work of one
  const equikernels::Program tagger(argv[1], threads);

  std::vector<float> scores(jets.size());
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex lock;
  const auto work = [&] {
    try {
      at::set_num_threads(1);
      for (size_t begin; (begin = next.fetch_add(per_call)) < jets.size();) {
        const size_t end = std::min(begin + per_call, jets.size());
        const at::Tensor score = tagger(batch(jets, begin, end))[0].contiguous();
        std::copy_n(score.const_data_ptr<float>(), end - begin, scores.begin() + begin);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(lock);
      error = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  for (size_t k = 0; k < threads; ++k) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  if (error) std::rethrow_exception(error);
  for (const float score : scores) std::printf("%.9g\n", score);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
