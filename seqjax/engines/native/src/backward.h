// The backward pass, with the weight gradients. Each thread runs backward through its sequences over all steps:
//
//   dS from the cell's derivative, dh = dS U'   for each step
//   dx = dS W',  dW += x' dS,  dU += h' dS      for a chunk of steps at once, so that the whole of dS never exists
// Each thread accumulates its own gradients, which are summed in thread order at the end: for a given number of threads
// the result is deterministic.
#pragma once
#include "layer.h"

namespace seqjax_native {
namespace ISA {
namespace {

class Backward {
 public:
  Backward(const BackwardProblem& problem, int threads) : n(slots(problem, threads)), p(problem), z(problem) {}

  bool begin() {
    if (!room.allocate([&](Room& r) { place(r); })) return false;
    fill_up(vectors, p.vectors, z.form.vectors, p.H, z.Hp);
    return true;
  }

  void pack_kernels(int slot) {
    const Form& f = z.form;
    for (int64_t panel = slot; panel < up(p.D, kPanel); panel += n)
      pack_transposed(kernel, p.kernel, p.D, p.H, z.Hp, f.gates, f.x_gates, f.x_count, panel);
    for (int64_t panel = slot; z.h_width && panel < up(z.Hp, kPanel); panel += n)
      pack_transposed(recurrent, p.recurrent, p.H, p.H, z.Hp, f.gates, f.h_gates, f.h_count, panel);
    if (slot == 0) std::memset(zeros, 0, kernel_outputs() * sizeof(float));
  }

  void run_slot(int slot) {
    clear(work[slot]);
    for_groups(p, slot, n, [&](int64_t first, int64_t count) { run_group(work[slot], first, count); });
  }

  // This thread's share of the rows of the gradients, added over all threads.
  void add_up(int slot) {
    const Form& f = z.form;
    const int64_t row = f.gates * p.H;
    for (int64_t m = part(p.D, slot, n); m < part(p.D, slot + 1, n); m++)
      unpack_outer(p.d_kernel + m * row, d_kernels, n, p.D, m, p.H, z.Hp, f.x_gates, f.x_count);
    for (int64_t m = part(p.H, slot, n); z.h_width && m < part(p.H, slot + 1, n); m++)
      unpack_outer(p.d_recurrent + m * row, d_recurrents, n, p.H, m, p.H, z.Hp, f.h_gates, f.h_count);
    if (slot) return;
    for (int i = 1; i < n; i++) {
      for (int64_t u = 0; u < z.width; u += kLanes) add(work[0].d_bias + u, load(work[i].d_bias + u));
      for (int64_t u = 0; u < f.vectors * z.Hp; u += kLanes) add(work[0].d_vectors + u, load(work[i].d_vectors + u));
    }
    cut_down(p.d_bias, work[0].d_bias, f.columns, p.H, z.Hp);
    cut_down(p.d_vectors, work[0].d_vectors, f.vectors, p.H, z.Hp);
  }

  // Each for every slot, one after the other.
  static constexpr void (Backward::*kPhases[])(int) = {&Backward::pack_kernels, &Backward::run_slot, &Backward::add_up};
  const int n;  // slots: threads with sequences of their own

 private:
  struct Work {
    Steps steps;
    float *d_sums, *d_h, *d_c, *d_x;
    float *h0, *c0, *h_reset, *c_reset;      // padded
    float *d_h_reset, *d_c_reset;            // cotangents of the carries that resets restore
    float *x_rows, *h_rows, *panel_rows;     // operands of the sums of outer products
    float *d_kernel, *d_recurrent;           // as in product.h
    float *d_bias, *d_bias_chunk, *d_vectors;
  };
  static constexpr int64_t kChunk = 128;  // real steps, over all sequences of a group, whose dS exist at the same time

  const BackwardProblem& p;
  const Sizes z;
  Room room;
  float *kernel, *recurrent, *vectors, *zeros;
  const float **d_kernels, **d_recurrents;  // of every thread
  Work* work;

  int64_t kernel_outputs() const { return up(p.D, kPanel) * kPanel; }

  void place(Room& room) {
    const int64_t rows = most_rows(p, n), most = rows > kChunk ? rows : kChunk, state = rows * z.Hp;
    const int64_t memory = z.form.memory ? state : 0;
    kernel = room.floats(packed_size(z.x_width, p.D));
    recurrent = room.floats(packed_size(z.h_width, z.Hp));
    vectors = room.floats(z.form.vectors * z.Hp);
    zeros = room.floats(kernel_outputs());
    d_kernels = room.take<const float*>(n), d_recurrents = room.take<const float*>(n);
    work = room.take<Work>(n);
    for (int slot = 0; slot < n; slot++) {
      Work w;
      w.steps.place(room, rows, p.T);
      w.d_sums = room.floats(most * z.stride);
      w.d_x = room.floats(most * kernel_outputs());
      float **of_h[] = {&w.d_h, &w.h0, &w.h_reset, &w.d_h_reset}, **of_c[] = {&w.d_c, &w.c0, &w.c_reset, &w.d_c_reset};
      for (float** array : of_h) *array = room.floats(state);
      for (float** array : of_c) *array = room.floats(memory);
      w.x_rows = room.floats(most * up(p.D, kTileRows) * kTileRows);
      w.h_rows = room.floats(z.h_width ? most * up(p.H, kTileRows) * kTileRows : 0);
      w.panel_rows = room.floats(most * kPanel);
      w.d_kernel = room.floats(outer_size(p.D, z.x_width));
      w.d_recurrent = room.floats(outer_size(p.H, z.h_width));
      w.d_bias = room.floats(z.width), w.d_bias_chunk = room.floats(z.width);
      w.d_vectors = room.floats(z.form.vectors * z.Hp);
      if (room.base) work[slot] = w, d_kernels[slot] = w.d_kernel, d_recurrents[slot] = w.d_recurrent;
    }
  }

  void clear(Work& w) const {
    std::memset(w.d_kernel, 0, outer_size(p.D, z.x_width) * sizeof(float));
    std::memset(w.d_recurrent, 0, outer_size(p.H, z.h_width) * sizeof(float));
    std::memset(w.d_bias, 0, z.width * sizeof(float));
    std::memset(w.d_vectors, 0, z.form.vectors * z.Hp * sizeof(float));
  }

  void run_group(Work& w, int64_t first, int64_t count) {
    Steps& steps = w.steps;
    steps.find(p, first, count);
    steps.clear_padded(p, p.d_xs, p.D);
    const int64_t from = first * p.H, H = p.H;
    fill_up(w.d_h, p.d_h_last + from, count, H, z.Hp);
    fill_up(w.h0, p.h0 + from, count, H, z.Hp);
    fill_up(w.h_reset, p.resets ? p.h_reset + from : nullptr, count, H, z.Hp);
    fill_up(w.d_h_reset, nullptr, count, H, z.Hp);
    if (z.form.memory) {
      fill_up(w.d_c, p.d_c_last + from, count, H, z.Hp);
      fill_up(w.c0, p.c0 + from, count, H, z.Hp);
      fill_up(w.c_reset, p.resets ? p.c_reset + from : nullptr, count, H, z.Hp);
      fill_up(w.d_c_reset, nullptr, count, H, z.Hp);
    }
    for (int64_t end = p.T, s; end > 0; end = s) {
      s = end - 1;
      while (s > 0 && steps.begin[end] - steps.begin[s - 1] <= kChunk) s--;
      for (int64_t i = end - 1; i >= s; i--) step(w, steps.begin[i], steps.begin[i + 1], steps.begin[s]);
      weigh(w, steps.begin[s], steps.begin[end]);
    }
    cut_down(p.d_h0 + from, w.d_h, count, H, z.Hp);
    if (z.form.memory) cut_down(p.d_c0 + from, w.d_c, count, H, z.Hp);
    if (p.resets) cut_down(p.d_h_reset + from, w.d_h_reset, count, H, z.Hp);
    if (p.resets && z.form.memory) cut_down(p.d_c_reset + from, w.d_c_reset, count, H, z.Hp);
  }

  // The output, or the memory, that a real step starts from.
  const float* h_before(const Work& w, int64_t i) const {
    const int64_t before = w.steps.before[i], r = w.steps.row[i];
    return before >= 0 ? p.ys + before * p.H : (before == Steps::kReset ? w.h_reset : w.h0) + r * z.Hp;
  }
  const float* c_before(const Work& w, int64_t i) const {
    const int64_t before = w.steps.before[i], r = w.steps.row[i];
    if (before >= 0) return p.saved + ((before + 1) * z.form.saved - 1) * z.Hp;  // c is the last of the saved numbers
    return (before == Steps::kReset ? w.c_reset : w.c0) + r * z.Hp;
  }

  // The real steps `begin` to `end`, all at the same time step; dS begins with real step `chunk`.
  void step(Work& w, int64_t begin, int64_t end, int64_t chunk) {
    const Steps& steps = w.steps;
    float* d_sums = w.d_sums + (begin - chunk) * z.stride;
    for (int64_t i = begin; i < end; i++) {
      const int64_t r = steps.row[i], at = steps.at[i];
      const bool memory = z.form.memory;
      for (int64_t u = 0; p.d_cs && u < z.Hp; u += kLanes) add(w.d_c + r * z.Hp + u, load(p.d_cs + at * p.H + u, p.H - u));
      kRowFunctions[p.cell].backward({p.H, z.Hp, p.saved + at * z.form.saved * z.Hp, vectors, h_before(w, i),
                                      memory ? c_before(w, i) : nullptr, p.ys + at * p.H, p.d_ys + at * p.H,
                                      w.d_h + r * z.Hp, memory ? w.d_c + r * z.Hp : nullptr,
                                      d_sums + (i - begin) * z.stride, w.d_vectors});
    }
    if (z.h_width)
      product({d_sums + z.form.h_first * z.Hp, z.stride}, end - begin, z.h_width, recurrent, z.Hp,
              {w.d_h, z.Hp, steps.row + begin}, nullptr);
    for (int64_t i = begin; p.resets && i < end; i++)
      if (steps.before[i] == Steps::kReset) {
        const int64_t row = steps.row[i] * z.Hp;
        move(w.d_h_reset + row, w.d_h + row);
        if (z.form.memory) move(w.d_c_reset + row, w.d_c + row);
      }
  }

  void move(float* to, float* from) const {
    for (int64_t u = 0; u < z.Hp; u += kLanes) add(to + u, load(from + u)), store(from + u, Vector{});
  }

  // The products with the dS of the real steps `begin` to `end`.
  void weigh(Work& w, int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    if (!count) return;
    const Rows d_sums{w.d_sums, z.stride}, x{p.xs, p.D, w.steps.at + begin};
    const OutRows d_x{w.d_x, kernel_outputs()};
    product(d_sums, count, z.x_width, kernel, kernel_outputs(), d_x, zeros);
    for (int64_t i = 0; i < count; i++)
      std::memcpy(p.d_xs + w.steps.at[begin + i] * p.D, d_x[i], p.D * sizeof(float));
    pack_rows(w.x_rows, [&](int64_t i) { return x[i]; }, count, p.D);
    add_outer(w.d_kernel, w.x_rows, p.D, d_sums, 0, z.x_width, count, w.panel_rows);
    if (z.h_width) {
      pack_rows(w.h_rows, [&](int64_t i) { return h_before(w, begin + i); }, count, p.H);
      add_outer(w.d_recurrent, w.h_rows, p.H, d_sums, z.form.h_first * z.Hp, z.h_width, count, w.panel_rows);
    }
    std::memset(w.d_bias_chunk, 0, z.width * sizeof(float));
    for (int64_t i = 0; i < count; i++)
      for (int64_t u = 0; u < z.width; u += kLanes) add(w.d_bias_chunk + u, load(d_sums[i] + u));
    for (int64_t u = 0; u < z.width; u += kLanes) add(w.d_bias + u, load(w.d_bias_chunk + u));
  }
};

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
