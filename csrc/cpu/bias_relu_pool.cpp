// Bias, ReLU and 3x3/2 max pool: each output pixel reads its nine inputs; in the backward pass each
// input pixel asks the windows that it is in.

#include "../bias_relu_pool.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common.h"
#include "isa.h"

namespace googlenet_fast {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kPixels = 16;  // pixels that are worth a thread

}  // namespace

void run_cpu(Dtype, const BiasReluPool& p) {
  const PoolShape& s = p.shape;
  const int64_t outputs = int64_t(s.images) * s.out_height * s.out_width;
  parallel_for(0, outputs, kPixels, [&](int64_t begin, int64_t end) {
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
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* const sums = partial == nullptr ? nullptr : partial + part * s.channels;
      if (sums != nullptr) std::fill_n(sums, s.channels, 0.0f);
      for (int64_t i = part * inputs / parts; i < (part + 1) * inputs / parts; ++i) {
        const int64_t image = i / (int64_t(s.height) * s.width);
        const int64_t y = i / s.width % s.height, x = i % s.width;
        const float* grads[9];
        const uint8_t* indices[9];
        for (int j = 0; j < 9; ++j) {  // of which window is it number j?
          const int64_t top = y - j / 3, left = x - j % 3;
          const bool inside = top >= 0 && left >= 0 && top % 2 == 0 && left % 2 == 0 &&
                              top / 2 < s.out_height && left / 2 < s.out_width;
          const int64_t window = (image * s.out_height + top / 2) * s.out_width + left / 2;
          grads[j] = inside ? static_cast<const float*>(p.grad_y.data) + window * p.grad_y.stride
                            : nullptr;
          indices[j] = inside ? p.index + window * s.channels : nullptr;
        }
        float* const grad_x = static_cast<float*>(p.grad_x.data) + i * p.grad_x.stride;
        cpu::isa().unpool_nine(grads, indices, s.channels, false, grad_x);
        if (sums != nullptr) cpu::isa().mask(grad_x, nullptr, s.channels, grad_x, sums);
      }
    }
  });
  if (p.grad_bias == nullptr) return;
  cpu::add_parts<float>(partial, parts, s.channels, static_cast<float*>(p.grad_bias));
}

}  // namespace googlenet_fast
