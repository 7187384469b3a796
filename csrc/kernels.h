// What the bindings and the kernels agree on: raw pointers and plain structs, no torch header.
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

constexpr int kMaxBranches = 4;

// One branch: `channels` columns of the concatenation, starting at column `begin`.
struct Branch {
  void* data;         // (rows, channels): read by forward, written by backward
  int64_t stride;     // elements from one row of `data` to the next
  int64_t channels;
  int64_t begin;
  const void* bias;   // (channels,) of fp32, fp64 for kFloat64; null without bias. Forward only.
};

// y[:, branch] = relu(branch + bias)
struct ConcatBiasRelu {
  Branch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  void* y;  // (rows, columns)
  bool relu;
};

// Each branch's gradient = grad_y[:, branch] where y > 0 else 0; grad_bias = its sum over the rows.
struct ConcatBiasReluBackward {
  Branch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  const void* grad_y;  // (rows, columns)
  int64_t grad_y_stride;
  const void* y;    // (rows, columns); null without ReLU
  void* partial;    // (bias_partials(rows), columns) of fp32, fp64 for kFloat64
  void* grad_bias;  // (columns,) of the same; both null without biases
};

// Bias gradients are summed in this many parts, then the parts in order: a number that depends on
// the problem alone makes the sum the same for any number of threads and on any device.
inline int64_t bias_partials(int64_t rows) {
  constexpr int64_t kRowsPerPartial = 32;
  constexpr int64_t kMaxPartials = 512;
  return std::min((rows + kRowsPerPartial - 1) / kRowsPerPartial, kMaxPartials);
}

namespace cpu {
void run(Dtype dtype, const ConcatBiasRelu& p);
void run(Dtype dtype, const ConcatBiasReluBackward& p);
}  // namespace cpu

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
namespace cuda {
void run(Dtype dtype, const ConcatBiasRelu& p, cudaStream_t stream);
void run(Dtype dtype, const ConcatBiasReluBackward& p, cudaStream_t stream);
}  // namespace cuda
#endif

}  // namespace googlenet_fast
