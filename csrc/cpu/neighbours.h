// The windows of 3x3 pixels, stride 1, that the pool of an Inception block has.
#pragma once

#include <cstdint>

#include "convolution.h"

namespace googlenet_fast::cpu {

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

}  // namespace googlenet_fast::cpu
