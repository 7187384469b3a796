// Max pooling and its gradient, for any window; each tensor is read from memory or written once.
//
// Forward, a thread computes an output pixel from its window. Backward, it computes an input pixel
// by gathering from the windows that contain it. Windows overlap, and are read again from the
// caches.
#pragma once

#include <cmath>

#include "../pooling.h"
#include "column_sums.h"

namespace googlenet_fast {

// A square window; windows start at -padding and every `stride` pixels.
template <int kSideOf, int kStrideOf, int kPaddingOf>
struct Window {
  static constexpr int kSide = kSideOf;
  static constexpr int kStride = kStrideOf;
  static constexpr int kPadding = kPaddingOf;
  static_assert(kSide * kSide <= kClipped, "pixels of a window have codes below kClipped");
};

struct Pixel {
  int64_t image;
  int row, column;
};

// The bindings refuse 2^31 pixels and more, so that divisions are 32-bit: several times faster.
__device__ inline Pixel pixel_of(unsigned number, int height, int width) {
  const unsigned line = number / width;
  return {line / height, static_cast<int>(line % height), static_cast<int>(number % width)};
}

template <typename T, int kWidth, typename W>
__global__ void __launch_bounds__(kThreads) pool_kernel(const __grid_constant__ Pool p) {
  const PoolShape& shape = p.shape;
  const int64_t channel = first_column<kWidth>();
  if (channel >= shape.channels) return;
  float bias[kWidth];
  load_bias(p.bias, channel, bias);
  const int64_t pixels = int64_t{shape.images} * shape.out_height * shape.out_width;

  for (int64_t number = first_row(); number < pixels; number += row_step()) {
    const Pixel out = pixel_of(number, shape.out_height, shape.out_width);
    const int top = out.row * W::kStride - W::kPadding;
    const int left = out.column * W::kStride - W::kPadding;
    const int first = (top < 0 ? -top * W::kSide : 0) + (left < 0 ? -left : 0);
    float best[kWidth];
    int code[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      best[i] = -INFINITY;
      code[i] = first;
    }
#pragma unroll
    for (int row = 0; row < W::kSide; ++row) {
#pragma unroll
      for (int column = 0; column < W::kSide; ++column) {
        const int h = top + row, w = left + column;
        if (h < 0 || h >= shape.height || w < 0 || w >= shape.width) continue;
        const int64_t pixel = (out.image * shape.height + h) * shape.width + w;
        const auto vector = load<T, kWidth>(p.x.data, pixel * p.x.stride + channel);
        for (int i = 0; i < kWidth; ++i) {
          const float value = to_float(vector.values[i]);
          if (value > best[i] || value != value) {  // the first of equals, and any NaN
            best[i] = value;
            code[i] = row * W::kSide + column;
          }
        }
      }
    }
    Vector<T, kWidth> y;
    Vector<uint8_t, kWidth> index;
    for (int i = 0; i < kWidth; ++i) {
      const float value = best[i] + bias[i];
      y.values[i] = from_float<T>(p.relu && value < 0.f ? 0.f : value);  // keeps NaN
      const bool clipped = p.relu && to_float(y.values[i]) <= 0.f;
      index.values[i] = clipped ? kClipped : static_cast<uint8_t>(code[i]);
    }
    store<T, kWidth>(p.y.data, number * p.y.stride + channel, y);
    if (p.index != nullptr) {
      store<uint8_t, kWidth>(p.index, number * shape.channels + channel, index);
    }
  }
}

// Add to `sum` the gradients of the windows whose maximum is the given pixel. p: shape, grad_y and
// index.
template <typename T, int kWidth, typename W, typename P>
__device__ inline void gather(
    const P& p, const Pixel& pixel, int64_t channel, float (&sum)[kWidth]) {
#pragma unroll
  for (int row = 0; row < W::kSide; ++row) {
#pragma unroll
    for (int column = 0; column < W::kSide; ++column) {
      // The window in which the pixel has this row and column, if there is one.
      const int top = pixel.row + W::kPadding - row, left = pixel.column + W::kPadding - column;
      if (top < 0 || left < 0 || top % W::kStride != 0 || left % W::kStride != 0) continue;
      const int out_row = top / W::kStride, out_column = left / W::kStride;
      if (out_row >= p.shape.out_height || out_column >= p.shape.out_width) continue;
      const int64_t window =
          (pixel.image * p.shape.out_height + out_row) * p.shape.out_width + out_column;
      const auto grad = load<T, kWidth>(p.grad_y.data, window * p.grad_y.stride + channel);
      const auto index = load<uint8_t, kWidth>(p.index, window * p.shape.channels + channel);
      for (int i = 0; i < kWidth; ++i) {
        sum[i] += index.values[i] == row * W::kSide + column ? to_float(grad.values[i]) : 0.f;
      }
    }
  }
}

template <typename T, int kWidth, typename W>
__global__ void __launch_bounds__(kThreads)
    pool_backward_kernel(const __grid_constant__ PoolBackward p, const ColumnSums sums) {
  const PoolShape& shape = p.shape;
  const int64_t channel = first_column<kWidth>();
  const int64_t pixels = int64_t{shape.images} * shape.height * shape.width;
  Sums<kWidth, 1> total;

  if (channel < shape.channels) {
    for (int64_t number = first_row(); number < pixels; number += row_step()) {
      float sum[kWidth] = {};
      gather<T, kWidth, W>(p, pixel_of(number, shape.height, shape.width), channel, sum);
      for (int i = 0; i < kWidth; ++i) total.fields[i] += sum[i];
      if (p.add_to.data != nullptr) {
        const auto other = load<T, kWidth>(p.add_to.data, number * p.add_to.stride + channel);
        for (int i = 0; i < kWidth; ++i) sum[i] += to_float(other.values[i]);
      }
      Vector<T, kWidth> grad;
      for (int i = 0; i < kWidth; ++i) grad.values[i] = from_float<T>(sum[i]);
      store<T, kWidth>(p.grad_x.data, number * p.grad_x.stride + channel, grad);
    }
  }
  if (p.grad_bias == nullptr) return;
  merge_all(total, sums, [&](const auto& all, int64_t first) {
    store_row(all, static_cast<float*>(p.grad_bias), shape.channels, first);
  });
}

__host__ __device__ inline int64_t input_pixels(const PoolShape& shape) {
  return int64_t{shape.images} * shape.height * shape.width;
}

__host__ __device__ inline int64_t output_pixels(const PoolShape& shape) {
  return int64_t{shape.images} * shape.out_height * shape.out_width;
}

template <typename W>
void pool(const char* name, Dtype dtype, const Pool& p, cudaStream_t stream) {
  const int64_t pixels = output_pixels(p.shape), channels = p.shape.channels;
  if (pixels == 0 || channels == 0) return;
  const bool vectorize = can_vectorize(dtype, p.x, channels) && can_vectorize(dtype, p.y, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    launch(
        name, pool_kernel<decltype(value), width, W>, shape_for_rows(pixels, channels, width),
        stream, p);
  });
}

template <typename W>
void pool_backward(const char* name, Dtype dtype, const PoolBackward& p, cudaStream_t stream) {
  const int64_t pixels = input_pixels(p.shape), channels = p.shape.channels;
  if (channels == 0) return;
  const bool bias = p.grad_bias != nullptr;
  if (pixels == 0) {
    if (bias) store_zeros(p.grad_bias, channels, stream);
    return;
  }
  const bool vectorize = can_vectorize(dtype, p.grad_y, channels) &&
                         can_vectorize(dtype, p.add_to, channels) &&
                         can_vectorize(dtype, p.grad_x, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    const Shape shape =
        bias ? shape_for_sums(pixels, channels, width) : shape_for_rows(pixels, channels, width);
    launch(
        name, pool_backward_kernel<decltype(value), width, W>, shape, stream, p,
        bias ? column_sums(shape, p.partial, pixels, channels, 1, stream) : ColumnSums{});
  });
}

}  // namespace googlenet_fast
