// Matrix products C += A B in tiles that stay in registers. B is packed into panels, a few vectors wide, that are read
// sequentially; rows of A and C may be anywhere.
#pragma once
#include "vectors.h"

namespace seqjax_native {
namespace ISA {
namespace {

constexpr int kTileRows = 6;
constexpr int kPanelVectors = PANEL_VECTORS;
constexpr int kPanel = kPanelVectors * kLanes;

INLINE int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of a matrix: the i-th is at base + stride * index[i], or * i without an index.
template <class Number>
struct RowsOf {
  Number* base;
  int64_t stride;
  const int64_t* index = nullptr;
  INLINE Number* operator[](int64_t i) const { return base + stride * (index ? index[i] : i); }
};
using Rows = RowsOf<const float>;
using OutRows = RowsOf<float>;

// sums[r][v] += sum over k of a[r][k step] b[k][v], for some panels of b at distance `apart`.
template <int ROWS, int PANELS, int STEP>
INLINE void multiply(Vector (&sums)[ROWS][PANELS * kPanelVectors], const float* const (&a)[ROWS], const float* b,
                     int64_t apart, int64_t K) {
  for (int64_t k = 0; k < K; k++) {
#pragma GCC unroll 8
    for (int panel = 0; panel < PANELS; panel++) {
      Vector w[kPanelVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; v++) w[v] = load(b + panel * apart + k * kPanel + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        const Vector s = broadcast(a[r][k * STEP]);
#pragma GCC unroll 8
        for (int v = 0; v < kPanelVectors; v++) sums[r][panel * kPanelVectors + v] += s * w[v];
      }
    }
  }
}

// One tile of C, from its values so far or from `start` in every row.
template <int ROWS, int PANELS>
void tile(const Rows& a, int64_t row, const float* b, int64_t apart, int64_t K, int64_t vectors, const OutRows& c,
          int64_t column, const float* start) {
  const float* from[ROWS];
  float* to[ROWS];
  Vector sums[ROWS][PANELS * kPanelVectors];
  for (int r = 0; r < ROWS; r++) from[r] = a[row + r], to[r] = c[row + r] + column;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
    for (int v = 0; v < PANELS * kPanelVectors; v++)
      sums[r][v] = v < vectors ? load((start ? start + column : to[r]) + v * kLanes) : Vector{};
  multiply<ROWS, PANELS, 1>(sums, from, b, apart, K);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
    for (int v = 0; v < PANELS * kPanelVectors; v++)
      if (v < vectors) store(to[r] + v * kLanes, sums[r][v]);
}

// With very few rows, processes several panels at once, so that enough sums are in flight.
template <int ROWS>
void few_rows(const Rows& a, const float* b, int64_t K, int64_t vectors, const OutRows& c, const float* start) {
  constexpr int kPanels = ROWS * kPanelVectors < 8 ? 8 / (ROWS * kPanelVectors) : 1;
  const int64_t panels = up(vectors, kPanelVectors), apart = K * kPanel;
  int64_t panel = 0;
  for (; panel + kPanels <= panels; panel += kPanels) {
    const int64_t left = vectors - panel * kPanelVectors;
    tile<ROWS, kPanels>(a, 0, b + panel * apart, apart, K, left, c, panel * kPanel, start);
  }
  for (; panel < panels; panel++) {
    const int64_t left = vectors - panel * kPanelVectors;
    tile<ROWS, 1>(a, 0, b + panel * apart, apart, K, left, c, panel * kPanel, start);
  }
}

// C (rows, N) += A (rows, K) B (K, N), where N is a multiple of the lanes; with `start` (N,) it is C = start + A B.
void product(const Rows& a, int64_t rows, int64_t K, const float* b, int64_t N, const OutRows& c, const float* start) {
  const int64_t vectors = N / kLanes;
  if (rows == 0 || N == 0) return;
  if (rows == 1) return few_rows<1>(a, b, K, vectors, c, start);
  if (rows == 2) return few_rows<2>(a, b, K, vectors, c, start);
  // Tiles of nearly the same height.
  const int64_t tiles = up(rows, kTileRows), low = rows / tiles, taller = rows % tiles;
  for (int64_t panel = 0; panel < up(vectors, kPanelVectors); panel++) {
    const float* panel_b = b + panel * K * kPanel;
    const int64_t left = vectors - panel * kPanelVectors, column = panel * kPanel;
    for (int64_t i = 0, row = 0; i < tiles; i++) {
      const int64_t height = low + (i < taller);
      switch (height) {
        case 1: tile<1, 1>(a, row, panel_b, 0, K, left, c, column, start); break;
        case 2: tile<2, 1>(a, row, panel_b, 0, K, left, c, column, start); break;
        case 3: tile<3, 1>(a, row, panel_b, 0, K, left, c, column, start); break;
        case 4: tile<4, 1>(a, row, panel_b, 0, K, left, c, column, start); break;
        case 5: tile<5, 1>(a, row, panel_b, 0, K, left, c, column, start); break;
        default: tile<6, 1>(a, row, panel_b, 0, K, left, c, column, start);
      }
      row += height;
    }
  }
}

// ---- weights as the B of `product`; columns of a cell are padded to Hp units each

INLINE int64_t packed_size(int64_t K, int64_t N) { return up(N, kPanel) * kPanel * K; }

// Panel `panel` of the kernel (K, gates H), its columns those of the sums: (K, count Hp).
void pack(float* to, const float* kernel, int64_t K, int64_t H, int64_t Hp, int gates, const int* gate, int count,
          int64_t panel) {
  to += panel * K * kPanel;
  for (int v = 0; v < kPanelVectors; v++) {
    const int64_t n = panel * kPanel + v * kLanes, column = n / Hp, u = n % Hp;
    const float* from = kernel + (column < count ? gate[column] * H + u : 0);
    const int64_t there = column < count ? H - u : 0;
    for (int64_t k = 0; k < K; k++) store(to + k * kPanel + v * kLanes, load(from + k * gates * H, there));
  }
}

// Panel `panel` of the transposed kernel, (count Hp, M) for a kernel (M, gates H).
void pack_transposed(float* to, const float* kernel, int64_t M, int64_t H, int64_t Hp, int gates, const int* gate,
                     int count, int64_t panel) {
  constexpr int64_t kUnitsAtOnce = 64;  // their part of the panel stays in the L1 cache
  to += panel * count * Hp * kPanel;
  for (int column = 0; column < count; column++)
    for (int64_t u0 = 0; u0 < Hp; u0 += kUnitsAtOnce)
      for (int64_t j = 0; j < kPanel; j++) {
        const int64_t m = panel * kPanel + j;
        const float* from = m < M ? kernel + (m * gates + gate[column]) * H : nullptr;
        float* lane = to + column * Hp * kPanel + j;
        for (int64_t u = u0; u < smaller(Hp, u0 + kUnitsAtOnce); u++) lane[u * kPanel] = from && u < H ? from[u] : 0.0f;
      }
}

// ---- gradients of weights: sums of outer products, kept as [panel of N][tile of M][tile row][vectors of the panel]

INLINE int64_t outer_size(int64_t M, int64_t N) { return up(N, kPanel) * up(M, kTileRows) * kTileRows * kPanel; }

// K rows of M numbers, row(k), as [tile of M][K][tile row], padded with zeros.
template <class RowOf>
void pack_rows(float* to, RowOf row, int64_t K, int64_t M) {
  for (int64_t k = 0; k < K; k++) {
    const float* from = row(k);
    for (int64_t m = 0; m < M; m += kTileRows) {
      float* group = to + (m / kTileRows * K + k) * kTileRows;
      for (int r = 0; r < kTileRows; r++) group[r] = m + r < M ? from[m + r] : 0.0f;
    }
  }
}

// sums (M, N) += A' B of K rows, A by `pack_rows`; `panel_rows` is workspace for a panel of B.
void add_outer(float* sums, const float* a, int64_t M, const Rows& b, int64_t column, int64_t N, int64_t K,
               float* panel_rows) {
  for (int64_t n = 0; n < N; n += kPanel) {
    const int64_t vectors = smaller(kPanelVectors, (N - n) / kLanes);
    for (int64_t k = 0; k < K; k++)
      for (int v = 0; v < kPanelVectors; v++)
        store(panel_rows + k * kPanel + v * kLanes, v < vectors ? load(b[k] + column + n + v * kLanes) : Vector{});
    for (int64_t m = 0; m < M; m += kTileRows, sums += kTileRows * kPanel) {
      const float* from[kTileRows];
      for (int r = 0; r < kTileRows; r++) from[r] = a + m * K + r;
      Vector tile_sums[kTileRows][kPanelVectors] = {};
      multiply<kTileRows, 1, kTileRows>(tile_sums, from, panel_rows, 0, K);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < kPanelVectors; v++) add(sums + r * kPanel + v * kLanes, tile_sums[r][v]);
    }
  }
}

// Row m of the whole gradient (M, gates H), from the sums of several threads, added in thread order.
void unpack_outer(float* row, const float* const* parts, int count_parts, int64_t M, int64_t m, int64_t H, int64_t Hp,
                  const int* gate, int count) {
  const int64_t tall = up(M, kTileRows) * kTileRows;
  for (int64_t n = 0; n < count * Hp; n += kLanes) {
    const int64_t u = n % Hp, at = (n / kPanel * tall + m) * kPanel + n % kPanel;
    Vector total = load(parts[0] + at);
    for (int i = 1; i < count_parts; i++) total += load(parts[i] + at);
    store(row + gate[n / Hp] * H + u, total, H - u);
  }
}

}  // namespace
}  // namespace ISA
}  // namespace seqjax_native
