// Batch normalisation, ReLU and the 3x3/2 max pool, in one pass over memory each.
//
// The pool's windows overlap, so most pixels are normalised more than once; that costs less than to
// write them. The index says where ReLU clipped, so that backward need not recompute it.

#include "../bn_relu_pool.h"
#include "batch_norm.h"
#include "pooling.h"

namespace googlenet_fast {
namespace {

using Stride2 = Window<3, 2, 0>;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_pool_kernel(const __grid_constant__ BnReluPool p) {
  const PoolShape& shape = p.shape;
  const int64_t channel = first_column<kWidth>();
  if (channel >= shape.channels) return;
  const Normalization<kWidth> norm(p, channel, static_cast<float>(p.eps));
  const int64_t pixels = output_pixels(shape);

  for (int64_t number = first_row(); number < pixels; number += row_step()) {
    const Pixel out = pixel_of(number, shape.out_height, shape.out_width);
    float best[kWidth];
    int code[kWidth] = {};
    for (int i = 0; i < kWidth; ++i) best[i] = -INFINITY;
#pragma unroll
    for (int row = 0; row < Stride2::kSide; ++row) {
#pragma unroll
      for (int column = 0; column < Stride2::kSide; ++column) {
        const int h = out.row * Stride2::kStride + row, w = out.column * Stride2::kStride + column;
        if (h >= shape.height || w >= shape.width) continue;
        const int64_t pixel = (out.image * shape.height + h) * shape.width + w;
        const auto x = load<T, kWidth>(p.x.data, pixel * p.x.stride + channel);
        for (int i = 0; i < kWidth; ++i) {
          const float value = norm.value(i, norm.centered(i, to_float(x.values[i])));
          if (value > best[i] || value != value) {  // the first of equals, and any NaN
            best[i] = value;
            code[i] = row * Stride2::kSide + column;
          }
        }
      }
    }
    Vector<T, kWidth> y;
    Vector<uint8_t, kWidth> index;
    for (int i = 0; i < kWidth; ++i) {
      y.values[i] = from_float<T>(best[i] < 0.f ? 0.f : best[i]);  // keeps NaN
      index.values[i] = best[i] <= 0.f ? kClipped : static_cast<uint8_t>(code[i]);
    }
    store<T, kWidth>(p.y.data, number * p.y.stride + channel, y);
    store<uint8_t, kWidth>(p.index, number * shape.channels + channel, index);
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_pool_sums_kernel(const __grid_constant__ BnReluPoolSums p, const ColumnSums sums) {
  const PoolShape& shape = p.shape;
  const int64_t channel = first_column<kWidth>(), pixels = input_pixels(shape);
  Sums<kWidth, 2> grads;  // of bias and weight
  if (channel < shape.channels) {
    float mean[kWidth];
    load_bias(p.mean, channel, mean);
#pragma unroll 1  // or registers spill
    for (int64_t number = first_row(); number < pixels; number += row_step()) {
      float grad[kWidth] = {};
      const Pixel pixel = pixel_of(number, shape.height, shape.width);
      gather<T, kWidth, Stride2>(p, pixel, channel, grad);
      const auto x = load<T, kWidth>(p.x.data, number * p.x.stride + channel);
      for (int i = 0; i < kWidth; ++i) {
        const float centered = to_float(x.values[i]) - mean[i];
        grads.fields[i] += grad[i];
        grads.fields[kWidth + i] = fmaf(grad[i], centered, grads.fields[kWidth + i]);
      }
    }
    const Normalization<kWidth> norm(p, channel, static_cast<float>(p.eps));
    for (int i = 0; i < kWidth; ++i) grads.fields[kWidth + i] *= norm.inverse[i];
  }
  merge_all(grads, sums, [&](const auto& all, int64_t first) {
    store_row(all, static_cast<float*>(p.sums), shape.channels, first);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_pool_backward_kernel(const __grid_constant__ BnReluPoolBackward p) {
  const PoolShape& shape = p.shape;
  const int64_t channel = first_column<kWidth>(), pixels = input_pixels(shape);
  if (channel >= shape.channels) return;
  const Normalization<kWidth> norm(p, channel, static_cast<float>(p.eps));
  const float total = static_cast<float>(p.total);
  float mean[kWidth], slope[kWidth];  // mean of the pixels' gradients, and their slope over x
  load_bias(p.grad_bias, channel, mean);
  load_bias(p.grad_weight, channel, slope);
  for (int i = 0; i < kWidth; ++i) {
    mean[i] /= total;
    slope[i] = slope[i] / total * norm.inverse[i];
  }
  for (int64_t number = first_row(); number < pixels; number += row_step()) {
    float grad[kWidth] = {};
    const Pixel pixel = pixel_of(number, shape.height, shape.width);
    gather<T, kWidth, Stride2>(p, pixel, channel, grad);
    auto x = load<T, kWidth>(p.x.data, number * p.x.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float centered = norm.centered(i, to_float(x.values[i]));
      x.values[i] = from_float<T>(norm.scale[i] * (grad[i] - mean[i] - centered * slope[i]));
    }
    store<T, kWidth>(p.grad_x.data, number * p.grad_x.stride + channel, x);
  }
}

}  // namespace

void run_cuda(Dtype dtype, const BnReluPool& p, cudaStream_t stream) {
  const int64_t pixels = output_pixels(p.shape), channels = p.shape.channels;
  if (pixels == 0 || channels == 0) return;
  const bool vectorize = can_vectorize(dtype, p.x, channels) && can_vectorize(dtype, p.y, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    launch(
        "bn_relu_pool", bn_relu_pool_kernel<decltype(value), width>,
        shape_for_rows(pixels, channels, width), stream, p);
  });
}

void run_cuda(Dtype dtype, const BnReluPoolSums& p, cudaStream_t stream) {
  const int64_t pixels = input_pixels(p.shape), channels = p.shape.channels;
  if (channels == 0) return;
  if (pixels == 0) return store_zeros(p.sums, 2 * channels, stream);
  const bool vectorize =
      can_vectorize(dtype, p.x, channels) && can_vectorize(dtype, p.grad_y, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    const Shape shape = shape_for_sums(pixels, channels, width);
    launch(
        "bn_relu_pool_sums", bn_relu_pool_sums_kernel<decltype(value), width>, shape, stream, p,
        column_sums(shape, p.partial, pixels, channels, 2, stream));
  });
}

void run_cuda(Dtype dtype, const BnReluPoolBackward& p, cudaStream_t stream) {
  const int64_t pixels = input_pixels(p.shape), channels = p.shape.channels;
  if (pixels == 0 || channels == 0) return;
  const bool vectorize = can_vectorize(dtype, p.x, channels) &&
                         can_vectorize(dtype, p.grad_y, channels) &&
                         can_vectorize(dtype, p.grad_x, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    launch(
        "bn_relu_pool_backward", bn_relu_pool_backward_kernel<decltype(value), width>,
        shape_for_rows(pixels, channels, width), stream, p);
  });
}

}  // namespace googlenet_fast
