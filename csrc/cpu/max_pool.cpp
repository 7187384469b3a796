// The 3x3/1 max pool: each pixel of output and gradient reads the nine around it, and is written by
// the one thread that has it.

#include "../max_pool.h"

#include <algorithm>

#include "convolution.h"
#include "isa.h"
#include "parts.h"

namespace googlenet_fast {
namespace cpu {
namespace {

constexpr int64_t kPixels = 16;  // pixels that are worth a thread

// The nine pixels around one, or null beyond the image.
void neighbours(const Size& size, int64_t pixel, Rows pixels, const float** found) {
  const int64_t y = pixel / size.width % size.height, x = pixel % size.width;
  for (int i = 0; i < 9; ++i) {
    const int64_t dy = i / 3 - 1, dx = i % 3 - 1;
    const bool inside = y + dy >= 0 && y + dy < size.height && x + dx >= 0 && x + dx < size.width;
    found[i] = inside ? pixels.row(pixel + dy * size.width + dx) : nullptr;
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
    const float* around[9];
    neighbours(size, first + i, x, around);
    isa().max_of_nine(
        around, x.channels, nullptr, false, y.row(i), index + (first + i) * x.channels);
  }
}

void unpool(
    const Size& size, int64_t row, Rows grad_pooled, int64_t first, const uint8_t* index,
    int64_t index_stride, bool add, Rows grad_x) {
  const int64_t y = row % size.height;
  const float* dy[3];
  const uint8_t* at[3];
  for (int i = 0; i < 3; ++i) {
    const bool inside = y + i > 0 && y + i <= size.height;
    const int64_t pixel = (row + i - 1) * size.width;
    dy[i] = inside ? grad_pooled.row(pixel - first) : nullptr;
    at[i] = inside ? index + pixel * index_stride : nullptr;
  }
  isa().unpool_rows(
      dy, grad_pooled.stride, at, index_stride, size.width, grad_x.channels, add,
      grad_x.row(row * size.width), grad_x.stride);
}

}  // namespace cpu

namespace {

cpu::Size size_of(const PoolShape& s) { return {s.images, s.height, s.width}; }

}  // namespace

void run_cpu(Dtype, const MaxPool& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::Rows x = cpu::rows_of(p.x, channels), y = cpu::rows_of(p.y, channels);
  cpu::for_each_range(size.pixels(), cpu::kPixels, [&](int64_t begin, int64_t end) {
    const cpu::Rows part{y.row(begin), y.stride, channels};
    cpu::max_pool(size, begin, end - begin, x, part, p.index);
  });
}

void run_cpu(Dtype, const MaxPoolBackward& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::Rows grad_y = cpu::rows_of(p.grad_y, channels);
  const cpu::Rows grad_x = cpu::rows_of(p.grad_x, channels);
  cpu::for_each_task(size.images * size.height, [&](int64_t row) {
    cpu::unpool(size, row, grad_y, 0, p.index, channels, false, grad_x);
  });
}

}  // namespace googlenet_fast
