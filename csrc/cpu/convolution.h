// Convolutions of stride 1 with "same" padding on channels_last images, and their gradients, in
// fp32, on all threads. With AMX they are direct (bf16_split_conv.h). Else 1x1 are GEMMs
// (gemm_conv.h), 3x3 and 5x5 go through Winograd transforms (winograd_conv.h). Results do not
// depend on the number of threads.
#pragma once

#include <cstdint>

#include "matrix_view.h"
#include "scratch.h"

namespace googlenet_fast::cpu {

// (outputs, taps, taps, channels), dense.
struct Filter {
  const float* data;
  int64_t outputs;
  int taps;
  int64_t channels;
  const float* packed = nullptr;  // what pack_filter() wrote, or null

  int64_t size() const { return outputs * taps * taps * channels; }
  Filter rows(int64_t first, int64_t count) const {
    return {data + first * taps * taps * channels, count, taps, channels, nullptr};
  }
};

// Pack the weight for convolve(), stacked_1x1() and convolve_stem() on images of that height and
// width: packed_size() values.
int64_t packed_size(const Size& size, const Filter& w);
void pack_filter(const Size& size, const Filter& w, float* packed);

// What a packed weight depends on besides the weight: the points of the Winograd tile for images
// of that size, or 0 if the convolution is computed by other means.
int tile_points(const Size& size, int taps, int64_t channels);

// w.packed, or else the weight packed in `scratch`.
const float* packed_filter(const Size& size, const Filter& w, Scratch& scratch);

// y = relu(conv(x, w) + bias), or without bias (null) or ReLU. Taps are 1, 3 or 5.
void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y);

// grad_x = the input gradient for grad_y; zero where `mask` (data null: none), like x, is zero or
// less (3x3 and 5x5 only).
void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x);

// grad_w (outputs, taps, taps, channels) = the weight gradient.
void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w);

}  // namespace googlenet_fast::cpu
