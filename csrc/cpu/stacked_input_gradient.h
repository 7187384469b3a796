// The loop of stacked_1x1_input_gradient(), shared by GEMM and bf16 splits.
#pragma once

#include <algorithm>

#include "max_pool_3x3.h"
#include "partition.h"
#include "scratch.h"

namespace googlenet_fast::cpu {

// Compute a tile of grad_x, whose rows are rows of the images. Intermediate results stay in the
// caches. pooled_gemm(first, pixels, to) writes the gradient of the max pool's output to `to`
// (pixels, tile.columns). gemm(first, pixels) writes the gradient through the other convolutions to
// grad_x. Both compute pixels from `first` on, about `block_pixels` at a time.
template <typename PooledGemm, typename Gemm>
void stacked_input_gradient_tile(
    const Size& size, const Tile2d& tile, int64_t block_pixels, const uint8_t* index,
    MatrixView grad_x, const PooledGemm& pooled_gemm, const Gemm& gemm) {
  Scratch scratch;
  const int64_t end = tile.row + tile.rows, step = std::max<int64_t>(1, block_pixels / size.width);
  // Pool windows of the image's rows above and below overlap the tile.
  const int64_t above = tile.row % size.height > 0, below = end % size.height > 0;
  const int64_t first = (tile.row - above) * size.width, last = (end + below) * size.width;
  const MatrixView grad_pooled{
      scratch.take((last - first) * tile.columns), tile.columns, tile.columns};
  for (int64_t pixel = first; pixel < last; pixel += block_pixels) {
    pooled_gemm(pixel, std::min(block_pixels, last - pixel), grad_pooled.rows_from(pixel - first));
  }
  for (int64_t row = tile.row; row < end; row += step) {
    const int64_t rows = std::min(step, end - row);
    gemm(row * size.width, rows * size.width);
    for (int64_t y = row; y < row + rows; ++y) {
      max_pool_3x3_backward(
          size, y, grad_pooled, first, index + tile.column, grad_x.channels, true,
          grad_x.columns(tile.column, tile.columns));
    }
  }
}

}  // namespace googlenet_fast::cpu
