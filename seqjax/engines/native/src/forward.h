// The forward pass. Each thread runs its sequences over all steps, so that threads synchronise only at the end:
//
//   S = b + x W   for a chunk of steps at once
//   S += h U      for each step, then the cell's elementwise part
#pragma once
#include "layer.h"

namespace seqjax_native {
namespace ISA {
namespace {

class Forward {
 public:
  Forward(const ForwardProblem& problem, int threads) : n(slots(problem, threads)), p(problem), z(problem) {}

  bool begin() {
    if (!room.allocate([&](Room& r) { place(r); })) return false;
    fill_up(bias, p.bias, z.form.columns, p.H, z.Hp);
    fill_up(vectors, p.vectors, z.form.vectors, p.H, z.Hp);
    return true;
  }

  void pack_kernels(int slot) {
    const Form& f = z.form;
    for (int64_t panel = slot; panel < up(z.x_width, kPanel); panel += n)
      pack(kernel, p.kernel, p.D, p.H, z.Hp, f.gates, f.x_gates, f.x_count, panel);
    for (int64_t panel = slot; panel < up(z.h_width, kPanel); panel += n)
      pack(recurrent, p.recurrent, p.H, p.H, z.Hp, f.gates, f.h_gates, f.h_count, panel);
  }

  void run_slot(int slot) {
    for_groups(p, slot, n, [&](int64_t first, int64_t count) { run_group(work[slot], first, count); });
  }

  // Each for every slot, one after the other.
  static constexpr void (Forward::*kPhases[])(int) = {&Forward::pack_kernels, &Forward::run_slot};
  const int n;  // slots: threads with sequences of their own

 private:
  struct Work {
    Steps steps;
    float *sums, *h, *c;
  };
  static constexpr int64_t kChunk = 64;  // real steps, over all sequences of a group, whose x W is computed together

  const ForwardProblem& p;
  const Sizes z;
  Room room;
  float *kernel, *recurrent, *bias, *vectors;
  Work* work;

  void place(Room& room) {
    const int64_t rows = most_rows(p, n);
    kernel = room.floats(packed_size(p.D, z.x_width));
    recurrent = room.floats(packed_size(p.H, z.h_width));
    bias = room.floats(z.width);
    vectors = room.floats(z.form.vectors * z.Hp);
    work = room.take<Work>(n);
    for (int slot = 0; slot < n; slot++) {
      Work w;
      w.steps.place(room, rows, p.T);
      w.sums = room.floats((rows > kChunk ? rows : kChunk) * z.stride);
      w.h = room.floats(rows * z.Hp);
      w.c = room.floats(z.form.memory ? rows * z.Hp : 0);
      if (room.base) work[slot] = w;
    }
  }

  void run_group(Work& w, int64_t first, int64_t count) {
    Steps& steps = w.steps;
    steps.find(p, first, count);
    steps.clear_padded(p, p.ys, p.H);
    if (p.cs) steps.clear_padded(p, p.cs, p.H);
    fill_up(w.h, p.h0 + first * p.H, count, p.H, z.Hp);
    if (z.form.memory) fill_up(w.c, p.c0 + first * p.H, count, p.H, z.Hp);
    for (int64_t s = 0, end; s < p.T; s = end) {
      end = s + 1;
      while (end < p.T && steps.begin[end + 1] - steps.begin[s] <= kChunk) end++;
      project(w, steps.begin[s], steps.begin[end]);
      for (int64_t i = s; i < end; i++) step(w, steps.begin[i], steps.begin[i + 1], steps.begin[s]);
    }
    cut_down(p.h_last + first * p.H, w.h, count, p.H, z.Hp);
    if (z.form.memory) cut_down(p.c_last + first * p.H, w.c, count, p.H, z.Hp);
  }

  // The sums of real steps `begin` to `end`, without h U.
  void project(Work& w, int64_t begin, int64_t end) {
    product({p.xs, p.D, w.steps.at + begin}, end - begin, p.D, kernel, z.x_width, {w.sums, z.stride}, bias);
    const int64_t rest = (z.width - z.x_width) * sizeof(float);
    for (int64_t i = 0; rest && i < end - begin; i++) std::memcpy(w.sums + i * z.stride + z.x_width, bias + z.x_width, rest);
  }

  // The real steps `begin` to `end`, all at the same time step; the sums begin with real step `chunk`.
  void step(Work& w, int64_t begin, int64_t end, int64_t chunk) {
    const Steps& steps = w.steps;
    float* sums = w.sums + (begin - chunk) * z.stride;
    for (int64_t i = begin; p.resets && i < end; i++)
      if (steps.before[i] == Steps::kReset) reset(w, steps.row[i]);
    product({w.h, z.Hp, steps.row + begin}, end - begin, p.H, recurrent, z.h_width,
            {sums + z.form.h_first * z.Hp, z.stride}, nullptr);
    for (int64_t i = begin; i < end; i++) {
      const int64_t r = steps.row[i], at = steps.at[i];
      float* saved = p.saved ? p.saved + at * z.form.saved * z.Hp : nullptr;
      kRowFunctions[p.cell].forward({p.H, z.Hp, sums + (i - begin) * z.stride, vectors, w.h + r * z.Hp,
                                     z.form.memory ? w.c + r * z.Hp : nullptr, p.ys + at * p.H, saved});
      if (p.cs) std::memcpy(p.cs + at * p.H, w.c + r * z.Hp, p.H * sizeof(float));
    }
  }

  void reset(Work& w, int64_t r) {
    const int64_t b = w.steps.b0 + r;
    std::memcpy(w.h + r * z.Hp, p.h_reset + b * p.H, p.H * sizeof(float));
    if (z.form.memory) std::memcpy(w.c + r * z.Hp, p.c_reset + b * p.H, p.H * sizeof(float));
  }
};

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
