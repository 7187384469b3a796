// The 3x3/1 max pool: every pixel of the output and of the gradient gathers from its nine
// neighbours.

#include "../max_pool.h"

#include <algorithm>

#include "max_pool_3x3.h"
#include "partition.h"

namespace googlenet_fast {
namespace cpu {
namespace {

constexpr int64_t kPixels = 16;  // per task

// The nine pixels around one; null out of bounds.
void window_pointers(const Size& size, int64_t pixel, MatrixView x, const float** pointers) {
  const int64_t h = pixel / size.width % size.height, w = pixel % size.width;
  for (int i = 0; i < 9; ++i) {
    const int64_t dh = i / 3 - 1, dw = i % 3 - 1;
    const bool in_bounds =
        h + dh >= 0 && h + dh < size.height && w + dw >= 0 && w + dw < size.width;
    pointers[i] = in_bounds ? x.row(pixel + dh * size.width + dw) : nullptr;
  }
}

// Without an index: runs of adjacent pixels of an image's row.
void max_pool_rows(const Size& size, int64_t first, int64_t count, MatrixView x, MatrixView y) {
  for (int64_t done = 0; done < count;) {
    const int64_t left = (first + done) % size.width;
    const int64_t row = (first + done) / size.width % size.height;
    const int64_t run = std::min(count - done, size.width - left), down = size.width * x.stride;
    const float* const here = x.row(first + done);
    const float* const rows[] = {
        row > 0 ? here - down : here, here, row + 1 < size.height ? here + down : here};
    pool_config().max_of_row(
        rows, x.stride, left > 0, left + run < size.width, run, x.channels, y.row(done), y.stride);
    done += run;
  }
}

}  // namespace

void max_pool_3x3(
    const Size& size, int64_t first, int64_t count, MatrixView x, MatrixView y, uint8_t* index) {
  if (index == nullptr) return max_pool_rows(size, first, count, x, y);
  for (int64_t i = 0; i < count; ++i) {
    const float* pixels[9];
    window_pointers(size, first + i, x, pixels);
    pool_config().max_of_window(
        pixels, x.channels, nullptr, false, y.row(i), index + (first + i) * x.channels);
  }
}

void max_pool_3x3_backward(
    const Size& size, int64_t row, MatrixView grad_y, int64_t first, const uint8_t* index,
    int64_t index_stride, bool add, MatrixView grad_x) {
  const int64_t h = row % size.height;
  const float* dy[3];
  const uint8_t* at[3];
  for (int i = 0; i < 3; ++i) {
    const bool in_bounds = h + i > 0 && h + i <= size.height;
    const int64_t pixel = (row + i - 1) * size.width;
    dy[i] = in_bounds ? grad_y.row(pixel - first) : nullptr;
    at[i] = in_bounds ? index + pixel * index_stride : nullptr;
  }
  pool_config().stride1_backward_row(
      dy, grad_y.stride, at, index_stride, size.width, grad_x.channels, add,
      grad_x.row(row * size.width), grad_x.stride);
}

}  // namespace cpu

namespace {

cpu::Size size_of(const PoolShape& s) { return {s.images, s.height, s.width}; }

}  // namespace

void run_cpu(Dtype, const MaxPool& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::MatrixView x = cpu::view_of(p.x, channels), y = cpu::view_of(p.y, channels);
  cpu::parallel_for_ranges(size.pixels(), cpu::kPixels, [&](int64_t begin, int64_t end) {
    cpu::max_pool_3x3(size, begin, end - begin, x, y.rows_from(begin), p.index);
  });
}

void run_cpu(Dtype, const MaxPoolBackward& p) {
  const cpu::Size size = size_of(p.shape);
  const int64_t channels = p.shape.channels;
  const cpu::MatrixView grad_y = cpu::view_of(p.grad_y, channels);
  const cpu::MatrixView grad_x = cpu::view_of(p.grad_x, channels);
  const cpu::MatrixView add_to = cpu::view_of(p.add_to, channels);
  const bool add = p.add_to.data != nullptr;
  cpu::parallel_for_each(size.images * size.height, [&](int64_t row) {
    for (int64_t i = row * size.width; add && i < (row + 1) * size.width; ++i) {
      std::copy_n(add_to.row(i), channels, grad_x.row(i));
    }
    cpu::max_pool_3x3_backward(size, row, grad_y, 0, p.index, channels, add, grad_x);
  });
}

}  // namespace googlenet_fast
