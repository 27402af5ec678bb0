// Runs the passes over tiles on the CPU.
#include "../core/isa.h"
#include "passes.h"
#include "tile_activation.h"

namespace ek {

template <class Isa, class Pass>
void PassCpu<Isa, Pass>::run(const Pass& pass, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item)
    if constexpr (__is_base_of(RowPass, Pass))
      pass.run(item, OneLane{});
    else
      pass.template run<1>(item, 0);
}

#define EK_COMPILE(...) template struct PassCpu<EK_ISA, __VA_ARGS__>;
EK_EACH_TILE_PASS(EK_COMPILE)

}  // namespace ek
