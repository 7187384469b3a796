// The vector kernels of the CPU: one source, isa_kernels.cpp, compiled for several instruction sets.
//
// They compute in fp32, on one thread, and know nothing of images: who calls them says which pixels
// a tile has and shares the work among threads.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

// A matrix of weights as the kernels read it: panels of `Isa::panel` columns, each one row after
// the other, the last one filled up with zeros. It has `Isa::packed_size(depth, columns)` values.

// C (rows, columns) = A (rows, parts * depth) · B, plus C if `add`, plus bias, clipped if `relu`. A
// row of A is `parts` runs of `depth` values.
struct Product {
  const float* a;
  int64_t a_stride;  // from one row to the next
  const float* b;    // in panels
  float* c;
  int64_t c_stride;
  int64_t rows, columns, depth;
  const float* bias;  // (columns,) or null
  bool relu;
  bool add;
  int64_t parts = 1, part_stride = 0;  // from one run to the next
  bool stream = false;                 // C is written past the caches
  bool far = false;                    // B is read from beyond the second-level cache
};

// C (outputs, columns) = Aᵀ · B of A (rows, outputs) and B (rows, columns), plus C if `add`.
struct OuterProduct {
  const float* a;
  int64_t a_stride;
  const float* b;  // in panels, whose rows are `b_rows` rows of `rows` or more
  int64_t b_rows;
  float* c;
  int64_t c_stride;
  int64_t rows, outputs, columns;
  bool add;
};

// A tile of Winograd's convolutions: side² outputs of taps² filters, from points² inputs, by products
// of points² matrices, one per "frequency" (Lavin and Gray 2015, arXiv:1509.09308). Points are 6 to
// 9, taps 3 or 5.
struct WinogradTile {
  int points, taps;

  int side() const { return points + 1 - taps; }
  int frequencies() const { return points * points; }
};
constexpr int kMostPoints = 9, kMostFrequencies = kMostPoints * kMostPoints;

constexpr int kLine = 16;  // floats in a line of the caches
constexpr int kHashLanes = 64;

struct Isa {
  const char* name;
  int64_t tile_rows;  // rows of a product that are computed at once
  int64_t panel;      // columns of a product that are computed at once
  bool streams;       // whether results can be written past the caches: rows that begin a line

  int64_t panels(int64_t columns) const { return (columns + panel - 1) / panel; }
  int64_t packed_size(int64_t depth, int64_t columns) const {
    return panels(columns) * depth * panel;
  }

  void (*multiply)(const Product& p);
  void (*multiply_transposed)(const OuterProduct& p);

  // Pack B (depth, columns), or its transpose given as (columns, depth). `b_rows`: rows of a panel.
  void (*pack)(
      const float* b, int64_t stride, int64_t depth, int64_t columns, int64_t b_rows, float* packed);
  void (*pack_transposed)(
      const float* b, int64_t stride, int64_t depth, int64_t columns, float* packed);

  // Bᵀ d B of a tile: points² pixels of `channels` values each. Frequency f of channel c goes to
  // v[f * frequency_stride + c / panel * panel_stride + c % panel].
  void (*transform_input)(
      WinogradTile tile, const float* const* pixels, int64_t channels, float* v,
      int64_t frequency_stride, int64_t panel_stride);

  // Aᵀ m A of a tile: side² pixels. Adds a bias, clips, and writes zero where a mask (null, or pixels
  // like the output's) is zero or less; past the caches if `stream`.
  void (*transform_output)(
      WinogradTile tile, const float* m, int64_t frequency_stride, int64_t channels,
      float* const* pixels, const float* bias, bool relu, const float* const* masks, bool stream);

  // A g Aᵀ: the adjoint of transform_output. Writes like transform_input.
  void (*transform_output_adjoint)(
      WinogradTile tile, const float* const* pixels, int64_t channels, float* dm,
      int64_t frequency_stride, int64_t panel_stride);

  // G w Gᵀ of `lanes` filters side by side, taps² rows of them; `flipped` turns each around. Frequency f
  // of them goes to u[f * frequency_stride] and on.
  void (*transform_filter)(
      WinogradTile tile, const float* w, int64_t lanes, bool flipped, float* u,
      int64_t frequency_stride);

  // Gᵀ u G: the adjoint of transform_filter, of channels side by side.
  void (*transform_filter_adjoint)(
      WinogradTile tile, const float* u, int64_t frequency_stride, int64_t channels, float* dw);

  // The maxima of a window's pixels, null ones left out, plus a bias (or null), clipped if `relu`.
  // `index`, if not null, gets the number of the maximum, the first of equal ones as PyTorch has
  // it, or kClipped.
  void (*max_of_nine)(
      const float* const* pixels, int64_t channels, const float* bias, bool relu, float* y,
      uint8_t* index);

  // The maxima of the 3x3 windows around `count` adjacent pixels: rows[1] is the first one, rows[0]
  // and rows[2] the pixels above and below (or rows[1], at a border); `before` and `after`: whether
  // the row has pixels there.
  void (*max_of_rows)(
      const float* const* rows, int64_t stride, bool before, bool after, int64_t count,
      int64_t channels, float* y, int64_t y_stride);

  // dx of a row of `width` adjacent pixels = the gradient of the 3x3/2 windows that it is in: of `rows`
  // rows (at most two), `count` in each. numbers: the row of pixels' own in them. Written past the caches
  // if `stream`.
  void (*unpool_halved)(
      const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
      const int* numbers, int rows, int64_t count, int64_t width, int64_t channels, float* dx,
      int64_t dx_stride, bool stream);

  // sums += dy of the windows that ReLU did not clip.
  void (*add_unclipped)(const float* dy, const uint8_t* index, int64_t channels, float* sums);

  // dx of a row of `count` adjacent pixels = the gradient of the 3x3 windows around them and around
  // the pixels of the rows above and below (null at a border), plus what is there if `add`.
  void (*unpool_rows)(
      const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
      int64_t count, int64_t channels, bool add, float* dx, int64_t dx_stride);

  // y = x * s^-beta with s = k + scale * the sum of the squares of the `size` channels around;
  // `wide` has room for channels + size values.
  void (*normalize)(
      const float* x, int64_t channels, int size, float scale, float beta, float k, float* wide,
      float* y);

  // The gradient of normalize; `wide` has room for 2 (channels + size) values.
  void (*normalize_backward)(
      const float* grad, const float* x, int64_t channels, int size, float scale, float beta,
      float k, float* wide, float* grad_x);

  // y = 0 where mask is zero or less, else grad, and sums += y; mask, y or sums may be null. y is written
  // past the caches if `stream`.
  void (*mask)(
      const float* grad, const float* mask, int64_t channels, float* y, float* sums, bool stream);

  // kHashLanes hashes of bytes, written to `lanes`; hash.h says which.
  void (*hash)(const void* data, int64_t bytes, uint32_t* lanes);
};

// The best of this machine; GOOGLENET_FAST_ISA=baseline, avx2 or avx512 asks for another, amx for the best
// with AMX (amx.h) beside it.
const Isa& isa();

// Bytes of a core's second-level cache; a usual number where the system does not tell.
int64_t second_level_cache();

}  // namespace googlenet_fast::cpu
