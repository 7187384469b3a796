// Maxima of square windows of pixels, channel by channel, and their gradient.
#pragma once

#include "partial_sums.h"

namespace googlenet_fast {

// Index of a window that ReLU clipped: none of its (at most nine) pixels.
constexpr uint8_t kClipped = 9;

// Pixels of a batch are numbered row by row, image by image: (n * height + h) * width + w.
struct PoolShape {
  int images;
  int height, width;          // of the input
  int out_height, out_width;  // of the output
  int64_t channels;
};

// y = relu(max over a window of x + bias)
struct Pool {
  PoolShape shape;
  Matrix x;          // one row per pixel of the input
  const void* bias;  // (channels,) of fp32, fp64 for kFloat64; or null
  bool relu;
  Matrix y;        // one row per pixel of the output
  uint8_t* index;  // like y, dense: side * row + column of the maximum, or kClipped; or null
};

// grad_x = each pixel's sum of grad_y over the windows whose maximum it is, plus add_to; grad_bias
// = the sum without add_to.
struct PoolBackward {
  PoolShape shape;
  Matrix grad_y;
  const uint8_t* index;
  Matrix add_to;  // like grad_x; or null. Read by MaxPoolBackward alone.
  Matrix grad_x;
  void* partial;    // partial_size(pixels of x, channels) values of fp32, fp64 for kFloat64
  void* grad_bias;  // (channels,) of the same; both null where it is not needed
};

}  // namespace googlenet_fast
