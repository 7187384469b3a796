// Convolutions of stride 1 with "same" padding on channels_last images, and their gradients, in fp32,
// shared among torch's threads. 1x1 are products of matrices; 3x3 and 5x5 go through Winograd's
// transforms. Results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "../kernels.h"
#include "scratch.h"

namespace googlenet_fast::cpu {

struct Size {
  int64_t images, height, width;
  int64_t pixels() const { return images * height * width; }
};

// One row of channels per pixel; perhaps some columns of a wider matrix.
struct Rows {
  float* data;
  int64_t stride;
  int64_t channels;

  Rows columns(int64_t first, int64_t count) const { return {data + first, stride, count}; }
  float* row(int64_t pixel) const { return data + pixel * stride; }
  Rows from(int64_t pixel) const { return {row(pixel), stride, channels}; }
};

inline Rows rows_of(const Matrix& m, int64_t channels) {
  return {static_cast<float*>(m.data), m.stride, channels};
}

// Whether y, or the matrix whose columns it has, is so large that it is better written past the caches,
// and can be.
bool better_streamed(const Size& size, Rows y);

// (outputs, taps, taps, channels), dense.
struct Filter {
  const float* data;
  int64_t outputs;
  int taps;
  int64_t channels;
  const float* prepared = nullptr;  // what prepare() wrote, if it is there already

  int64_t size() const { return outputs * taps * taps * channels; }
  Filter rows(int64_t first, int64_t count) const {
    return {data + first * taps * taps * channels, count, taps, channels, nullptr};
  }
};

// The weight as convolve(), convolve_siblings() and convolve_stem() multiply images of that height and
// width by it: prepared_size() values.
int64_t prepared_size(const Size& size, const Filter& w);
void prepare(const Size& size, const Filter& w, float* prepared);

// What a prepared weight depends on besides the weight: the points of a tile of Winograd's convolution
// (winograd.h) of such images, or 0 of other convolutions.
int tile_points(const Size& size, int taps, int64_t channels);

// The weight prepared, now and in `scratch` unless it was before.
const float* prepared(const Size& size, const Filter& w, Scratch& scratch);

// y = relu(conv(x, w) + bias), or without bias (null) or ReLU. Taps are 1, 3 or 5.
void convolve(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y);

// grad_x = the input gradient for grad_y; zero where `mask` (data null: none), like x, is zero or less
// (of 3x3 and 5x5 only).
void input_gradient(const Size& size, Rows grad_y, const Filter& w, Rows mask, Rows grad_x);

// grad_w (outputs, taps, taps, channels) = the weight gradient.
void weight_gradient(const Size& size, Rows grad_y, Rows x, int taps, float* grad_w);

// One of several 1x1 convolutions of the same x: y = relu(conv(x, w) + bias), or without bias (null) or
// ReLU; or of the maxima of the 3x3 windows around the pixels of x.
struct Sibling {
  Filter w;
  const float* bias;
  bool relu;
  Rows y;
  bool pooled = false;
};

// All of them, in one pass over x; the maxima's index as of max_pool().
void convolve_siblings(const Size& size, Rows x, std::span<Sibling> siblings, uint8_t* index);

// What one of them gave, for its gradient.
struct SiblingGradient {
  Filter w;
  Rows grad_y;
};

// grad_x = the input gradient of two siblings and of a pooled one, in one pass.
void siblings_input_gradient(
    const Size& size, const SiblingGradient (&siblings)[2], const SiblingGradient& pooled,
    const uint8_t* index, Rows grad_x);

struct SiblingWeightGradient {
  Rows grad_y;
  float* grad_w;  // (outputs, channels)
  bool pooled = false;
};

// The weight gradients of siblings, in one pass over x; pooled ones come last.
void siblings_weight_gradient(
    const Size& size, std::span<const SiblingWeightGradient> siblings, Rows x);

// y (count, channels) = max over windows of 3x3, stride 1, of the pixels from `first` on; `index`
// (all pixels, channels) gets where, if not null. On this thread.
void max_pool(
    const Size& size, int64_t first, int64_t count, Rows x, Rows y, uint8_t* index);

// grad_x = the gradient of that pool, for grad_pooled of its maxima from pixel `first` on, plus what is
// there if `add`; of the pixels of one row of one image. On this thread.
void unpool(
    const Size& size, int64_t row, Rows grad_pooled, int64_t first, const uint8_t* index,
    int64_t index_stride, bool add, Rows grad_x);

// masked = 0 where mask is zero or less, else grad; sums (channels,) = its sum over the pixels.
void mask_and_sum(const Size& size, Rows grad, Rows mask, Rows masked, float* sums);

// sums (channels,) = the sum of grad over the pixels.
void sum(const Size& size, Rows grad, float* sums);

}  // namespace googlenet_fast::cpu
