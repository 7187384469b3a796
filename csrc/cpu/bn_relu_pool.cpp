// Batch normalisation, ReLU and the 3x3/2 max pool: a window or a pixel at a time, all channels.

#include "../bn_relu_pool.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common.h"

namespace googlenet_fast {
namespace {

using cpu::Accumulator;
using cpu::dispatch;
using cpu::kGrain;
using cpu::row_of;
using torch::stable::parallel_for;

// Per channel: y = relu((x - mean) * scale + bias). Without a weight the scale is zero.
template <typename A>
struct Constants {
  const A *mean, *bias;
  std::vector<A> inverse, scale;

  explicit Constants(const NormPool& p)
      : mean(static_cast<const A*>(p.mean)), bias(static_cast<const A*>(p.bias)),
        inverse(p.shape.channels), scale(p.shape.channels) {
    const A* const variance = static_cast<const A*>(p.variance);
    const A* const weight = static_cast<const A*>(p.weight);
    for (int64_t c = 0; c < p.shape.channels; ++c) {
      inverse[c] = A(1) / std::sqrt(variance[c] + static_cast<A>(p.eps));
      scale[c] = weight == nullptr ? A(0) : inverse[c] * weight[c];
    }
  }
};

int64_t input_pixels(const PoolShape& s) { return int64_t{s.images} * s.height * s.width; }

int64_t grain_of(const PoolShape& s) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 9 * s.channels));
}

template <typename T, typename A>
void normalize_window(
    const BnReluPool& p, const Constants<A>& norm, int64_t window, A* __restrict best,
    uint8_t* __restrict code) {
  const PoolShape& s = p.shape;
  const int64_t image = window / (int64_t{s.out_height} * s.out_width);
  const int64_t top = window / s.out_width % s.out_height * 2, left = window % s.out_width * 2;
  const A* const __restrict mean = norm.mean;
  const A* const __restrict scale = norm.scale.data();
  const A* const __restrict bias = norm.bias;
  std::fill_n(best, s.channels, -std::numeric_limits<A>::infinity());
  std::fill_n(code, s.channels, uint8_t{0});
  for (int i = 0; i < 9; ++i) {
    const int64_t h = top + i / 3, w = left + i % 3;
    if (h >= s.height || w >= s.width) continue;
    const T* const __restrict x = row_of<T>(p.x, (image * s.height + h) * s.width + w);
    for (int64_t c = 0; c < s.channels; ++c) {
      const A value = (static_cast<A>(x[c]) - mean[c]) * scale[c] + bias[c];
      const bool larger = value > best[c] || value != value;  // the first of equals, and any NaN
      best[c] = larger ? value : best[c];
      code[c] = larger ? static_cast<uint8_t>(i) : code[c];
    }
  }
}

template <typename T>
void forward(const BnReluPool& p) {
  using A = Accumulator<T>;
  const PoolShape& s = p.shape;
  const Constants<A> norm(p);
  const int64_t windows = int64_t{s.images} * s.out_height * s.out_width;
  parallel_for(0, windows, grain_of(s), [&](int64_t begin, int64_t end) {
    std::vector<A> best(s.channels);
    for (int64_t window = begin; window < end; ++window) {
      uint8_t* const index = p.index + window * s.channels;
      normalize_window<T>(p, norm, window, best.data(), index);
      T* const y = row_of<T>(p.y, window);
      for (int64_t c = 0; c < s.channels; ++c) {
        y[c] = static_cast<T>(best[c] < A(0) ? A(0) : best[c]);  // keeps NaN
        index[c] = best[c] <= A(0) ? kClipped : index[c];
      }
    }
  });
}

// grad (channels,) = the sum of grad_y over the windows whose maximum the pixel is.
template <typename T, typename A>
void gather(const NormPoolGradient& p, int64_t pixel, A* __restrict grad) {
  const PoolShape& s = p.shape;
  const int64_t image = pixel / (int64_t{s.height} * s.width);
  const int64_t h = pixel / s.width % s.height, w = pixel % s.width;
  std::fill_n(grad, s.channels, A(0));
  for (int64_t row = h % 2; row <= std::min<int64_t>(2, h); row += 2) {
    for (int64_t column = w % 2; column <= std::min<int64_t>(2, w); column += 2) {
      const int64_t above = (h - row) / 2, before = (w - column) / 2;
      if (above >= s.out_height || before >= s.out_width) continue;
      const int64_t window = (image * s.out_height + above) * s.out_width + before;
      const T* const __restrict grad_y = row_of<T>(p.grad_y, window);
      const uint8_t* const __restrict index = p.index + window * s.channels;
      const auto code = static_cast<uint8_t>(3 * row + column);
      for (int64_t c = 0; c < s.channels; ++c) {
        const A upstream = static_cast<A>(grad_y[c]);  // unconditional: GCC vectorizes it
        grad[c] += index[c] == code ? upstream : A(0);
      }
    }
  }
}

template <typename T>
void sums(const BnReluPoolSums& p) {
  using A = Accumulator<T>;
  const int64_t channels = p.shape.channels, pixels = input_pixels(p.shape);
  const int64_t partials = bias_partials(pixels);
  const Constants<A> norm(p);
  A* const partial = static_cast<A*>(p.partial);
  parallel_for(0, partials, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> grads(channels);
    for (int64_t k = begin; k < end; ++k) {
      A* const __restrict grad_bias = partial + k * 2 * channels;
      A* const __restrict grad_weight = grad_bias + channels;
      std::fill_n(grad_bias, 2 * channels, A(0));
      for (int64_t pixel = k * pixels / partials; pixel < (k + 1) * pixels / partials; ++pixel) {
        gather<T>(p, pixel, grads.data());
        const T* const __restrict x = row_of<T>(p.x, pixel);
        const A* const __restrict grad = grads.data();
        for (int64_t c = 0; c < channels; ++c) {
          grad_bias[c] += grad[c];
          grad_weight[c] += grad[c] * (static_cast<A>(x[c]) - norm.mean[c]);
        }
      }
      for (int64_t c = 0; c < channels; ++c) grad_weight[c] *= norm.inverse[c];
    }
  });
  cpu::sum_partials<A>(partial, partials, 2 * channels, static_cast<A*>(p.sums));
}

template <typename T>
void backward(const BnReluPoolBackward& p) {
  using A = Accumulator<T>;
  const int64_t channels = p.shape.channels;
  const Constants<A> norm(p);
  std::vector<A> means(channels), slopes(channels);  // of the pixels' gradients
  for (int64_t c = 0; c < channels; ++c) {
    means[c] = static_cast<const A*>(p.grad_bias)[c] / static_cast<A>(p.total);
    slopes[c] = static_cast<const A*>(p.grad_weight)[c] / static_cast<A>(p.total) * norm.inverse[c];
  }
  parallel_for(0, input_pixels(p.shape), grain_of(p.shape), [&](int64_t begin, int64_t end) {
    std::vector<A> grads(channels);
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      gather<T>(p, pixel, grads.data());
      const T* const __restrict x = row_of<T>(p.x, pixel);
      T* const __restrict grad_x = row_of<T>(p.grad_x, pixel);
      for (int64_t c = 0; c < channels; ++c) {
        const A slope = (static_cast<A>(x[c]) - norm.mean[c]) * slopes[c];
        grad_x[c] = static_cast<T>(norm.scale[c] * (grads[c] - means[c] - slope));
      }
    }
  });
}

}  // namespace

void run_cpu(Dtype dtype, const BnReluPool& p) {
  dispatch(dtype, [&](auto value) { forward<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const BnReluPoolSums& p) {
  dispatch(dtype, [&](auto value) { sums<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const BnReluPoolBackward& p) {
  dispatch(dtype, [&](auto value) { backward<decltype(value)>(p); });
}

}  // namespace googlenet_fast
