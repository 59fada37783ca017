// Runs the native engine's kernels without Python, for the sanitizers: random cases of every cell, with threads of their own,
// arrays that end where they must, every instruction set that the processor has. Results with several threads and with one, and
// those of the instruction sets, must be near each other. Built and run by test_native.py (-m slow -k sanitizer).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "kernels.h"

using namespace seqjax_native;
using Floats = std::vector<float>;

// Whether the kernels for AVX-512 were compiled for this processor, with vectors and panels of the same sizes.
#ifdef ANY_PROCESSOR
constexpr bool kAnyProcessor = true;
#else
constexpr bool kAnyProcessor = false;
#endif

struct Case {
  int cell, threads;
  int64_t T, B, D, H;
  bool masked, resets, reverse, kept, every;
};

void run_threads(void*, int count, void (*task)(void*, int), void* argument) {
  std::vector<std::thread> threads;
  for (int i = 1; i < count; i++) threads.emplace_back(task, argument, i);
  task(argument, 0);
  for (auto& thread : threads) thread.join();
}

Floats draw(std::mt19937& random, int64_t count, float scale = 1) {
  std::uniform_real_distribution<float> number(-scale, scale);
  Floats found(count);
  for (float& f : found) f = number(random);
  return found;
}

// Every result of one case, one after the other.
Floats results(const Case& c, const Kernels& kernels, int threads, unsigned seed) {
  std::mt19937 random(seed);
  const Form& f = kForms[c.cell];
  const int64_t Hp = (c.H + kUnits - 1) / kUnits * kUnits, rows = c.B * c.H, memory = f.memory ? rows : 0;
  const int64_t reset = c.resets ? rows : 0, reset_memory = c.resets ? memory : 0, weights = f.h_count ? c.H * f.gates * c.H : 0;
  const Floats xs = draw(random, c.T * c.B * c.D), kernel = draw(random, c.D * f.gates * c.H, 0.5f);
  const Floats recurrent = draw(random, weights, 0.3f), bias = draw(random, f.columns * c.H), vectors = draw(random, f.vectors * c.H);
  const Floats h0 = draw(random, rows), c0 = draw(random, memory), h_reset = draw(random, reset), c_reset = draw(random, reset_memory);
  const Floats d_ys = draw(random, c.T * rows), d_h = draw(random, rows), d_c = draw(random, memory);
  const Floats d_cs = draw(random, c.every ? c.T * memory : 0);
  std::vector<char> mask(c.masked ? c.T * c.B : 0), resets(c.resets ? c.T * c.B : 0);
  for (char& flag : mask) flag = random() % 3 != 0;
  for (char& flag : resets) flag = random() % 4 == 0;

  BackwardProblem back{};
  Problem& p = back;
  p.cell = c.cell, p.T = c.T, p.B = c.B, p.D = c.D, p.H = c.H, p.reverse = c.reverse;
  p.xs = xs.data(), p.kernel = kernel.data(), p.recurrent = recurrent.data(), p.bias = bias.data(), p.vectors = vectors.data();
  p.h0 = h0.data(), p.c0 = c0.data(), p.h_reset = h_reset.data(), p.c_reset = c_reset.data();
  p.mask = c.masked ? reinterpret_cast<bool*>(mask.data()) : nullptr;
  p.resets = c.resets ? reinterpret_cast<bool*>(resets.data()) : nullptr;
  const Parallel parallel{threads, nullptr, run_threads};

  ForwardProblem forward{};
  static_cast<Problem&>(forward) = p;
  Floats ys(c.T * rows), h_last(rows), c_last(memory), saved(c.kept ? c.T * c.B * f.saved * Hp : 0);
  Floats cs(d_cs.size());
  forward.ys = ys.data(), forward.h_last = h_last.data(), forward.c_last = c_last.data();
  forward.saved = saved.empty() ? nullptr : saved.data(), forward.cs = cs.empty() ? nullptr : cs.data();
  if (!kernels.forward(forward, parallel)) std::abort();
  Floats found = ys;
  for (const Floats* part : {&h_last, &c_last, &cs}) found.insert(found.end(), part->begin(), part->end());
  if (!c.kept) return found;

  Floats out[] = {Floats(xs.size()),  Floats(kernel.size()), Floats(recurrent.size()), Floats(bias.size()),   Floats(vectors.size()),
                  Floats(h0.size()), Floats(c0.size()),     Floats(h_reset.size()),   Floats(c_reset.size())};
  float** pointers[] = {&back.d_xs, &back.d_kernel, &back.d_recurrent, &back.d_bias, &back.d_vectors,
                        &back.d_h0, &back.d_c0, &back.d_h_reset, &back.d_c_reset};
  for (int i = 0; i < 9; i++) *pointers[i] = out[i].data();
  back.ys = ys.data(), back.saved = saved.data(), back.d_ys = d_ys.data(), back.d_h_last = d_h.data(), back.d_c_last = d_c.data();
  back.d_cs = d_cs.empty() ? nullptr : d_cs.data();
  if (!kernels.backward(back, parallel)) std::abort();
  for (const Floats& part : out) found.insert(found.end(), part.begin(), part.end());
  return found;
}

bool near(const Floats& a, const Floats& b) {
  float largest = 1, difference = 0;
  for (size_t i = 0; i < a.size(); i++) {
    if (!std::isfinite(a[i])) return false;
    largest = std::max(largest, std::fabs(a[i])), difference = std::max(difference, std::fabs(a[i] - b[i]));
  }
  return a.size() == b.size() && difference < 2e-5f * largest;
}

int main() {
  std::vector<const Kernels*> all = {&portable::kernels};
  (void)kAnyProcessor;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2::kernels);
  if (kAnyProcessor || __builtin_cpu_supports("avx512f")) all.push_back(&avx512::kernels);
#endif
  std::mt19937 random(7);
  auto up_to = [&](int64_t most) { return 1 + int64_t(random() % most); };
  int faults = 0, count = 0;
  for (int round = 0; round < 12; round++)
    for (int cell = 0; cell < kFormCount; cell++, count++) {
      Case c{cell, 1 + int(random() % 5), up_to(9), up_to(20), up_to(40), up_to(70), false, false, false, true, false};
      if (round == 0) c.T = 3, c.B = 270, c.H = 3;  // more sequences than a thread takes at once
      if (round == 1) c.T = 150, c.B = 2, c.H = 5;  // several chunks
      c.masked = random() % 2, c.resets = random() % 2, c.reverse = random() % 2, c.kept = random() % 4 != 0, c.every = random() % 2;
      const Floats one = results(c, *all[0], 1, count);
      for (const Kernels* kernels : all) {
        const Floats several = results(c, *kernels, c.threads, count);
        if (near(several, one) && several == results(c, *kernels, c.threads, count)) continue;
        faults++;
        std::printf("%s, %s, %d threads, T %ld B %ld D %ld H %ld: not near the result of one thread, or not repeatable\n",
                    kForms[cell].name, kernels->name, c.threads, long(c.T), long(c.B), long(c.D), long(c.H));
      }
    }
  std::printf("%d cases, %d instruction sets, %d faults\n", count, int(all.size()), faults);
  return faults != 0;
}
