// The kernels of one instruction set. Compiled once for each, with the compiler's flags for it and
//   -DISA=its name -DLANES=floats of a vector -DPANEL_VECTORS=vectors of a panel.
// Everything except `kernels` is local to this file, and no standard library templates are used, so that the linker
// cannot replace a function by a copy with instructions that the processor lacks.
#include "backward.h"
#include "forward.h"

namespace seqjax_native {
namespace ISA {
namespace {

// Runs one layer, or two at once, each on half of the threads. An odd number of threads cannot be halved: then each
// layer is cut into as many slots as it would have alone.
template <class Pass, class Problem>
bool run(const Problem* problems, int count, const Parallel& parallel) {
  const int threads = count == 2 && parallel.threads % 2 == 0 ? parallel.threads / 2 : parallel.threads;
  Pass passes[] = {{problems[0], threads}, {problems[count - 1], threads}};
  for (int i = 0; i < count; i++)
    if (!passes[i].begin()) return false;
  const int first = passes[0].n, all = first + (count == 2 ? passes[1].n : 0);
  for (auto phase : Pass::kPhases)
    in_parallel(parallel, all, [&](int i) { i < first ? (passes[0].*phase)(i) : (passes[1].*phase)(i - first); });
  return true;
}

}  // namespace

#define QUOTED(name) #name
#define NAME_OF(name) QUOTED(name)
const Kernels kernels = {NAME_OF(ISA), run<Forward, ForwardProblem>, run<Backward, BackwardProblem>};

}  // namespace ISA
}  // namespace seqjax_native
