// What the call passes to the kernels. The kernels are compiled once per instruction set, so nothing here may be a
// template or an inline function: the linker keeps one copy of those, which an older processor might not be able to
// run.
#pragma once
#include <cstdint>

namespace seqjax_native {

// How a cell's sums lie side by side, each column with the sums of all units. The product of the inputs adds to the
// first columns, that of the last output to some that are neighbours.
struct Form {
  const char* name;
  int gates;                   // of the kernels, side by side
  int columns;                 // sums per unit
  int x_count;                 // the first this many are those that x W adds to
  int h_first, h_count;        // columns that h U adds to; none for a cell without U
  int x_gates[4], h_gates[4];  // the gate of each of these columns
  int saved;                   // numbers that a step saves per unit for the backward pass
  int vectors;                 // parameters with one weight per unit
  bool memory;                 // whether there is a c in addition to h
};

// In the order of `row_functions` in cells.h.
constexpr Form kForms[] = {
    // LSTM: i, f, g, o
    {"lstm", 4, 4, 4, 0, 4, {0, 1, 2, 3}, {0, 1, 2, 3}, 5, 0, true},
    {"lstm peepholes", 4, 4, 4, 0, 4, {0, 1, 2, 3}, {0, 1, 2, 3}, 5, 3, true},
    // coupled: f, g, o
    {"lstm coupled", 3, 3, 3, 0, 3, {0, 1, 2}, {0, 1, 2}, 4, 0, true},
    {"lstm coupled peepholes", 3, 3, 3, 0, 3, {0, 1, 2}, {0, 1, 2}, 4, 2, true},
    // GRU: n of x, r, z, n of h, where the kernels have r, z, n
    {"gru", 3, 4, 3, 1, 3, {2, 0, 1}, {0, 1, 2}, 4, 0, false},
    // MGU: n of x, f, n of h, where the kernels have f, n
    {"mgu", 2, 3, 2, 1, 2, {1, 0}, {0, 1}, 3, 0, false},
    {"rnn tanh", 1, 1, 1, 0, 1, {0}, {0}, 0, 0, false},
    {"rnn relu", 1, 1, 1, 0, 1, {0}, {0}, 0, 0, false},
    {"indrnn tanh", 1, 1, 1, 0, 0, {0}, {}, 0, 1, false},
    {"indrnn relu", 1, 1, 1, 0, 0, {0}, {}, 0, 1, false},
};
constexpr int kFormCount = sizeof(kForms) / sizeof(kForms[0]);

// Units are padded to a multiple of this, which the vector length of every instruction set divides.
constexpr int64_t kUnits = 16;

// Runs task(argument, 0 ... count - 1), in parallel if threads are free; returns when all are done.
struct Parallel {
  int threads;
  void* self;
  void (*run)(void* self, int count, void (*task)(void* argument, int i), void* argument);
};

// One layer over all steps. Arrays are row-major; arrays that a cell does not have, and an absent mask or resets, are
// null. T steps, B sequences, D features, H units.
struct Problem {
  int cell;  // its index in kForms
  int64_t T, B, D, H;
  bool reverse;
  const float* xs;           // (T, B, D)
  const float* kernel;       // (D, gates H)
  const float* recurrent;    // (H, gates H)
  const float* bias;         // (columns, H)
  const float* vectors;      // (vectors, H)
  const float *h0, *c0;      // (B, H), the carry to start from
  const float *h_reset, *c_reset;  // (B, H), the carry that a reset restores
  const bool* mask;          // (T, B), false at padded steps
  const bool* resets;        // (T, B)
};

struct ForwardProblem : Problem {
  float* ys;                 // (T, B, H)
  float *h_last, *c_last;    // (B, H)
  float* saved;              // (T, B, saved, H padded), or null if nothing is saved
  float* cs;                 // (T, B, H), c after each step, or null if not requested
};

struct BackwardProblem : Problem {
  const float *ys, *saved;   // of the forward pass
  const float* d_ys;         // (T, B, H)
  const float *d_h_last, *d_c_last;  // (B, H)
  const float* d_cs;         // (T, B, H), or null
  float *d_xs, *d_kernel, *d_recurrent, *d_bias, *d_vectors, *d_h0, *d_c0, *d_h_reset, *d_c_reset;
};

// The kernels of one instruction set, for one layer or two of the same B at once. They return false if memory runs out.
struct Kernels {
  const char* name;
  bool (*forward)(const ForwardProblem*, int count, const Parallel&);
  bool (*backward)(const BackwardProblem*, int count, const Parallel&);
};

namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace portable { extern const Kernels kernels; }

}  // namespace seqjax_native
