// Shared by both passes: sizes, workspace, and which steps of a thread's sequences are real.
#pragma once
#include <cstdlib>

#include "cells.h"
#include "product.h"

namespace seqjax_native {
namespace ISA {
namespace {

struct Sizes {
  const Form& form;
  int64_t Hp;     // units, padded
  int64_t width;  // of the sums of a row
  int64_t stride; // row stride of the sums: not a power of two, which would map all rows to the same cache lines
  int64_t x_width, h_width;

  explicit Sizes(const Problem& p)
      : form(kForms[p.cell]), Hp(up(p.H, kUnits) * kUnits), width(form.columns * Hp), stride(width + kUnits),
        x_width(form.x_count * Hp), h_width(form.h_count * Hp) {}
};

// A workspace for arrays, allocated in one piece. `place(room)` is called twice: once to count, once to assign.
struct Room {
  char* base = nullptr;
  int64_t used = 0;

  template <class Number>
  Number* take(int64_t count) {
    Number* found = base ? reinterpret_cast<Number*>(base + used) : nullptr;
    used += (count * int64_t(sizeof(Number)) + 127) / 64 * 64;
    return found;
  }
  float* floats(int64_t count) { return take<float>(count); }

  template <class Place>
  bool allocate(Place place) {
    place(*this);
    base = static_cast<char*>(std::aligned_alloc(64, used + 64));
    if (!base) return false;
    used = 0;
    place(*this);
    return true;
  }
  ~Room() { std::free(base); }
};

// Calls f(i) for i = 0 ... count - 1, on several threads.
template <class F>
void in_parallel(const Parallel& parallel, int count, F f) {
  parallel.run(parallel.self, count, [](void* argument, int i) { (*static_cast<F*>(argument))(i); }, &f);
}

// The start of part i when `count` items are split into n parts, which is the end of part i - 1.
INLINE int64_t part(int64_t count, int64_t i, int64_t n) { return count / n * i + smaller(i, count % n); }

// How many threads get sequences of their own: up to 8 with one sequence each, more if each gets 4, since every thread
// reads all weights at every step and accumulates its own gradients.
INLINE int slots(const Problem& p, int threads) {
  const int64_t most = smaller(p.B, p.B / 4 > 8 ? p.B / 4 : 8);
  return int(smaller(most, threads < 1 ? 1 : threads));
}

// Sequences b0 ... b0 + rows - 1 and their real steps, numbered in the order of the run. Padded steps are not numbered
// and only have zeros written.
struct Steps {
  enum : int64_t { kCarry = -1, kReset = -2 };
  int64_t b0, rows, T;
  int64_t* begin;   // (T + 1,) the first real step of each time in the order of the run
  int64_t* row;     // its sequence, from 0
  int64_t* at;      // its index in arrays (T, B)
  int64_t* before;  // the index of the step whose carry it starts from; kCarry for the given carry, kReset after a reset
  int64_t* last;    // (rows,) the last real step of each sequence, or kCarry

  void place(Room& room, int64_t most_rows, int64_t steps) {
    T = steps;
    begin = room.take<int64_t>(T + 1);
    int64_t** arrays[] = {&row, &at, &before};
    for (int64_t** array : arrays) *array = room.take<int64_t>(most_rows * T);
    last = room.take<int64_t>(most_rows);
  }

  void find(const Problem& p, int64_t first, int64_t count) {
    b0 = first, rows = count;
    for (int64_t r = 0; r < rows; r++) last[r] = kCarry;
    int64_t step = 0;
    for (int64_t s = 0; s < T; s++) {
      begin[s] = step;
      const int64_t t = p.reverse ? T - 1 - s : s;
      for (int64_t r = 0; r < rows; r++) {
        const int64_t place = t * p.B + b0 + r;
        if (p.mask && !p.mask[place]) continue;
        row[step] = r, at[step] = place, before[step] = p.resets && p.resets[place] ? kReset : last[r];
        last[r] = place, step++;
      }
    }
    begin[T] = step;
  }

  // Writes zeros to the rows of an array (T, B, size) at padded steps.
  void clear_padded(const Problem& p, float* array, int64_t size) const {
    for (int64_t t = 0; p.mask && t < T; t++)
      for (int64_t b = b0; b < b0 + rows; b++)
        if (!p.mask[t * p.B + b]) std::memset(array + (t * p.B + b) * size, 0, size * sizeof(float));
  }
};

// Sequences that a thread processes together; more would not stay in the caches from step to step.
constexpr int64_t kRowsAtOnce = 128;

INLINE int64_t most_rows(const Problem& p, int n) { return smaller(kRowsAtOnce, up(p.B, n)); }

// Calls f(first, count) for groups of nearly equal size of the sequences of one slot.
template <class F>
void for_groups(const Problem& p, int slot, int n, F f) {
  const int64_t begin = part(p.B, slot, n), count = part(p.B, slot + 1, n) - begin;
  const int64_t groups = up(count, kRowsAtOnce);
  for (int64_t i = 0; i < groups; i++) {
    const int64_t first = part(count, i, groups);
    f(begin + first, part(count, i + 1, groups) - first);
  }
}

// Copies (rows, H) into rows of Hp, with zeros beyond H; all zeros if the array is null.
void fill_up(float* to, const float* from, int64_t rows, int64_t H, int64_t Hp) {
  std::memset(to, 0, rows * Hp * sizeof(float));
  for (int64_t r = 0; from && r < rows; r++) std::memcpy(to + r * Hp, from + r * H, H * sizeof(float));
}

void cut_down(float* to, const float* from, int64_t rows, int64_t H, int64_t Hp) {
  for (int64_t r = 0; r < rows; r++) std::memcpy(to + r * H, from + r * Hp, H * sizeof(float));
}

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
