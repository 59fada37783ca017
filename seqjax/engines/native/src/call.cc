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

bool processor_runs(std::string_view name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name == "avx512") return __builtin_cpu_supports("avx512f");
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return name == "portable";
}

// The kernels of that name, or null if the processor cannot run them or this library lacks them.
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

// Work that is shared with XLA's pool. The caller runs tasks that no other thread has taken, so that a busy pool delays
// a call but never blocks it.
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

// The first error of a call.
class Checks {
 public:
  void that(bool holds, const std::string& otherwise) {
    if (!holds && fault.empty()) fault = "native engine: " + otherwise;
  }
  bool failed() const { return !fault.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(fault); }

 private:
  std::string fault;
};

ffi::AnyBuffer buffer_of(ffi::AnyBuffer array) { return array; }
ffi::AnyBuffer buffer_of(ffi::Result<ffi::AnyBuffer> array) { return *array; }

constexpr ffi::DataType type_of(const float*) { return ffi::F32; }
constexpr ffi::DataType type_of(const bool*) { return ffi::PRED; }

// Reads the arguments of a call, or its results, one after the other.
template <class Arrays>
class Reader {
 public:
  Reader(const Arrays& arrays, Checks& checks) : arrays(arrays), checks(checks) {}

  // One size of the array this many positions ahead; 0 if there is no such array or axis.
  int64_t size(size_t ahead, size_t axis) const {
    const auto array = arrays.template get<ffi::AnyBuffer>(next + ahead);
    if (!array.has_value()) return 0;
    const auto sizes = buffer_of(*array).dimensions();
    return axis < sizes.size() ? sizes[axis] : 0;
  }

  // The data of the next array, which must have this shape; null if it is empty.
  template <class Number>
  Number* take(const char* name, std::initializer_list<int64_t> shape) {
    const auto array = arrays.template get<ffi::AnyBuffer>(next++);
    checks.that(array.has_value(), std::string(name) + " is missing");
    if (!array.has_value()) return nullptr;
    const ffi::AnyBuffer buffer = buffer_of(*array);
    const auto sizes = buffer.dimensions();
    bool same = sizes.size() == shape.size();
    size_t i = 0;
    for (int64_t wanted : shape) same = same && sizes[i++] == wanted;
    checks.that(same, std::string(name) + " has a shape that does not fit the others");
    checks.that(buffer.element_type() == type_of(static_cast<Number*>(nullptr)), std::string(name) + " has another dtype");
    return buffer.element_count() ? static_cast<Number*>(buffer.untyped_data()) : nullptr;
  }
  bool finished() const { return next == arrays.size(); }

 private:
  const Arrays& arrays;
  Checks& checks;
  size_t next = 0;
};
using Arguments = Reader<ffi::RemainingArgs>;
using Results = Reader<ffi::RemainingRets>;

// The arguments of both passes. Sizes are read from xs and bias.
void read(Arguments& in, std::string_view cell, bool reverse, Problem& p, Checks& checks) {
  enum { kXs = 0, kBias = 3, kMask = 9, kResets = 10 };  // places
  p.cell = find_form(cell);
  checks.that(p.cell >= 0, "no cell of that name");
  if (checks.failed()) return;
  const Form& f = kForms[p.cell];
  p.reverse = reverse, p.T = in.size(kXs, 0), p.B = in.size(kXs, 1), p.D = in.size(kXs, 2), p.H = in.size(kBias, 1);
  checks.that(p.T >= 1 && p.B >= 1 && p.D >= 1 && p.H >= 1, "a size is 0, or xs or bias has the wrong rank");
  const int64_t masked = in.size(kMask, 0) ? p.T : 0, reset = in.size(kResets, 0) ? p.T : 0, start = reset ? p.B : 0;
  p.xs = in.take<const float>("xs", {p.T, p.B, p.D});
  p.kernel = in.take<const float>("kernel", {p.D, f.gates * p.H});
  p.recurrent = in.take<const float>("recurrent_kernel", {f.h_count ? p.H : 0, f.gates * p.H});
  p.bias = in.take<const float>("bias", {f.columns, p.H});
  p.vectors = in.take<const float>("vectors", {f.vectors, p.H});
  p.h0 = in.take<const float>("h0", {p.B, p.H});
  p.c0 = in.take<const float>("c0", {f.memory ? p.B : 0, p.H});
  p.h_reset = in.take<const float>("h of the initial carry", {start, p.H});
  p.c_reset = in.take<const float>("c of the initial carry", {f.memory ? start : 0, p.H});
  p.mask = in.take<const bool>("mask", {masked, p.B});
  p.resets = in.take<const bool>("resets", {reset, p.B});
}

int64_t filled_up(int64_t H) { return (H + kUnits - 1) / kUnits * kUnits; }

void read_forward(Arguments&, Results& out, ForwardProblem& p) {
  const Form& f = kForms[p.cell];
  const bool keeps = out.size(3, 0), every = out.size(4, 0);
  p.ys = out.take<float>("ys", {p.T, p.B, p.H});
  p.h_last = out.take<float>("the last h", {p.B, p.H});
  p.c_last = out.take<float>("the last c", {f.memory ? p.B : 0, p.H});
  p.saved = out.take<float>("what is saved", {keeps ? p.T : 0, p.B, f.saved, filled_up(p.H)});
  p.cs = out.take<float>("every c", {every && f.memory ? p.T : 0, p.B, p.H});
}

void read_backward(Arguments& in, Results& out, BackwardProblem& p) {
  const Form& f = kForms[p.cell];
  const int64_t memory = f.memory ? p.B : 0, start = p.resets ? p.B : 0;
  const bool every = in.size(5, 0);
  p.ys = in.take<const float>("ys", {p.T, p.B, p.H});
  p.saved = in.take<const float>("what was saved", {p.T, p.B, f.saved, filled_up(p.H)});
  p.d_ys = in.take<const float>("the cotangent of ys", {p.T, p.B, p.H});
  p.d_h_last = in.take<const float>("the cotangent of the last h", {p.B, p.H});
  p.d_c_last = in.take<const float>("the cotangent of the last c", {memory, p.H});
  p.d_cs = in.take<const float>("the cotangent of every c", {every && f.memory ? p.T : 0, p.B, p.H});
  p.d_xs = out.take<float>("the gradient of xs", {p.T, p.B, p.D});
  p.d_kernel = out.take<float>("the gradient of kernel", {p.D, f.gates * p.H});
  p.d_recurrent = out.take<float>("the gradient of recurrent_kernel", {f.h_count ? p.H : 0, f.gates * p.H});
  p.d_bias = out.take<float>("the gradient of bias", {f.columns, p.H});
  p.d_vectors = out.take<float>("the gradient of vectors", {f.vectors, p.H});
  p.d_h0 = out.take<float>("the gradient of h0", {p.B, p.H});
  p.d_c0 = out.take<float>("the gradient of c0", {memory, p.H});
  p.d_h_reset = out.take<float>("the gradient of the initial h", {start, p.H});
  p.d_c_reset = out.take<float>("the gradient of the initial c", {f.memory ? start : 0, p.H});
}

// Runs one layer, or two whose names are separated by a comma, the second in the other direction: the arrays of the
// second follow those of the first.
template <class Problem>
ffi::Error run(ffi::ThreadPool pool, const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results, std::string_view cells,
               std::string_view instruction_set, bool reverse, void (*read_rest)(Arguments&, Results&, Problem&),
               bool (*Kernels::*pass)(const Problem*, int, const Parallel&)) {
  Checks checks;
  Arguments in(arguments, checks);
  Results out(results, checks);
  const Kernels* kernels = find_kernels(instruction_set);
  checks.that(kernels != nullptr, "this processor does not run the instruction set asked for");
  const size_t comma = cells.find(',');
  const int count = comma == cells.npos ? 1 : 2;
  Problem problems[2];
  for (int i = 0; i < count && !checks.failed(); i++) {
    const std::string_view cell = i ? cells.substr(comma + 1) : cells.substr(0, comma);
    read(in, cell, reverse != (i == 1), problems[i], checks);
    if (!checks.failed()) read_rest(in, out, problems[i]);
  }
  checks.that(in.finished() && out.finished(), "there are more arrays than it takes");
  if (checks.failed()) return checks.error();
  const bool ran = (kernels->*pass)(problems, count, on(pool));
  return ran ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "native engine: out of memory");
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results, std::string_view cells,
                   std::string_view instruction_set, bool reverse) {
  return run<ForwardProblem>(pool, arguments, results, cells, instruction_set, reverse, read_forward, &Kernels::forward);
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::RemainingRets results, std::string_view cells,
                    std::string_view instruction_set, bool reverse) {
  return run<BackwardProblem>(pool, arguments, results, cells, instruction_set, reverse, read_backward, &Kernels::backward);
}

ffi::Error threads(ffi::ThreadPool pool, ffi::ResultBufferR0<ffi::S32> found) {
  *found->typed_data() = on(pool).threads;
  return ffi::Error::Success();
}

}  // namespace
}  // namespace seqjax_native

#define SEQJAX_BINDING                                                                                   \
  ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<std::string_view>("cells") \
      .Attr<std::string_view>("instruction_set").Attr<bool>("reverse")

#pragma GCC visibility push(default)  // everything else is hidden
XLA_FFI_DEFINE_HANDLER_SYMBOL(seqjax_native_forward, seqjax_native::forward, SEQJAX_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(seqjax_native_backward, seqjax_native::backward, SEQJAX_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(seqjax_native_threads, seqjax_native::threads,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Ret<ffi::BufferR0<ffi::S32>>());

// Whether this library has the kernels of that name and this processor can run them.
extern "C" bool seqjax_native_runs(const char* instruction_set) {
  return seqjax_native::find_kernels(instruction_set) != nullptr;
}

// The digest of the sources of this library (`build.py`).
#define SEQJAX_TEXT(name) #name
#define SEQJAX_TEXT_OF(name) SEQJAX_TEXT(name)
extern "C" const char* seqjax_native_sources() { return SEQJAX_TEXT_OF(SOURCES); }
#pragma GCC visibility pop
