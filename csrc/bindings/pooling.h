// What the bindings of the pooling ops share.
#pragma once

#include "../bindings.h"
#include "../pooling.h"

namespace googlenet_fast {

// Shape of a pool from height x width to out_height x out_width; images and channels are those of
// x. `name`: the argument that decides the number of pixels.
inline PoolShape pool_shape(
    const Check& check, const char* name, const Tensor& x, int64_t height, int64_t width,
    int64_t out_height, int64_t out_width) {
  check.that(
      product_fits(Sizes{x.size(0), height, width}, std::numeric_limits<int>::max()), name,
      "be of less than 2^31 pixels");
  return {static_cast<int>(x.size(0)),  static_cast<int>(height),    static_cast<int>(width),
          static_cast<int>(out_height), static_cast<int>(out_width), x.size(1)};
}

// Windows of 3x3, stride 2, along an axis of `size` pixels; all of them start inside.
inline int64_t pooled_size(int64_t size, bool ceil_mode) {
  return ceil_mode ? size / 2 : (size - 1) / 2;
}

// Checks that images of height x width are pooled to out_height x out_width by such windows.
inline void check_pooled(
    const Check& check, const char* name, int64_t height, int64_t width, int64_t out_height,
    int64_t out_width) {
  check.that(out_height > 0 && out_width > 0, "grad_y", "be of at least one window");
  const auto pools = [&](bool ceil_mode) {
    return height > 0 && width > 0 && pooled_size(height, ceil_mode) == out_height &&
           pooled_size(width, ceil_mode) == out_width;
  };
  check.that(
      pools(false) || pools(true), name, "be of images that are pooled to ", out_height, "x",
      out_width, ", not ", height, "x", width);
}

// The index that the forward pass saved, as the kernels read it: dense. Its values may be any.
inline Tensor dense_index(const Check& check, const Tensor& index, const Tensor& maxima) {
  constexpr ScalarType kDtypes[] = {ScalarType::Byte};
  check.tensor(
      "index", index, kDtypes, {maxima.size(0), maxima.size(1), maxima.size(2), maxima.size(3)});
  return dense_channels_last(index);
}

}  // namespace googlenet_fast
