// Runs passes over items on the CPU.
#include "passes.h"

#include "../core/isa.h"

namespace ek {

template <class Isa, class Pass>
void PassCpu<Isa, Pass>::run(const Pass& pass, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) pass.template run<1>(item, 0);
}

#define EK_COMPILE(...) template struct PassCpu<EK_ISA, __VA_ARGS__>;
EK_EACH_PASS(EK_COMPILE)

}  // namespace ek
