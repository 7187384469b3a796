#include "stacked_1x1.h"

#include <algorithm>
#include <vector>

#include "amx.h"
#include "bf16_split_conv.h"
#include "gemm_conv.h"
#include "max_pool_3x3.h"
#include "partition.h"
#include "stacked_input_gradient.h"

namespace googlenet_fast::cpu {
namespace {

using gemm_conv::gemm_tile;
using gemm_conv::kTilePixels;
using gemm_conv::pack_backward;

void convolve_tile(
    const Size& size, MatrixView x, const Conv1x1& conv, const float* packed, Tile2d tile,
    uint8_t* index) {
  Scratch scratch;
  MatrixView a = x.rows_from(tile.row);
  if (conv.pooled) {
    tile.columns = conv.w.outputs;
    a = {scratch.take(tile.rows * x.channels), x.channels, x.channels};
    max_pool_3x3(size, tile.row, tile.rows, x, a, index);
  }
  gemm_tile(
      tile, a, packed, conv.y, conv.bias, conv.relu, false, use_nontemporal_store(size, conv.y));
}

// Pixels per gemm_at: a panel of x and one of grad_y fit L1.
constexpr int64_t kWeightGradPixels = 192;

void pack_pixels(MatrixView x, int64_t first, int64_t count, float* packed) {
  gemm_config().pack_b(x.row(first), x.stride, count, x.channels, kWeightGradPixels, packed);
}

// Pack the max pool of x.
void pack_pooled(const Size& size, MatrixView x, int64_t first, int64_t count, float* packed) {
  const int64_t nr = gemm_config().nr;
  for (int64_t c = 0; c < x.channels; c += nr, packed += kWeightGradPixels * nr) {
    const int64_t channels = std::min(nr, x.channels - c);
    if (channels < nr) std::fill_n(packed, count * nr, 0.0f);
    max_pool_3x3(size, first, count, x.columns(c, channels), {packed, nr, channels}, nullptr);
  }
}

// The weight gradients' columns of some of x's channels, accumulated in the order of the pixels.
void weight_gradient_columns(
    const Size& size, std::span<const WeightGrad> convs, MatrixView x, int64_t column,
    int64_t columns) {
  Scratch scratch;
  int64_t outputs = 0;
  for (const WeightGrad& conv : convs) outputs = std::max(outputs, conv.grad_y.channels);
  float* const packed_x = scratch.take(gemm_config().packed_size(kWeightGradPixels, columns));
  float* const packed_grad = scratch.take(gemm_config().packed_size(kWeightGradPixels, outputs));
  const MatrixView part = x.columns(column, columns);
  for (int64_t first = 0; first < size.pixels(); first += kWeightGradPixels) {
    const int64_t count = std::min(kWeightGradPixels, size.pixels() - first);
    pack_pixels(part, first, count, packed_x);
    for (const WeightGrad& conv : convs) {
      if (conv.pooled) pack_pooled(size, part, first, count, packed_x);
      pack_pixels(conv.grad_y, first, count, packed_grad);
      gemm_conv::gemm_at_packed(
          packed_grad, packed_x, kWeightGradPixels, count, conv.grad_y.channels, columns,
          conv.grad_w + column, x.channels, first > 0);
    }
  }
}

}  // namespace

void stacked_1x1(const Size& size, MatrixView x, std::span<const Conv1x1> convs, uint8_t* index) {
  if (size.pixels() == 0) return;
  if (amx() != nullptr) return bf16_split_conv::stacked_1x1(size, x, convs, index);
  Scratch scratch;
  std::vector<const float*> packed;
  std::vector<Partition2d> partitions;
  int64_t tiles = 0;
  for (const Conv1x1& conv : convs) {
    packed.push_back(packed_filter(size, conv.w, scratch));
    // The max pool of a tile is computed once, for all columns.
    partitions.emplace_back(
        size.pixels(), kTilePixels, conv.pooled ? 1 : conv.w.outputs, gemm_config().nr);
    tiles = std::max(tiles, partitions.back().tiles());
  }
  parallel_for_each(tiles, [&](int64_t i) {
    for (size_t k = 0; k < convs.size(); ++k) {
      if (i >= partitions[k].tiles()) continue;
      convolve_tile(size, x, convs[k], packed[k], partitions[k][i], index);
    }
  });
}

void stacked_1x1_input_gradient(
    const Size& size, const InputGrad1x1 (&convs)[2], const InputGrad1x1& pooled,
    const uint8_t* index, MatrixView grad_x) {
  if (size.pixels() == 0) return;
  if (amx() != nullptr) {
    return bf16_split_conv::stacked_1x1_input_gradient(size, convs, pooled, index, grad_x);
  }
  Scratch scratch;
  const float* const packed_pooled = pack_backward(pooled.w, scratch);
  const float* const packed[] = {
      pack_backward(convs[0].w, scratch), pack_backward(convs[1].w, scratch)};
  const auto run = [&](const Tile2d& tile) {
    const auto pooled_gemm = [&](int64_t first, int64_t pixels, MatrixView to) {
      gemm_tile(
          {0, pixels, 0, tile.columns}, pooled.grad_y.rows_from(first),
          packed_pooled + tile.column * pooled.w.outputs, to, nullptr, false, false);
    };
    const auto gemm = [&](int64_t first, int64_t pixels) {
      for (int k = 0; k < 2; ++k) {
        gemm_tile(
            {first, pixels, tile.column, tile.columns}, convs[k].grad_y.rows_from(first), packed[k],
            grad_x, nullptr, false, k > 0);
      }
    };
    stacked_input_gradient_tile(size, tile, kTilePixels, index, grad_x, pooled_gemm, gemm);
  };
  const int64_t rows = size.images * size.height;
  parallel_for_2d(rows, size.height, grad_x.channels, gemm_config().nr, run);
}

void stacked_1x1_weight_gradient(
    const Size& size, std::span<const WeightGrad> convs, MatrixView x) {
  if (size.pixels() == 0) {
    for (const WeightGrad& conv : convs) {
      std::fill_n(conv.grad_w, conv.grad_y.channels * x.channels, 0.0f);
    }
    return;
  }
  if (amx() != nullptr) return bf16_split_conv::stacked_1x1_weight_gradient(size, convs, x);
  const int64_t nr = gemm_config().nr, panels = gemm_config().panels(x.channels);
  const int64_t threads = torch::stable::get_num_threads();
  parallel_for_ranges(panels, ceil_div(panels, threads), [&](int64_t begin, int64_t end) {
    const int64_t column = begin * nr;
    weight_gradient_columns(size, convs, x, column, std::min(x.channels, end * nr) - column);
  });
}

}  // namespace googlenet_fast::cpu
