// The kernels of one instruction set. Compiled once for each, with the compiler's flags for it and
//   -DISA=its name -DLANES=floats of a vector -DPANEL_VECTORS=vectors of a panel.
// All but `kernels` is local to this file, and nothing of the standard library's templates is used, so that no function
// with instructions that a processor lacks can take the place of another's.
#include "backward.h"
#include "forward.h"

namespace seqjax_native {
namespace ISA {
namespace {

bool run_forward(const ForwardProblem& p, const Parallel& parallel) { return Forward(p, parallel).run(); }
bool run_backward(const BackwardProblem& p, const Parallel& parallel) { return Backward(p, parallel).run(); }

}  // namespace

#define QUOTED(name) #name
#define NAME_OF(name) QUOTED(name)
const Kernels kernels = {NAME_OF(ISA), run_forward, run_backward};

}  // namespace ISA
}  // namespace seqjax_native
