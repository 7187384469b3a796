// The 3x3/1 max pool: each pixel of output and gradient reads the nine around it, and is written by
// the one thread that has it.

#include "../max_pool.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "convolution.h"
#include "isa.h"
#include "neighbours.h"

namespace googlenet_fast {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kPixels = 16;  // pixels that are worth a thread

cpu::Size size_of(const PoolShape& s) { return {s.images, s.height, s.width}; }

}  // namespace

void run_cpu(Dtype, const MaxPool& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::Rows x = cpu::rows_of(p.x, channels), y = cpu::rows_of(p.y, channels);
  parallel_for(0, size.pixels(), kPixels, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      float* around[9];
      cpu::neighbours(size, pixel, x.data, x.stride, around);
      cpu::isa().max_of_nine(
          around, channels, nullptr, false, y.row(pixel),
          p.index == nullptr ? nullptr : p.index + pixel * channels);
    }
  });
}

void run_cpu(Dtype, const MaxPoolBackward& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::Rows grad_x = cpu::rows_of(p.grad_x, channels);
  parallel_for(0, size.pixels(), kPixels, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      std::fill_n(grad_x.row(pixel), channels, 0.0f);
    }
  });
  cpu::add_unpooled(size, cpu::rows_of(p.grad_y, channels), p.index, grad_x);
}

}  // namespace googlenet_fast
