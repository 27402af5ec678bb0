// What ThreadSanitizer is told of a launch, in a build with EK_TSAN. Each CUDA thread is a thread of its own; its
// switch to another orders nothing. A barrier orders what its threads did before with what they do afterwards, and the
// end of the launch all of it with what follows. So two accesses that only the emulator's order keeps apart are a
// report.
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace watched {

// Threads that arrive at the next meeting do not order those that have yet to leave this one: two places in turn.
struct Meeting {
  char place[2];
  unsigned turn = 0;
};

#if EK_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
inline void* current() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
inline void destroy(void* thread) { __tsan_destroy_fiber(thread); }
inline void become(void* thread) { __tsan_switch_to_fiber(thread, 1); }  // 1: without an order
inline void before(char* place) { __tsan_release(place); }
inline void after(char* place) { __tsan_acquire(place); }
// Memory that other threads have used, as new.
inline void renew(void* p, size_t bytes) {
  mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}
#else
inline void* current() { return nullptr; }
inline void* create() { return nullptr; }
inline void destroy(void*) {}
inline void become(void*) {}
inline void before(char*) {}
inline void after(char*) {}
inline void renew(void*, size_t) {}
#endif

}  // namespace watched
