// Functions of newer C and C++ libraries, compiled in, so that a library built on a newer Linux loads on glibc 2.28 and
// the libstdc++ of GCC 8 (manylinux_2_28). The libraries' lists of exported symbols keep them from everyone else.
#include <new>
#include <sstream>

#if defined(__GLIBC__)
#if defined(__x86_64__)
#define EK_OLDEST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define EK_OLDEST "GLIBC_2.17"
#endif
#endif

extern "C" {
// glibc 2.32: whether the process has one thread. Never saying so is always right: counts change atomically.
extern char __libc_single_threaded;
char __libc_single_threaded = 0;

// glibc 2.29 gave these a second version, which differs from the first in what it does to errno.
#if defined(EK_OLDEST)
double older_exp(double) noexcept;
double older_log(double) noexcept;
__asm__(".symver older_exp, exp@" EK_OLDEST);
__asm__(".symver older_log, log@" EK_OLDEST);
double exp(double x) noexcept { return older_exp(x); }
double log(double x) noexcept { return older_log(x); }
#endif
}

namespace std {
// GCC 11: what `new T[n]` and allocators call for an n that is too large.
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// GCC 9: constructors without arguments.
template std::basic_ostringstream<char>::basic_ostringstream();
template std::basic_stringstream<char>::basic_stringstream();
