// Runs the native engine's kernels without Python, for the sanitizers: random cases of every cell, with threads of their own,
// arrays that end where they must, every instruction set that the processor has. Results with several threads and with one, and
// those of the instruction sets, must be near each other. Built and run by test_native_library.py (-m slow -k sanitizer).
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

// A layer with arrays of its own, inputs and results.
struct Layer {
  const Case c;
  ForwardProblem forward{};
  BackwardProblem back{};
  std::vector<char> mask, resets;
  std::vector<Floats> inputs, results;

  Layer(const Case& of, unsigned seed) : c(of), random(seed) {
    const Form& f = kForms[c.cell];
    const int64_t Hp = (c.H + kUnits - 1) / kUnits * kUnits, rows = c.B * c.H, memory = f.memory ? rows : 0;
    const int64_t reset = c.resets ? rows : 0, reset_memory = c.resets ? memory : 0, weights = f.h_count ? c.H * f.gates * c.H : 0;
    inputs.reserve(20), results.reserve(20);  // so that none moves
    Problem p{};
    p.cell = c.cell, p.T = c.T, p.B = c.B, p.D = c.D, p.H = c.H, p.reverse = c.reverse;
    p.xs = draw(c.T * c.B * c.D), p.kernel = draw(c.D * f.gates * c.H, 0.5f), p.recurrent = draw(weights, 0.3f);
    p.bias = draw(f.columns * c.H), p.vectors = draw(f.vectors * c.H), p.h0 = draw(rows), p.c0 = draw(memory);
    p.h_reset = draw(reset), p.c_reset = draw(reset_memory);
    p.mask = c.masked ? flags(mask, 3, true) : nullptr, p.resets = c.resets ? flags(resets, 4, false) : nullptr;
    static_cast<Problem&>(forward) = p, static_cast<Problem&>(back) = p;
    forward.ys = room(c.T * rows), forward.h_last = room(rows), forward.c_last = room(memory);
    forward.saved = c.kept ? room(c.T * c.B * f.saved * Hp) : nullptr, forward.cs = c.every && memory ? room(c.T * rows) : nullptr;
    back.ys = forward.ys, back.saved = forward.saved, back.d_ys = draw(c.T * rows), back.d_h_last = draw(rows);
    back.d_c_last = draw(memory), back.d_cs = c.every && memory ? draw(c.T * rows) : nullptr;
    if (!c.kept) return;
    float** gradients[] = {&back.d_xs, &back.d_kernel, &back.d_recurrent, &back.d_bias, &back.d_vectors,
                           &back.d_h0, &back.d_c0, &back.d_h_reset, &back.d_c_reset};
    for (int i = 0; i < 9; i++) *gradients[i] = room(inputs[i].size());
  }

  // Every result, one after the other; not what is saved, whose units beyond H are anything.
  Floats all() const {
    Floats found;
    for (const Floats& part : results)
      if (part.data() != forward.saved) found.insert(found.end(), part.begin(), part.end());
    return found;
  }

 private:
  std::mt19937 random;

  const float* draw(int64_t count, float scale = 1) {
    std::uniform_real_distribution<float> number(-scale, scale);
    Floats& found = inputs.emplace_back(count);
    for (float& f : found) f = number(random);
    return found.data();
  }
  float* room(int64_t count) { return results.emplace_back(count).data(); }
  const bool* flags(std::vector<char>& into, unsigned of, bool others) {
    into.resize(c.T * c.B);
    for (char& flag : into) flag = (random() % of == 0) != others;
    return reinterpret_cast<const bool*>(into.data());
  }
};

// The results of some layers that are run at once.
std::vector<Floats> results(const std::vector<Case>& cases, const Kernels& kernels, int threads, unsigned seed) {
  std::vector<Layer> layers;
  layers.reserve(cases.size());  // so that none moves
  ForwardProblem forward[2];
  BackwardProblem back[2];
  const int count = int(cases.size());
  for (int i = 0; i < count; i++) {
    layers.emplace_back(cases[i], seed + i);
    forward[i] = layers[i].forward, back[i] = layers[i].back;
  }
  const Parallel parallel{threads, nullptr, run_threads};
  if (!kernels.forward(forward, count, parallel)) std::abort();
  if (cases[0].kept && !kernels.backward(back, count, parallel)) std::abort();
  std::vector<Floats> found;
  for (const Layer& layer : layers) found.push_back(layer.all());
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
      Case other = c;  // that is run at once with it, in the other direction
      other.cell = int(random() % kFormCount), other.H = up_to(40), other.reverse = !c.reverse;
      const Floats one = results({c}, *all[0], 1, count)[0];
      for (const Kernels* kernels : all) {
        const auto alone = results({c}, *kernels, c.threads, count), both = results({c, other}, *kernels, 2 * c.threads, count);
        const bool same = alone == results({c}, *kernels, c.threads, count) && alone[0] == both[0] &&
                          both[1] == results({other}, *kernels, c.threads, count + 1)[0];
        if (same && near(alone[0], one) && near(results({c, other}, *kernels, 1, count)[1], both[1])) continue;
        faults++;
        std::printf("%s and %s, %s, %d threads, T %ld B %ld D %ld H %ld: not near the result of one thread, or not repeatable\n",
                    kForms[c.cell].name, kForms[other.cell].name, kernels->name, c.threads, long(c.T), long(c.B), long(c.D), long(c.H));
      }
    }
  std::printf("%d cases, %d instruction sets, %d faults\n", count, int(all.size()), faults);
  return faults != 0;
}
