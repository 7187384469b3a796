// What all kernels and bindings agree on: raw pointers and plain structs, no torch header.
//
// Each op K has a header K.h with a struct of parameters and, for each device that it has a kernel
// on, a declaration of run_cpu or run_cuda with that struct.
//
// Activations are matrices of one row per pixel and one column per channel (channels_last).
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace googlenet_fast {

enum class Dtype { kFloat16, kBFloat16, kFloat32, kFloat64 };

// One row per pixel and one column per channel; perhaps some of the columns of a wider matrix.
struct Matrix {
  void* data;
  int64_t stride;  // elements from one row to the next
};

// Bias gradients are summed in this many parts, then the parts in order: a number that depends on
// the problem alone makes the sum the same for any number of threads and on any device.
inline int64_t bias_partials(int64_t rows) {
  constexpr int64_t kRowsPerPartial = 32;
  constexpr int64_t kMaxPartials = 1024;  // blocks that fill the largest GPUs
  return std::min((rows + kRowsPerPartial - 1) / kRowsPerPartial, kMaxPartials);
}

}  // namespace googlenet_fast
