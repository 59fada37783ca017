// The cells: one step of one sequence from the sums at its gates, and that step's derivative. All is elementwise.
#pragma once
#include "kernels.h"
#include "vectors.h"

namespace seqjax_native {
namespace ISA {
namespace {

// Arrays of one sequence at one step, padded to Hp units unless marked as ending at H. Column j of the sums is at sums
// + j Hp; the same holds for saved number j and parameter vector j.
struct ForwardRow {
  int64_t H, Hp;
  const float* sums;
  const float* vectors;
  float *h, *c;  // the carry, updated in place by the step
  float* y;      // of H
  float* saved;  // or null
};

struct BackwardRow {
  int64_t H, Hp;
  const float* saved;
  const float* vectors;
  const float* h;    // before the step, of H
  const float* c;    // before the step
  const float* y;    // of H
  const float* d_y;  // of H
  float* d_h;        // cotangent of h after the step; becomes that of h before it, without the contribution through h U
  float* d_c;        // updated in place, from after the step to before it
  float* d_sums;
  float* d_vectors;  // sums over all steps so far
};

INLINE Vector slope_of_tanh(Vector y) { return 1.0f - y * y; }
INLINE Vector slope_of_sigmoid(Vector y) { return y * (1.0f - y); }

struct Tanh {
  static INLINE Vector value(Vector x) { return tanh(x); }
  static INLINE Vector slope(Vector y) { return slope_of_tanh(y); }
};
struct Relu {
  static INLINE Vector value(Vector x) { return x < 0.0f ? Vector{} : x; }  // a NaN stays NaN
  static INLINE Vector slope(Vector y) { return y > 0.0f ? broadcast(1.0f) : Vector{}; }
};

// Calls step(u) for each vector of units; u is its first unit.
template <class Step>
INLINE void for_units(int64_t Hp, Step step) {
  for (int64_t u = 0; u < Hp; u += kLanes) step(u);
}

//   c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c'),  y = h'
//   peepholes: i += p_i c, f += p_f c, o += p_o c'      coupled: 1 - sigmoid(f) instead of sigmoid(i)
template <bool COUPLED, bool PEEPHOLES>
struct LSTM {
  static constexpr int I = 0, F = COUPLED ? 0 : 1, G = F + 1, O = F + 2, C = F + 3;  // columns; C is saved after them
  static constexpr int PI = 0, PF = COUPLED ? 0 : 1, PO = PF + 1;                   // vectors

  static void forward(const ForwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto sum = [&](int column) { return load(row.sums + column * Hp + u); };
      auto peephole = [&](int vector, Vector c) { return PEEPHOLES ? load(row.vectors + vector * Hp + u) * c : Vector{}; };
      const Vector c = load(row.c + u);
      const Vector f = sigmoid(sum(F) + peephole(PF, c));
      const Vector i = COUPLED ? 1.0f - f : sigmoid(sum(I) + peephole(PI, c));
      const Vector g = tanh(sum(G));
      const Vector after = f * c + i * g;
      const Vector o = sigmoid(sum(O) + peephole(PO, after));
      const Vector h = o * tanh(after);
      store(row.c + u, after), store(row.h + u, h), store(row.y + u, h, row.H - u);
      if (!row.saved) return;
      float* saved = row.saved + u;
      if (!COUPLED) store(saved + I * Hp, i);
      store(saved + F * Hp, f), store(saved + G * Hp, g), store(saved + O * Hp, o), store(saved + C * Hp, after);
    });
  }

  static void backward(const BackwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto saved = [&](int number) { return load(row.saved + number * Hp + u); };
      auto peephole = [&](int vector) { return PEEPHOLES ? load(row.vectors + vector * Hp + u) : Vector{}; };
      const Vector f = saved(F), g = saved(G), o = saved(O), after = saved(C), c = load(row.c + u);
      const Vector i = COUPLED ? 1.0f - f : saved(I), out = tanh(after);
      const Vector d_h = load(row.d_h + u) + load(row.d_y + u, row.H - u);
      const Vector d_o = d_h * out * slope_of_sigmoid(o);
      Vector d_after = load(row.d_c + u) + d_h * o * slope_of_tanh(out);
      if (PEEPHOLES) d_after += d_o * peephole(PO);
      const Vector d_f = d_after * (COUPLED ? c - g : c) * slope_of_sigmoid(f);
      const Vector d_i = d_after * g * slope_of_sigmoid(i);
      Vector d_c = d_after * f;
      if (PEEPHOLES) {
        float* d_vectors = row.d_vectors + u;
        if (!COUPLED) d_c += d_i * peephole(PI), add(d_vectors + PI * Hp, d_i * c);
        d_c += d_f * peephole(PF);
        add(d_vectors + PF * Hp, d_f * c), add(d_vectors + PO * Hp, d_o * after);
      }
      float* d_sums = row.d_sums + u;
      if (!COUPLED) store(d_sums + I * Hp, d_i);
      store(d_sums + F * Hp, d_f), store(d_sums + G * Hp, d_after * i * slope_of_tanh(g)), store(d_sums + O * Hp, d_o);
      store(row.d_c + u, d_c), store(row.d_h + u, Vector{});
    });
  }
};

//   n = tanh(n_x + r n_h),  h' = (1 - z) n + z h,  y = h',   where n_x = x W_n + b_n and n_h = h U_n + b_hn
struct GRU {
  enum { NX, R, Z, NH };                          // columns
  enum { SAVED_R, SAVED_Z, SAVED_N, SAVED_NH };

  static void forward(const ForwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto sum = [&](int column) { return load(row.sums + column * Hp + u); };
      const Vector r = sigmoid(sum(R)), z = sigmoid(sum(Z)), n_h = sum(NH), n = tanh(sum(NX) + r * n_h);
      const Vector h = (1.0f - z) * n + z * load(row.h + u);
      store(row.h + u, h), store(row.y + u, h, row.H - u);
      if (!row.saved) return;
      float* saved = row.saved + u;
      store(saved + SAVED_R * Hp, r), store(saved + SAVED_Z * Hp, z);
      store(saved + SAVED_N * Hp, n), store(saved + SAVED_NH * Hp, n_h);
    });
  }

  static void backward(const BackwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto saved = [&](int number) { return load(row.saved + number * Hp + u); };
      const Vector r = saved(SAVED_R), z = saved(SAVED_Z), n = saved(SAVED_N), n_h = saved(SAVED_NH);
      const Vector d_h = load(row.d_h + u) + load(row.d_y + u, row.H - u);
      const Vector d_n = d_h * (1.0f - z) * slope_of_tanh(n);
      float* d_sums = row.d_sums + u;
      store(d_sums + NX * Hp, d_n), store(d_sums + R * Hp, d_n * n_h * slope_of_sigmoid(r));
      store(d_sums + Z * Hp, d_h * (load(row.h + u, row.H - u) - n) * slope_of_sigmoid(z));
      store(d_sums + NH * Hp, d_n * r), store(row.d_h + u, d_h * z);
    });
  }
};

//   n = tanh(n_x + f n_h),  h' = (1 - f) h + f n,  y = h'
struct MGU {
  enum { NX, F, NH };  // columns
  enum { SAVED_F, SAVED_N, SAVED_NH };

  static void forward(const ForwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto sum = [&](int column) { return load(row.sums + column * Hp + u); };
      const Vector f = sigmoid(sum(F)), n_h = sum(NH), n = tanh(sum(NX) + f * n_h);
      const Vector h = (1.0f - f) * load(row.h + u) + f * n;
      store(row.h + u, h), store(row.y + u, h, row.H - u);
      if (!row.saved) return;
      float* saved = row.saved + u;
      store(saved + SAVED_F * Hp, f), store(saved + SAVED_N * Hp, n), store(saved + SAVED_NH * Hp, n_h);
    });
  }

  static void backward(const BackwardRow& row) {
    const int64_t Hp = row.Hp;
    for_units(Hp, [&](int64_t u) {
      auto saved = [&](int number) { return load(row.saved + number * Hp + u); };
      const Vector f = saved(SAVED_F), n = saved(SAVED_N), n_h = saved(SAVED_NH);
      const Vector d_h = load(row.d_h + u) + load(row.d_y + u, row.H - u);
      const Vector d_n = d_h * f * slope_of_tanh(n);
      const Vector d_gate = d_h * (n - load(row.h + u, row.H - u)) + d_n * n_h;
      float* d_sums = row.d_sums + u;
      store(d_sums + NX * Hp, d_n), store(d_sums + F * Hp, d_gate * slope_of_sigmoid(f));
      store(d_sums + NH * Hp, d_n * f), store(row.d_h + u, d_h * (1.0f - f));
    });
  }
};

//   h' = act(s),  y = h'
template <class Activation>
struct RNN {
  static void forward(const ForwardRow& row) {
    for_units(row.Hp, [&](int64_t u) {
      const Vector h = Activation::value(load(row.sums + u));
      store(row.h + u, h), store(row.y + u, h, row.H - u);
    });
  }

  static void backward(const BackwardRow& row) {
    for_units(row.Hp, [&](int64_t u) {
      const int64_t left = row.H - u;
      const Vector d_h = load(row.d_h + u) + load(row.d_y + u, left);
      store(row.d_sums + u, d_h * Activation::slope(load(row.y + u, left))), store(row.d_h + u, Vector{});
    });
  }
};

//   h' = act(s + u h),  y = h'
template <class Activation>
struct IndRNN {
  static void forward(const ForwardRow& row) {
    for_units(row.Hp, [&](int64_t u) {
      const Vector h = Activation::value(load(row.sums + u) + load(row.vectors + u) * load(row.h + u));
      store(row.h + u, h), store(row.y + u, h, row.H - u);
    });
  }

  static void backward(const BackwardRow& row) {
    for_units(row.Hp, [&](int64_t u) {
      const int64_t left = row.H - u;
      const Vector d_h = load(row.d_h + u) + load(row.d_y + u, left);
      const Vector d_sum = d_h * Activation::slope(load(row.y + u, left));
      store(row.d_sums + u, d_sum), store(row.d_h + u, d_sum * load(row.vectors + u));
      add(row.d_vectors + u, d_sum * load(row.h + u, left));
    });
  }
};

struct RowFunctions {
  void (*forward)(const ForwardRow&);
  void (*backward)(const BackwardRow&);
};

template <class Cell>
constexpr RowFunctions functions_of() { return {Cell::forward, Cell::backward}; }

constexpr RowFunctions kRowFunctions[] = {  // in the order of kForms
    functions_of<LSTM<false, false>>(), functions_of<LSTM<false, true>>(), functions_of<LSTM<true, false>>(),
    functions_of<LSTM<true, true>>(),   functions_of<GRU>(),               functions_of<MGU>(),
    functions_of<RNN<Tanh>>(),          functions_of<RNN<Relu>>(),         functions_of<IndRNN<Tanh>>(),
    functions_of<IndRNN<Relu>>(),
};
static_assert(sizeof(kRowFunctions) / sizeof(kRowFunctions[0]) == kFormCount, "a cell lacks its functions");

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
