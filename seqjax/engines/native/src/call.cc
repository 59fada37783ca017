// The calls that XLA makes: checks of names and shapes, the choice of the kernels, and XLA's threads.
#include <atomic>
#include <condition_variable>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace seqjax_native {
namespace {

using Array = ffi::Buffer<ffi::F32>;
using Flags = ffi::Buffer<ffi::PRED>;
using OutArray = ffi::ResultBuffer<ffi::F32>;

bool processor_runs(std::string_view name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name == "avx512") return __builtin_cpu_supports("avx512f");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return name == "portable";
}

// The kernels of that name, or null where the processor does not run them or this library lacks them.
const Kernels* find_kernels(std::string_view name) {
  if (!processor_runs(name)) return nullptr;
#if defined(__x86_64__)
  if (name == "avx512") return &avx512::kernels;
  if (name == "avx2") return &avx2::kernels;
#endif
  return &portable::kernels;
}

int find_form(std::string_view name) {
  for (int i = 0; i < kFormCount; i++)
    if (name == kForms[i].name) return i;
  return -1;
}

// Work that is shared with XLA's pool. What no other thread has taken the caller does itself, so that a busy pool delays
// a call and never blocks it.
struct Shared {
  void (*task)(void*, int);
  void* argument;
  const int count;
  std::atomic<int> next{0};
  int done = 0;
  std::mutex mutex;
  std::condition_variable all_done;

  Shared(void (*task)(void*, int), void* argument, int count) : task(task), argument(argument), count(count) {}

  void work() {
    int finished = 0;
    for (int i; (i = next.fetch_add(1)) < count; finished++) task(argument, i);
    if (!finished) return;
    std::lock_guard<std::mutex> lock(mutex);
    if ((done += finished) == count) all_done.notify_all();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done == count; });
  }
};

void run_on_pool(void* self, int count, void (*task)(void*, int), void* argument) {
  if (count == 1) return task(argument, 0);
  auto shared = std::make_shared<Shared>(task, argument, count);  // a late thread of the pool may outlive this call
  auto* pool = static_cast<ffi::ThreadPool*>(self);
  for (int i = 1; i < count; i++) pool->Schedule([shared] { shared->work(); });
  shared->work();
  shared->wait();
}

Parallel on(ffi::ThreadPool& pool) {
  const int64_t threads = pool.num_threads();
  return {int(threads < 1 ? 1 : threads > 1024 ? 1024 : threads), &pool, run_on_pool};
}

// Collects the first shape that is not what it must be.
class Checks {
 public:
  template <class Buffer>
  void shape(const char* name, const Buffer& buffer, std::initializer_list<int64_t> wanted) {
    const auto found = buffer.dimensions();
    bool same = found.size() == wanted.size();
    size_t i = 0;
    for (int64_t size : wanted) same = same && found[i++] == size;
    if (!same && fault.empty()) fault = std::string("native engine: ") + name + " has a shape that does not fit the others";
  }
  void that(bool holds, const char* otherwise) {
    if (!holds && fault.empty()) fault = std::string("native engine: ") + otherwise;
  }
  bool failed() const { return !fault.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(fault); }

 private:
  std::string fault;
};

struct Inputs {
  Array xs, kernel, recurrent, bias, vectors, h0, c0, h_reset, c_reset;
  Flags mask, resets;
};

template <class Buffer>
auto data_or_null(Buffer& buffer) {
  return buffer.element_count() ? buffer.typed_data() : nullptr;
}

// Fills in what both passes take, after checking it.
void read(Inputs& in, std::string_view cell, bool reverse, Problem& p, Checks& checks) {
  p.cell = find_form(cell);
  checks.that(p.cell >= 0, "no cell of that name");
  checks.that(in.xs.dimensions().size() == 3 && in.bias.dimensions().size() == 2, "xs or bias has the wrong rank");
  if (checks.failed()) return;
  const Form& f = kForms[p.cell];
  p.T = in.xs.dimensions()[0], p.B = in.xs.dimensions()[1], p.D = in.xs.dimensions()[2], p.H = in.bias.dimensions()[1];
  checks.that(p.T >= 1 && p.B >= 1 && p.D >= 1 && p.H >= 1, "a size is 0");
  const int64_t memory = f.memory ? p.B : 0, masked = in.mask.dimensions()[0] ? p.T : 0;
  const int64_t reset = in.resets.dimensions()[0] ? p.T : 0, start = reset ? p.B : 0;
  checks.shape("kernel", in.kernel, {p.D, f.gates * p.H});
  checks.shape("recurrent_kernel", in.recurrent, {f.h_count ? p.H : 0, f.gates * p.H});
  checks.shape("bias", in.bias, {f.columns, p.H});
  checks.shape("vectors", in.vectors, {f.vectors, p.H});
  checks.shape("h0", in.h0, {p.B, p.H});
  checks.shape("c0", in.c0, {memory, p.H});
  checks.shape("h of the initial carry", in.h_reset, {start, p.H});
  checks.shape("c of the initial carry", in.c_reset, {f.memory ? start : 0, p.H});
  checks.shape("mask", in.mask, {masked, p.B});
  checks.shape("resets", in.resets, {reset, p.B});
  p.reverse = reverse;
  p.xs = in.xs.typed_data(), p.kernel = in.kernel.typed_data(), p.recurrent = data_or_null(in.recurrent);
  p.bias = in.bias.typed_data(), p.vectors = data_or_null(in.vectors);
  p.h0 = in.h0.typed_data(), p.c0 = data_or_null(in.c0);
  p.h_reset = data_or_null(in.h_reset), p.c_reset = data_or_null(in.c_reset);
  p.mask = data_or_null(in.mask), p.resets = data_or_null(in.resets);
}

int64_t filled_up(int64_t H) { return (H + kUnits - 1) / kUnits * kUnits; }

const Kernels* choose(std::string_view name, Checks& checks) {
  const Kernels* kernels = find_kernels(name);
  checks.that(kernels != nullptr, "this processor does not run the instruction set asked for");
  return kernels;
}

ffi::Error finish(bool ran) {
  return ran ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "native engine: out of memory");
}

ffi::Error forward(ffi::ThreadPool pool, Array xs, Array kernel, Array recurrent, Array bias, Array vectors, Array h0,
                   Array c0, Array h_reset, Array c_reset, Flags mask, Flags resets, OutArray ys, OutArray h, OutArray c,
                   OutArray saved, OutArray cs, std::string_view cell, std::string_view instruction_set, bool reverse) {
  Inputs in{xs, kernel, recurrent, bias, vectors, h0, c0, h_reset, c_reset, mask, resets};
  ForwardProblem p;
  Checks checks;
  const Kernels* kernels = choose(instruction_set, checks);
  read(in, cell, reverse, p, checks);
  if (checks.failed()) return checks.error();
  const Form& f = kForms[p.cell];
  checks.shape("ys", *ys, {p.T, p.B, p.H});
  checks.shape("the last h", *h, {p.B, p.H});
  checks.shape("the last c", *c, {f.memory ? p.B : 0, p.H});
  if (saved->element_count()) checks.shape("what is saved", *saved, {p.T, p.B, f.saved, filled_up(p.H)});
  if (cs->element_count()) checks.shape("every c", *cs, {f.memory ? p.T : 0, p.B, p.H});
  if (checks.failed()) return checks.error();
  p.ys = ys->typed_data(), p.h_last = h->typed_data(), p.c_last = data_or_null(*c), p.saved = data_or_null(*saved);
  p.cs = data_or_null(*cs);
  return finish(kernels->forward(p, on(pool)));
}

ffi::Error backward(ffi::ThreadPool pool, Array xs, Array kernel, Array recurrent, Array bias, Array vectors, Array h0,
                    Array c0, Array h_reset, Array c_reset, Flags mask, Flags resets, Array ys, Array saved, Array d_ys,
                    Array d_h, Array d_c, Array d_cs, OutArray d_xs, OutArray d_kernel, OutArray d_recurrent, OutArray d_bias,
                    OutArray d_vectors, OutArray d_h0, OutArray d_c0, OutArray d_h_reset, OutArray d_c_reset,
                    std::string_view cell, std::string_view instruction_set, bool reverse) {
  Inputs in{xs, kernel, recurrent, bias, vectors, h0, c0, h_reset, c_reset, mask, resets};
  BackwardProblem p;
  Checks checks;
  const Kernels* kernels = choose(instruction_set, checks);
  read(in, cell, reverse, p, checks);
  if (checks.failed()) return checks.error();
  const Form& f = kForms[p.cell];
  const int64_t memory = f.memory ? p.B : 0, start = p.resets ? p.B : 0;
  checks.shape("ys", ys, {p.T, p.B, p.H});
  checks.shape("what was saved", saved, {p.T, p.B, f.saved, filled_up(p.H)});
  checks.shape("the cotangent of ys", d_ys, {p.T, p.B, p.H});
  checks.shape("the cotangent of the last h", d_h, {p.B, p.H});
  checks.shape("the cotangent of the last c", d_c, {memory, p.H});
  if (d_cs.element_count()) checks.shape("the cotangent of every c", d_cs, {f.memory ? p.T : 0, p.B, p.H});
  checks.shape("the gradient of xs", *d_xs, {p.T, p.B, p.D});
  checks.shape("the gradient of kernel", *d_kernel, {p.D, f.gates * p.H});
  checks.shape("the gradient of recurrent_kernel", *d_recurrent, {f.h_count ? p.H : 0, f.gates * p.H});
  checks.shape("the gradient of bias", *d_bias, {f.columns, p.H});
  checks.shape("the gradient of vectors", *d_vectors, {f.vectors, p.H});
  checks.shape("the gradient of h0", *d_h0, {p.B, p.H});
  checks.shape("the gradient of c0", *d_c0, {memory, p.H});
  checks.shape("the gradient of the initial h", *d_h_reset, {start, p.H});
  checks.shape("the gradient of the initial c", *d_c_reset, {f.memory ? start : 0, p.H});
  if (checks.failed()) return checks.error();
  p.ys = ys.typed_data(), p.saved = data_or_null(saved), p.d_ys = d_ys.typed_data();
  p.d_h_last = d_h.typed_data(), p.d_c_last = data_or_null(d_c), p.d_cs = data_or_null(d_cs);
  p.d_xs = d_xs->typed_data(), p.d_kernel = d_kernel->typed_data(), p.d_recurrent = data_or_null(*d_recurrent);
  p.d_bias = d_bias->typed_data(), p.d_vectors = data_or_null(*d_vectors);
  p.d_h0 = d_h0->typed_data(), p.d_c0 = data_or_null(*d_c0);
  p.d_h_reset = data_or_null(*d_h_reset), p.d_c_reset = data_or_null(*d_c_reset);
  return finish(kernels->backward(p, on(pool)));
}

}  // namespace
}  // namespace seqjax_native

#define SEQJAX_ARRAYS_2 .Arg<seqjax_native::Array>().Arg<seqjax_native::Array>()
#define SEQJAX_INPUTS                                                                 \
  SEQJAX_ARRAYS_2 SEQJAX_ARRAYS_2 SEQJAX_ARRAYS_2 SEQJAX_ARRAYS_2                     \
      .Arg<seqjax_native::Array>().Arg<seqjax_native::Flags>().Arg<seqjax_native::Flags>()
#define SEQJAX_RESULT .Ret<seqjax_native::Array>()
#define SEQJAX_ATTRIBUTES \
  .Attr<std::string_view>("cell").Attr<std::string_view>("instruction_set").Attr<bool>("reverse")

#pragma GCC visibility push(default)  // all else is hidden
XLA_FFI_DEFINE_HANDLER_SYMBOL(seqjax_native_forward, seqjax_native::forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() SEQJAX_INPUTS SEQJAX_RESULT SEQJAX_RESULT
                                  SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT SEQJAX_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(seqjax_native_backward, seqjax_native::backward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() SEQJAX_INPUTS SEQJAX_ARRAYS_2 SEQJAX_ARRAYS_2
                                  SEQJAX_ARRAYS_2 SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT
                                  SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT SEQJAX_RESULT
                                  SEQJAX_ATTRIBUTES);

// Whether this processor runs the kernels of that name, and they are in this library.
extern "C" bool seqjax_native_runs(const char* instruction_set) {
  return seqjax_native::find_kernels(instruction_set) != nullptr;
}

// The digest of what this library was built from (`build.py`).
#define SEQJAX_TEXT(name) #name
#define SEQJAX_TEXT_OF(name) SEQJAX_TEXT(name)
extern "C" const char* seqjax_native_sources() { return SEQJAX_TEXT_OF(SOURCES); }
#pragma GCC visibility pop
