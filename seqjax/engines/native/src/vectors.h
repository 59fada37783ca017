// Vectors of floats by the compiler's vector extension, and the two functions that cells need.
#pragma once
#include <cstdint>
#include <cstring>

namespace seqjax_native {
namespace ISA {
namespace {

constexpr int kLanes = LANES;
typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
#define INLINE inline __attribute__((always_inline))

INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
INLINE Vector broadcast(float f) { return f - Vector{}; }  // f + 0 would not be a plain broadcast, for f = -0

// Loads the first `count` lanes of a row that may end there; the others are zero.
INLINE Vector load(const float* p, int64_t count) {
  if (count >= kLanes) return load(p);
  Vector v{};
  if (count > 0) std::memcpy(&v, p, count * sizeof(float));
  return v;
}
INLINE void store(float* p, Vector v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  if (count > 0) std::memcpy(p, &v, count * sizeof(float));
}
INLINE void add(float* p, Vector v) { store(p, load(p) + v); }

// tanh x = x P(x^2) / Q(x^2), our own fit: relative error 2.1e-8 on -9.02 ... 9.02, and with rounding at most 5.4 units in
// the last place. Beyond that range a float's tanh is 1, and must be exactly 1: its slope of 0 may be multiplied by an
// infinite derivative. A NaN fails both comparisons, and so stays NaN.
INLINE Vector tanh(Vector x) {
  const Vector limit = broadcast(9.02f), one = broadcast(1.0f);
  const auto above = x > limit, below = x < -limit;
  x = above ? limit : below ? -limit : x;
  const Vector square = x * x;
  Vector p = 1.3319062297512119e-08f * square + 2.05834730877541e-05f;
  p = p * square + 0.003494034055620432f;
  p = p * square + 0.13379716873168945f;
  p = p * square + 1.0f;
  Vector q = 7.762014888612612e-07f * square + 0.00032830919371917844f;
  q = q * square + 0.025871070101857185f;
  q = q * square + 0.4671303331851959f;
  q = q * square + 1.0f;
  const Vector y = x * p / q;
  return above ? one : below ? -one : y;
}

// 1/2 + 1/2 tanh(x / 2)
INLINE Vector sigmoid(Vector x) { return 0.5f * tanh(0.5f * x) + 0.5f; }

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
