// Bias, ReLU and 3x3/2 max pool: each output pixel reads its nine inputs; in the backward pass each
// input pixel asks the windows that it is in.

#include "../bias_relu_pool.h"

#include <algorithm>

#include "common.h"
#include "isa.h"
#include "parts.h"

namespace googlenet_fast {
namespace {

constexpr int64_t kPixels = 16;  // pixels that are worth a thread

// The windows that a row or a column is in, and its number there.
struct Covering {
  int64_t windows[2];
  int numbers[2], count = 0;

  Covering(int64_t i, int64_t all) {
    for (int number = i % 2; number <= 2; number += 2) {
      const int64_t window = (i - number) / 2;
      if (i < number || window >= all) continue;
      windows[count] = window;
      numbers[count++] = number;
    }
  }
};

void unpool_pixel(const BiasReluPoolBackward& p, int64_t pixel, float* grad_x) {
  const PoolShape& s = p.shape;
  const int64_t image = pixel / (int64_t(s.height) * s.width);
  const Covering down(pixel / s.width % s.height, s.out_height);
  const Covering across(pixel % s.width, s.out_width);
  const float* grads[4];
  const uint8_t* indices[4];
  int numbers[4], windows = 0;
  for (int i = 0; i < down.count; ++i) {
    for (int j = 0; j < across.count; ++j, ++windows) {
      const int64_t window =
          (image * s.out_height + down.windows[i]) * s.out_width + across.windows[j];
      grads[windows] = static_cast<const float*>(p.grad_y.data) + window * p.grad_y.stride;
      indices[windows] = p.index + window * s.channels;
      numbers[windows] = 3 * down.numbers[i] + across.numbers[j];
    }
  }
  cpu::isa().unpool(grads, indices, numbers, windows, s.channels, grad_x);
}

}  // namespace

void run_cpu(Dtype, const BiasReluPool& p) {
  const PoolShape& s = p.shape;
  const int64_t outputs = int64_t(s.images) * s.out_height * s.out_width;
  cpu::for_each_range(outputs, kPixels, [&](int64_t begin, int64_t end) {
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
      cpu::isa().max_of_nine(
          pixels, s.channels, static_cast<const float*>(p.bias), p.relu,
          static_cast<float*>(p.y.data) + i * p.y.stride,
          p.index == nullptr ? nullptr : p.index + i * s.channels);
    }
  });
}

void run_cpu(Dtype, const BiasReluPoolBackward& p) {
  const PoolShape& s = p.shape;
  const int64_t inputs = int64_t(s.images) * s.height * s.width, parts = bias_partials(inputs);
  float* const partial = static_cast<float*>(p.partial);
  cpu::for_each_task(parts, [&](int64_t part) {
    float* const sums = partial == nullptr ? nullptr : partial + part * s.channels;
    if (sums != nullptr) std::fill_n(sums, s.channels, 0.0f);
    for (int64_t i = part * inputs / parts; i < (part + 1) * inputs / parts; ++i) {
      float* const grad_x = static_cast<float*>(p.grad_x.data) + i * p.grad_x.stride;
      unpool_pixel(p, i, grad_x);
      if (sums != nullptr) cpu::isa().mask(grad_x, nullptr, s.channels, nullptr, sums);
    }
  });
  if (p.grad_bias == nullptr) return;
  cpu::add_parts<float>(partial, parts, s.channels, static_cast<float*>(p.grad_bias));
}

}  // namespace googlenet_fast
