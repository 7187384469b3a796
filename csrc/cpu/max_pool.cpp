// The 3x3/1 max pool: each pixel of output and gradient reads the nine around it, and is written by
// the one thread that has it.

#include "../max_pool.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "convolution.h"
#include "isa.h"

namespace googlenet_fast {
namespace cpu {
namespace {

using torch::stable::parallel_for;

constexpr int64_t kPixels = 16;  // pixels that are worth a thread

// The nine pixels around one, or null beyond the image.
template <typename T>
void neighbours(const Size& size, int64_t pixel, T* data, int64_t stride, T** found) {
  const int64_t y = pixel / size.width % size.height, x = pixel % size.width;
  for (int i = 0; i < 9; ++i) {
    const int64_t dy = i / 3 - 1, dx = i % 3 - 1;
    const bool inside = y + dy >= 0 && y + dy < size.height && x + dx >= 0 && x + dx < size.width;
    found[i] = inside ? data + (pixel + dy * size.width + dx) * stride : nullptr;
  }
}

// Maxima alone, of as many adjacent pixels of a row as there are.
void maxima(const Size& size, int64_t first, int64_t count, Rows x, Rows y) {
  for (int64_t done = 0; done < count;) {
    const int64_t left = (first + done) % size.width, row = (first + done) / size.width % size.height;
    const int64_t run = std::min(count - done, size.width - left), down = size.width * x.stride;
    const float* const here = x.row(first + done);
    const float* const rows[] = {
        row > 0 ? here - down : here, here, row + 1 < size.height ? here + down : here};
    isa().max_of_rows(
        rows, x.stride, left > 0, left + run < size.width, run, x.channels, y.row(done), y.stride);
    done += run;
  }
}

}  // namespace

void max_pool(
    const Size& size, int64_t first, int64_t count, Rows x, Rows y, uint8_t* index) {
  if (index == nullptr) return maxima(size, first, count, x, y);
  for (int64_t i = 0; i < count; ++i) {
    float* around[9];
    neighbours(size, first + i, x.data, x.stride, around);
    isa().max_of_nine(
        around, x.channels, nullptr, false, y.row(i), index + (first + i) * x.channels);
  }
}

void unpool(const Size& size, Rows grad_pooled, const uint8_t* index, bool add, Rows grad_x) {
  const int64_t channels = grad_x.channels;
  parallel_for(0, size.pixels(), kPixels, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      float* around[9];
      const uint8_t* at[9];
      neighbours(size, pixel, grad_pooled.data, grad_pooled.stride, around);
      neighbours(size, pixel, index, channels, at);
      // The pixel is number i of the window around the neighbour that it sees as number 8 - i.
      std::reverse(around, around + 9);
      std::reverse(at, at + 9);
      isa().unpool_nine(around, at, channels, add, grad_x.row(pixel));
    }
  });
}

}  // namespace cpu

namespace {

cpu::Size size_of(const PoolShape& s) { return {s.images, s.height, s.width}; }

}  // namespace

void run_cpu(Dtype, const MaxPool& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::Rows x = cpu::rows_of(p.x, channels), y = cpu::rows_of(p.y, channels);
  cpu::parallel_for(0, size.pixels(), cpu::kPixels, [&](int64_t begin, int64_t end) {
    const cpu::Rows part{y.row(begin), y.stride, channels};
    cpu::max_pool(size, begin, end - begin, x, part, p.index);
  });
}

void run_cpu(Dtype, const MaxPoolBackward& p) {
  const int64_t channels = p.shape.channels;
  cpu::unpool(
      size_of(p.shape), cpu::rows_of(p.grad_y, channels), p.index, false,
      cpu::rows_of(p.grad_x, channels));
}

}  // namespace googlenet_fast
