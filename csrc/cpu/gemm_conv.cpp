#include "gemm_conv.h"

#include <algorithm>

namespace googlenet_fast::cpu::gemm_conv {
namespace {

// Call function(column, columns) for ranges of a packed matrix's panels, on all threads.
template <typename F>
void parallel_for_panels(int64_t columns, const F& function) {
  const int64_t nr = gemm_config().nr;
  parallel_for_ranges(gemm_config().panels(columns), 4, [&](int64_t begin, int64_t end) {
    function(begin * nr, std::min(columns, end * nr) - begin * nr);
  });
}

// C = A · B, for all pixels.
void gemm(
    const Size& size, MatrixView a, const float* packed, MatrixView c, const float* bias,
    bool relu) {
  const bool nontemporal_store = use_nontemporal_store(size, c);
  parallel_for_2d(
      size.pixels(), kTilePixels, c.channels, gemm_config().nr, [&](const Tile2d& tile) {
        gemm_tile(tile, a.rows_from(tile.row), packed, c, bias, relu, false, nontemporal_store);
      });
}

}  // namespace

void gemm_tile(
    const Tile2d& tile, MatrixView a, const float* packed, MatrixView c, const float* bias,
    bool relu, bool add, bool nontemporal_store) {
  const int64_t b_bytes = gemm_config().packed_size(a.channels, tile.columns) * sizeof(float);
  gemm_config().gemm(
      {.a = a.data,
       .a_stride = a.stride,
       .b = packed + tile.column * a.channels,
       .c = c.row(tile.row) + tile.column,
       .c_stride = c.stride,
       .rows = tile.rows,
       .columns = tile.columns,
       .depth = a.channels,
       .bias = bias == nullptr ? nullptr : bias + tile.column,
       .relu = relu,
       .add = add,
       .nontemporal_store = nontemporal_store,
       .prefetch_b = 2 * b_bytes > l2_cache_bytes()});
}

void gemm_at_packed(
    const float* a, const float* b, int64_t packed_rows, int64_t rows, int64_t outputs,
    int64_t columns, float* c, int64_t c_stride, bool add) {
  const int64_t nr = gemm_config().nr;
  for (int64_t k = 0; k < outputs; k += nr, a += packed_rows * nr, c += nr * c_stride) {
    gemm_config().gemm_at(
        {a, nr, b, packed_rows, c, c_stride, rows, std::min(nr, outputs - k), columns, add});
  }
}

const float* pack_backward(const Filter& w, Scratch& scratch) {
  float* const packed = scratch.take(gemm_config().packed_size(w.outputs, w.channels));
  parallel_for_panels(w.channels, [&](int64_t column, int64_t columns) {
    gemm_config().pack_b(
        w.data + column, w.channels, w.outputs, columns, w.outputs, packed + column * w.outputs);
  });
  return packed;
}

int64_t packed_size(const Filter& w) {
  return gemm_config().packed_size(w.taps * w.taps * w.channels, w.outputs);
}

void pack_filter(const Filter& w, float* packed) {
  const int64_t depth = w.taps * w.taps * w.channels;
  parallel_for_panels(w.outputs, [&](int64_t column, int64_t columns) {
    gemm_config().pack_bt(w.data + column * depth, depth, depth, columns, packed + column * depth);
  });
}

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y) {
  Scratch scratch;
  gemm(size, x, packed_filter(size, w, scratch), y, bias, relu);
}

void input_gradient(const Size& size, MatrixView grad_y, const Filter& w, MatrixView grad_x) {
  Scratch scratch;
  gemm(size, grad_y, pack_backward(w, scratch), grad_x, nullptr, false);
}

}  // namespace googlenet_fast::cpu::gemm_conv
