// Activations: matrices of one row per pixel and one column per channel.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "kernel_configs.h"

namespace googlenet_fast::cpu {

struct Size {
  int64_t images, height, width;
  int64_t pixels() const { return images * height * width; }
};

// A matrix, or some columns of a wider one.
struct MatrixView {
  float* data;
  int64_t stride;  // from one pixel to the next
  int64_t channels;

  float* row(int64_t pixel) const { return data + pixel * stride; }
  MatrixView rows_from(int64_t pixel) const { return {row(pixel), stride, channels}; }
  MatrixView columns(int64_t first, int64_t count) const { return {data + first, stride, count}; }
};

inline MatrixView view_of(const Matrix& m, int64_t channels) {
  return {static_cast<float*>(m.data), m.stride, channels};
}

// True if y, or the matrix whose columns it has, is large and aligned enough for nontemporal
// stores.
inline bool use_nontemporal_store(const Size& size, MatrixView y) {
  constexpr int64_t kSmallest = 2 << 20;  // floats
  const bool is_aligned =
      reinterpret_cast<uintptr_t>(y.data) % (kLine * sizeof(float)) == 0 && y.stride % kLine == 0;
  return gemm_config().has_nontemporal_store && is_aligned && size.pixels() * y.stride >= kSmallest;
}

}  // namespace googlenet_fast::cpu
