// The vector kernels, and the memory layout of their operands.
//
// isa_kernels.cpp is compiled once per instruction set. Each kernel header (gemm.h, winograd.h,
// pool.h, lrn.h, relu_mask.h) ends with its table. All kernels compute in fp32, on the calling
// thread.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

constexpr int kLine = 16;  // floats in a cache line

// B (depth, columns) packed: panels of nr columns, each one row after the other. Zeros fill the
// last panel.

// C (rows, columns) = A · B, plus C if `add`, plus a bias, then ReLU. A row of A is `segments` runs
// of `depth` values, and B has segments * depth rows.
struct GemmArgs {
  const float* a;
  int64_t a_stride;  // from one row to the next
  const float* b;    // packed
  float* c;
  int64_t c_stride;
  int64_t rows, columns, depth;
  const float* bias;  // (columns,) or null
  bool relu;
  bool add;
  int64_t segments = 1, segment_stride = 0;  // from one run of a row to the next
  bool nontemporal_store = false;            // of C, whose rows begin a cache line
  bool prefetch_b = false;                   // B does not fit L2
};

// C (outputs, columns) = Aᵀ · B of A (rows, outputs) and B (rows, columns), plus C if `add`.
struct GemmAtArgs {
  const float* a;
  int64_t a_stride;
  const float* b;  // packed
  int64_t b_rows;  // from one panel of B to the next: `rows` or more
  float* c;
  int64_t c_stride;
  int64_t rows, outputs, columns;
  bool add;
};

struct GemmConfig {
  int64_t mr, nr;              // rows and columns of the register tile
  bool has_nontemporal_store;  // a vector is a whole cache line

  int64_t panels(int64_t columns) const { return (columns + nr - 1) / nr; }
  int64_t packed_size(int64_t depth, int64_t columns) const { return panels(columns) * depth * nr; }

  void (*gemm)(const GemmArgs& p);
  void (*gemm_at)(const GemmAtArgs& p);

  // Pack B (depth, columns). `b_rows`: rows from one panel to the next.
  void (*pack_b)(
      const float* b, int64_t stride, int64_t depth, int64_t columns, int64_t b_rows,
      float* packed);
  // Pack B from Bᵀ (columns, depth).
  void (*pack_bt)(const float* bt, int64_t stride, int64_t depth, int64_t columns, float* packed);
};

// A tile of a Winograd convolution: side² outputs of taps² filters from points² inputs, as points²
// independent GEMMs, one per "frequency" (Lavin and Gray 2015, arXiv:1509.09308). Points are 6 to
// 9, taps 3 or 5.
struct WinogradTile {
  int points, taps;

  int side() const { return points + 1 - taps; }
  int frequencies() const { return points * points; }
};
constexpr int kMaxPoints = 9, kMaxFrequencies = kMaxPoints * kMaxPoints;

struct WinogradConfig {
  // Bᵀ d B of a tile: points² pixels of `channels` values each. Frequency f of channel c is written
  // to v[f * frequency_stride + c / nr * panel_stride + c % nr].
  void (*transform_input)(
      WinogradTile tile, const float* const* pixels, int64_t channels, float* v,
      int64_t frequency_stride, int64_t panel_stride);

  // Aᵀ m A of a tile: side² pixels. Epilogue: bias (or null), ReLU, and zero where a mask (null, or
  // pixels like the output's) is zero or less.
  void (*transform_output)(
      WinogradTile tile, const float* m, int64_t frequency_stride, int64_t channels,
      float* const* pixels, const float* bias, bool relu, const float* const* masks,
      bool nontemporal_store);

  // A g Aᵀ: the adjoint of transform_output. Writes like transform_input.
  void (*transform_output_adjoint)(
      WinogradTile tile, const float* const* pixels, int64_t channels, float* dm,
      int64_t frequency_stride, int64_t panel_stride);

  // G w Gᵀ of `lanes` filters side by side, in taps² rows; `flipped` rotates each by 180 degrees.
  // Frequency f is written to u[f * frequency_stride .. + lanes].
  void (*transform_filter)(
      WinogradTile tile, const float* w, int64_t lanes, bool flipped, float* u,
      int64_t frequency_stride);

  // Gᵀ u G: the adjoint of transform_filter, of channels side by side.
  void (*transform_filter_adjoint)(
      WinogradTile tile, const float* u, int64_t frequency_stride, int64_t channels, float* dw);
};

// Max pools with 3x3 windows. An index is 3 * row + column of the maximum in its window, or
// kClipped where ReLU clipped the output.
struct PoolConfig {
  // The maximum of a window's nine pixels, null ones left out, plus a bias (or null), then ReLU.
  // `index` may be null. Of equal maxima it gets the first, as in PyTorch.
  void (*max_of_window)(
      const float* const* pixels, int64_t channels, const float* bias, bool relu, float* y,
      uint8_t* index);

  // The maxima of the windows around `count` adjacent pixels. rows[1] points to the first of them,
  // rows[0] and rows[2] to the pixels above and below (or to rows[1], at a border). `before` and
  // `after`: the image has pixels to the left and to the right.
  void (*max_of_row)(
      const float* const* rows, int64_t stride, bool before, bool after, int64_t count,
      int64_t channels, float* y, int64_t y_stride);

  // dx of a row of `width` adjacent pixels, for windows of stride 2. The row is in `rows` (at most
  // two) rows of `count` windows, and is row numbers[i] (0 .. 2) of the windows of row i.
  void (*stride2_backward_row)(
      const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
      const int* numbers, int rows, int64_t count, int64_t width, int64_t channels, float* dx,
      int64_t dx_stride, bool nontemporal_store);

  // dx of a row of `count` adjacent pixels, for windows of stride 1, plus dx if `add`. dy and
  // index: the rows above, here and below (null at a border).
  void (*stride1_backward_row)(
      const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
      int64_t count, int64_t channels, bool add, float* dx, int64_t dx_stride);

  // sums += dy where ReLU did not clip.
  void (*accumulate_bias_grad)(
      const float* dy, const uint8_t* index, int64_t channels, float* sums);
};

// Local response normalisation of one pixel's channels.
struct LrnConfig {
  // y = x * s^-beta with s = k + scale * the sum of the squares of the `size` channels around.
  // `padded` has room for channels + size values.
  void (*lrn)(
      const float* x, int64_t channels, int size, float scale, float beta, float k, float* padded,
      float* y);

  // `padded` has room for 2 (channels + size) values.
  void (*lrn_backward)(
      const float* grad, const float* x, int64_t channels, int size, float scale, float beta,
      float k, float* padded, float* grad_x);
};

struct ReluMaskConfig {
  // y = 0 where mask is zero or less, else grad; sums += y. mask, y or sums may be null.
  void (*relu_mask)(
      const float* grad, const float* mask, int64_t channels, float* y, float* sums,
      bool nontemporal_store);
};

constexpr int kHashLanes = 64;

struct HashConfig {
  // kHashLanes hashes of bytes, written to `lanes` (hash.h).
  void (*hash)(const void* data, int64_t bytes, uint32_t* lanes);
};

struct KernelConfigs {
  const char* isa;
  GemmConfig gemm;
  WinogradConfig winograd;
  PoolConfig pool;
  LrnConfig lrn;
  ReluMaskConfig relu_mask;
  HashConfig hash;
};

// The kernels of the best instruction set of this machine. GOOGLENET_FAST_ISA=baseline, avx2 or
// avx512 chooses another; amx chooses the best, with AMX (amx.h).
const KernelConfigs& kernel_configs();

inline const GemmConfig& gemm_config() { return kernel_configs().gemm; }
inline const WinogradConfig& winograd_config() { return kernel_configs().winograd; }
inline const PoolConfig& pool_config() { return kernel_configs().pool; }

// Bytes of a core's L2 cache; 1 MiB where the system does not say.
int64_t l2_cache_bytes();

}  // namespace googlenet_fast::cpu
