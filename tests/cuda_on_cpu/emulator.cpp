// Runs the threads of one block after another, each a fiber up to where it meets others. What a GPU would let pass or
// hang on is an error here: a lane that another waits for has left or waits elsewhere, threads of a block wait at
// different barriers or not at all, shared memory is used beyond what the launch asked for. Shared memory starts as
// NaN.
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace {
// 227 kB is the most that sm_90 gives, and 48 kB what a kernel has unasked.
constexpr size_t kMostShared = 227 * 1024, kUnasked = 48 * 1024, kGuard = 1024, kStack = 128 * 1024;
constexpr unsigned char kCanary = 0xa5;
}  // namespace

namespace ek {
alignas(128) unsigned char shared_bytes[kMostShared + kGuard];  // what kernels call their `extern __shared__`
}

namespace {

enum class State { ready, at_warp, at_block, done };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state;
  unsigned mask;
  int site, source;
  uint64_t value, received;
};

// Set from the tests.
struct {
  unsigned seed = 0;         // 0: in order, 1: backwards, otherwise shuffled
  unsigned most_blocks = 0;  // a grid is cut to this size: 0, not at all
  long launches = 0;
  std::map<const void*, size_t> shared;  // what kernels have asked for
  std::string error;
} settings;

std::vector<Thread> threads;
Thread* running;
ucontext_t scheduler;
void (*body)(void*);
void* data;

void start() {
  body(data);
  running->state = State::done;
}

void prepare(Thread& thread) {
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = kStack;
  thread.context.uc_link = &scheduler;
  makecontext(&thread.context, start, 0);
  thread.state = State::ready;
}

void yield(State state, int site) {
  running->state = state;
  running->site = site;
  Thread* self = running;
  swapcontext(&self->context, &scheduler);
}

std::vector<unsigned> order(unsigned count, std::mt19937& random) {
  std::vector<unsigned> o(count);
  std::iota(o.begin(), o.end(), 0u);
  if (settings.seed == 1) std::reverse(o.begin(), o.end());
  if (settings.seed > 1) std::shuffle(o.begin(), o.end(), random);
  return o;
}

bool fail(const std::string& what) {
  settings.error = what + " (block " + std::to_string(blockIdx.x) + ")";
  return false;
}

std::string place(const Thread& t) {
  const char* names[] = {"runs", "waits for its warp at line ", "waits for its block at line ", "has ended"};
  const std::string line = t.state == State::at_warp || t.state == State::at_block ? std::to_string(t.site) : "";
  return "thread " + std::to_string(&t - threads.data()) + " " + names[int(t.state)] + line;
}

// Lets the lanes go that wait for each other; every thread has run as far as it can.
bool meet(unsigned first, unsigned last) {
  for (unsigned t = first; t < last; ++t) {
    Thread& one = threads[t];
    if (one.state != State::at_warp) continue;
    if (!(one.mask >> (t - first) & 1)) return fail(place(one) + " and is not in its own mask");
    for (unsigned l = 0; l < 32; ++l) {
      if (!(one.mask >> l & 1)) continue;
      if (first + l >= last) return fail(place(one) + " for a lane its block does not have");
      Thread& other = threads[first + l];
      if (other.state != State::at_warp || other.mask != one.mask || other.site != one.site)
        return fail(place(one) + ", but " + place(other));
    }
    uint64_t votes = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (one.mask >> l & 1) votes |= uint64_t(threads[first + l].value != 0) << l;
    for (unsigned l = 0; l < 32; ++l) {
      if (!(one.mask >> l & 1)) continue;
      Thread& other = threads[first + l];
      other.received = votes;
      if (other.source == emulated::kVote) continue;
      if (!(one.mask >> other.source & 1)) return fail(place(other) + " and reads a lane that is not there");
      other.received = threads[first + other.source].value;
    }
    for (unsigned l = 0; l < 32; ++l)
      if (one.mask >> l & 1) threads[first + l].state = State::ready;
  }
  return true;
}

bool run_block(std::mt19937& random, size_t shared) {
  const unsigned count = blockDim.x;
  std::memset(ek::shared_bytes, 0xff, shared);  // NaN
  std::memset(ek::shared_bytes + shared, kCanary, kGuard);
  for (unsigned t = 0; t < count; ++t) prepare(threads[t]);
  while (true) {
    for (unsigned t : order(count, random)) {
      if (threads[t].state != State::ready) continue;
      running = &threads[t];
      threadIdx.x = t;
      swapcontext(&scheduler, &running->context);
    }
    const auto all = [&](State state) {
      return std::all_of(threads.begin(), threads.begin() + count, [&](const Thread& t) { return t.state == state; });
    };
    if (all(State::done)) break;
    if (all(State::at_block)) {
      for (unsigned t = 1; t < count; ++t)
        if (threads[t].site != threads[0].site) return fail(place(threads[0]) + ", but " + place(threads[t]));
      for (unsigned t = 0; t < count; ++t) threads[t].state = State::ready;
      continue;
    }
    bool moved = false;
    for (unsigned first = 0; first < count; first += 32)
      if (!meet(first, std::min(first + 32, count))) return false;
    for (unsigned t = 0; t < count; ++t) moved |= threads[t].state == State::ready;
    if (moved) continue;
    const auto waits = std::find_if(threads.begin(), threads.begin() + count,
                                    [](const Thread& t) { return t.state == State::at_block; });
    const auto left = std::find_if(threads.begin(), threads.begin() + count,
                                   [](const Thread& t) { return t.state != State::at_block; });
    return fail(place(*waits) + ", but " + place(*left));
  }
  for (size_t k = 0; k < kGuard; ++k)
    if (ek::shared_bytes[shared + k] != kCanary)
      return fail("shared memory is written " + std::to_string(k) + " bytes behind its end");
  return true;
}

}  // namespace

namespace emulated {

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, void (*call)(void*), void* arguments) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto asked = settings.shared.find(kernel);
  const size_t allowed = asked == settings.shared.end() ? kUnasked : asked->second;
  const bool flat = grid.y == 1 && grid.z == 1 && block.y == 1 && block.z == 1;
  if (!flat || grid.x < 1 || grid.x > 0x7fffffff || block.x < 1 || block.x > 1024 || shared > allowed) {
    settings.error = "a launch no GPU accepts";
    return cudaErrorInvalidConfiguration;
  }
  gridDim = settings.most_blocks ? std::min(grid.x, settings.most_blocks) : grid.x;
  blockDim = block;
  body = call;
  data = arguments;
  if (threads.size() < block.x) threads = std::vector<Thread>(block.x);
  ++settings.launches;
  std::mt19937 random(settings.seed);
  for (unsigned b : order(gridDim.x, random)) {
    blockIdx.x = b;
    if (!run_block(random, shared)) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

uint64_t meet_warp(unsigned mask, uint64_t value, int source, int site) {
  running->mask = mask;
  running->value = value;
  running->source = source;
  yield(State::at_warp, site);
  return running->received;
}

void meet_block(int site) { yield(State::at_block, site); }

}  // namespace emulated

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || size_t(value) > kMostShared) return cudaErrorInvalidValue;
  settings.shared[kernel] = std::max(size_t(value), kUnasked);
  return cudaSuccess;
}

#define EK_FOR_TESTS extern "C" __attribute__((visibility("default")))
EK_FOR_TESTS void emulator_set(unsigned seed, unsigned most_blocks) {
  settings.seed = seed;
  settings.most_blocks = most_blocks;
}
EK_FOR_TESTS long emulator_launches() { return settings.launches; }
EK_FOR_TESTS const char* emulator_last_error() { return settings.error.c_str(); }
