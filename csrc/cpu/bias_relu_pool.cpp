// Bias, ReLU and 3x3/2 max pool. Backward, each row of input pixels gathers from the one or two
// rows of windows that contain it.

#include "../bias_relu_pool.h"

#include <algorithm>

#include "common.h"
#include "matrix_view.h"
#include "partition.h"

namespace googlenet_fast {
namespace {

constexpr int64_t kPixels = 16;  // per task

// grad_x of one row of one image.
void backward_row(const BiasReluPoolBackward& p, int64_t row) {
  const PoolShape& s = p.shape;
  const int64_t image = row / s.height, y = row % s.height;
  const float* grads[2];
  const uint8_t* indices[2];
  int numbers[2], rows = 0;
  for (int64_t number = y % 2; number <= std::min<int64_t>(2, y); number += 2) {
    const int64_t above = (y - number) / 2;
    if (above >= s.out_height) continue;
    const int64_t window = (image * s.out_height + above) * s.out_width;
    grads[rows] = static_cast<const float*>(p.grad_y.data) + window * p.grad_y.stride;
    indices[rows] = p.index + window * s.channels;
    numbers[rows++] = static_cast<int>(number);
  }
  cpu::pool_config().stride2_backward_row(
      grads, p.grad_y.stride, indices, s.channels, numbers, rows, s.out_width, s.width, s.channels,
      static_cast<float*>(p.grad_x.data) + row * s.width * p.grad_x.stride, p.grad_x.stride,
      cpu::use_nontemporal_store(
          {s.images, s.height, s.width}, cpu::view_of(p.grad_x, s.channels)));
}

void sum_bias(const BiasReluPoolBackward& p) {
  const PoolShape& s = p.shape;
  const int64_t windows = int64_t(s.images) * s.out_height * s.out_width;
  const int64_t partials = bias_partials(int64_t(s.images) * s.height * s.width);
  float* const partial = static_cast<float*>(p.partial);
  cpu::parallel_for_each(partials, [&](int64_t k) {
    float* const sums = partial + k * s.channels;
    std::fill_n(sums, s.channels, 0.0f);
    for (int64_t i = k * windows / partials; i < (k + 1) * windows / partials; ++i) {
      cpu::pool_config().accumulate_bias_grad(
          static_cast<const float*>(p.grad_y.data) + i * p.grad_y.stride, p.index + i * s.channels,
          s.channels, sums);
    }
  });
  cpu::sum_partials<float>(partial, partials, s.channels, static_cast<float*>(p.grad_bias));
}

}  // namespace

void run_cpu(Dtype, const BiasReluPool& p) {
  const PoolShape& s = p.shape;
  const int64_t outputs = int64_t(s.images) * s.out_height * s.out_width;
  cpu::parallel_for_ranges(outputs, kPixels, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / (s.out_height * s.out_width);
      const int64_t top = i / s.out_width % s.out_height * 2, left = i % s.out_width * 2;
      const float* pixels[9];
      for (int j = 0; j < 9; ++j) {
        const int64_t y = top + j / 3, x = left + j % 3;
        const int64_t pixel = (image * s.height + y) * s.width + x;
        pixels[j] = y < s.height && x < s.width
                        ? static_cast<const float*>(p.x.data) + pixel * p.x.stride
                        : nullptr;
      }
      cpu::pool_config().max_of_window(
          pixels, s.channels, static_cast<const float*>(p.bias), p.relu,
          static_cast<float*>(p.y.data) + i * p.y.stride,
          p.index == nullptr ? nullptr : p.index + i * s.channels);
    }
  });
}

void run_cpu(Dtype, const BiasReluPoolBackward& p) {
  const PoolShape& s = p.shape;
  cpu::parallel_for_each(int64_t(s.images) * s.height, [&](int64_t row) { backward_row(p, row); });
  if (p.grad_bias != nullptr) sum_bias(p);
}

}  // namespace googlenet_fast
