// What the bindings of the pooling ops share.
#pragma once

#include <limits>

#include "../bindings.h"
#include "../pooling.h"

namespace googlenet_fast {

// Shape of a pool from height x width to out_height x out_width; images and channels are those of x.
inline PoolShape pool_shape(
    const char* op, const Tensor& x, int64_t height, int64_t width, int64_t out_height,
    int64_t out_width) {
  STD_TORCH_CHECK(x.dim() == 4, op, ": takes (N, C, H, W)");
  const int64_t pixels = x.size(0) * height * width;
  STD_TORCH_CHECK(
      pixels <= std::numeric_limits<int>::max(), op, ": takes less than 2^31 pixels, not ",
      pixels);
  return {
      static_cast<int>(x.size(0)), static_cast<int>(height), static_cast<int>(width),
      static_cast<int>(out_height), static_cast<int>(out_width), x.size(1)};
}

// The index that the forward pass saved, as the kernels read it: dense.
inline Tensor dense_index(const char* op, const Tensor& index, const Tensor& grad_y) {
  STD_TORCH_CHECK(
      index.scalar_type() == ScalarType::Byte && index.device() == grad_y.device() &&
          index.dim() == 4,
      op, ": the index must be of uint8, on the device of grad_y");
  for (const int dim : {0, 1, 2, 3}) {
    STD_TORCH_CHECK(
        index.size(dim) == grad_y.size(dim), op, ": the index is not of grad_y's size");
  }
  return dense_channels_last(index);
}

}  // namespace googlenet_fast
