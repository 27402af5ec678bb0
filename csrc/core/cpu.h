// The CPU as a device: instruction set and threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <thread>

#include "isa.h"
#include "tensor.h"

namespace ek {

template <class F>
void dispatch_isa(F&& f) {
  switch (active_isa()) {
#if defined(EK_HAVE_AVX512)
    case Isa::avx512: return f(Avx512{});
#endif
#if defined(EK_HAVE_AVX2)
    case Isa::avx2: return f(Avx2{});
#endif
    default: return f(Baseline{});
  }
}

// Memory for one task of a kernel, aligned as the kernels ask.
struct Buffer {
  explicit Buffer(int64_t bytes) : p(std::aligned_alloc(64, size_t((bytes + 127) / 64 * 64))) {
    STD_TORCH_CHECK(p, "out of memory for ", bytes, " bytes of scratch");
  }
  ~Buffer() { std::free(p); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* p;
};

// Numbers 0, 1, ... count - 1, each to the thread that asks first.
class Queue {
 public:
  explicit Queue(int64_t count) : count_(count) {}
  bool take(int64_t& item) {
    item = next_.fetch_add(1, std::memory_order_relaxed);
    return item < count_;
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_;
};

struct Cpu {
  static constexpr bool cuda = false;
  struct Guard {
    explicit Guard(const Tensor&) {}
  };

  // Calls f(queue) on as many threads as there are items and work for, up to PyTorch's number. A thread whose core is
  // taken by another process holds up one item, not its share of them. Which thread takes an item must not matter.
  // work: of all items, as kWorkOfThread counts it; where it is not said, there is enough.
  template <class F>
  static void over_items(int64_t count, F&& f, int64_t work = std::numeric_limits<int64_t>::max()) {
    if (count == 0) return;
    Queue queue(count);
    const int64_t threads = std::min({int64_t(torch::stable::get_num_threads()), count, work / kWorkOfThread});
    if (threads <= 1) return f(queue);
    // Threads that wait sleep (see equikernels/_waiting.py), and a caller that sleeps for the last piece of another
    // thread takes 50 us to wake up: so it first looks for as long whether the others are done.
    std::atomic<int64_t> running{threads};
    const std::thread::id caller = std::this_thread::get_id();
    torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      f(queue);
      running.fetch_sub(end - begin, std::memory_order_release);
      if (std::this_thread::get_id() == caller) wait_for_none(running);
    });
  }

  // Calls f(isa, begin, end) for parts of [0, count) of equal work: before(i) is the work in front of item i.
  // What is computed for an item must not depend on the parts, which follow the number of threads.
  template <class Before, class F>
  static void share(int64_t count, Before&& before, F&& f, int64_t grain = kGrain) {
    if (count == 0) return;
    const int64_t total = before(count);
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t most = threads == 1 ? 1 : kPartsOfThread * threads;
    const int64_t parts = std::max<int64_t>(1, std::min({most, count, total / grain}));
    auto boundary = [&](int64_t part) {  // first item with at least part / parts of the work in front of it
      if (part == 0) return int64_t(0);
      if (part == parts) return count;
      int64_t lo = 0, hi = count;
      while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (before(mid) < total / parts * part)
          lo = mid + 1;
        else
          hi = mid;
      }
      return lo;
    };
    dispatch_isa([&](auto isa) {
      if (parts == 1) return f(isa, int64_t(0), count);
      over_items(parts, [&](Queue& queue) {
        for (int64_t part; queue.take(part);) f(isa, boundary(part), boundary(part + 1));
      });
    });
  }

  // Receivers shared by the edges they receive.
  template <class F>
  static void over_receivers(const GraphView& g, F&& f, int64_t grain = kGrain) {
    share(g.num_nodes, [&](int64_t i) { return g.edges_before(i) + i; }, f, grain);
  }

  // Numbers read or written, and multiply-adds by kMultiplyAdds, below which a second thread costs more than it
  // brings: to wake one that sleeps takes 50 us.
  static constexpr int64_t kWorkOfThread = 65536, kMultiplyAdds = 8;
  static constexpr int64_t kPartsOfThread = 4;
  static constexpr int64_t kGrain = 2048;  // edges below which a second thread costs more than it brings

 private:
  // Returns when none is left, or after 50 us.
  static void wait_for_none(const std::atomic<int64_t>& running) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (running.load(std::memory_order_acquire) > 0 && std::chrono::steady_clock::now() < end) pause();
    pause();  // until the others are at the end of the parallel region
  }
  static void pause() {
#if defined(__x86_64__)
    for (int k = 0; k < 8; ++k) __builtin_ia32_pause();
#endif
  }
};

}  // namespace ek
