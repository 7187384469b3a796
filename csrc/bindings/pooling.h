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

// The index that the forward pass saved, as the kernels read it: dense. Its values may be any.
inline Tensor dense_index(const Check& check, const Tensor& index, const Tensor& maxima) {
  constexpr ScalarType kDtypes[] = {ScalarType::Byte};
  check.tensor(
      "index", index, kDtypes, {maxima.size(0), maxima.size(1), maxima.size(2), maxima.size(3)});
  return dense_channels_last(index);
}

}  // namespace googlenet_fast
