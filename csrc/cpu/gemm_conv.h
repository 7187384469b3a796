// 1x1 convolutions as GEMMs over the pixels, and GEMM helpers for other convolutions.
#pragma once

#include "convolution.h"
#include "partition.h"

namespace googlenet_fast::cpu::gemm_conv {

// Approximate number of pixels in a tile of C.
constexpr int64_t kTilePixels = 48;

// A tile of C = A · B: `a` begins at the tile's first row, `packed` and `bias` at column 0 of C.
void gemm_tile(
    const Tile2d& tile, MatrixView a, const float* packed, MatrixView c, const float* bias,
    bool relu, bool add, bool nontemporal_store = false);

// C (outputs, columns) = Aᵀ · B of two packed matrices of `rows` rows, plus C if `add`.
// `packed_rows`: rows from one panel to the next.
void gemm_at_packed(
    const float* a, const float* b, int64_t packed_rows, int64_t rows, int64_t outputs,
    int64_t columns, float* c, int64_t c_stride, bool add);

// Pack the weight of a 1x1 convolution for its input gradient.
const float* pack_backward(const Filter& w, Scratch& scratch);

// As in convolution.h. pack_filter() takes any number of taps, the others 1x1.
int64_t packed_size(const Filter& w);
void pack_filter(const Filter& w, float* packed);
void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y);
void input_gradient(const Size& size, MatrixView grad_y, const Filter& w, MatrixView grad_x);

}  // namespace googlenet_fast::cpu::gemm_conv
