// Concatenation with bias and ReLU, and its gradient, one pass over memory each.

#include "../concat_bias_relu.h"

#include "column_sums.h"

namespace googlenet_fast {
namespace {

// Selected by comparisons rather than by index, so that the parameters stay out of local memory,
// and value by value, so that the compiler sees where each pointer comes from: global memory.
__device__ inline Branch branch_of(const Branch* branches, int count, int64_t column) {
  Branch branch = branches[0];
#pragma unroll
  for (int i = 1; i < kMaxBranches; ++i) {
    const bool here = i < count && column >= branches[i].begin;
    branch.data = here ? branches[i].data : branch.data;
    branch.stride = here ? branches[i].stride : branch.stride;
    branch.begin = here ? branches[i].begin : branch.begin;
    branch.bias = here ? branches[i].bias : branch.bias;
  }
  return branch;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    concat_bias_relu_kernel(const __grid_constant__ ConcatBiasRelu p) {
  const int64_t column = first_column<kWidth>();
  if (column >= p.columns) return;
  const Branch branch = branch_of(p.branches, p.count, column);
  const int64_t channel = column - branch.begin;

  float bias[kWidth];
  load_bias(branch.bias, channel, bias);
  for (int64_t row = first_row(); row < p.rows; row += row_step()) {
    auto vector = load<T, kWidth>(branch.data, row * branch.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float value = to_float(vector.values[i]) + bias[i];
      vector.values[i] = from_float<T>(p.relu && value < 0.f ? 0.f : value);  // keeps NaN
    }
    store<T, kWidth>(p.y.data, row * p.y.stride + column, vector);
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    concat_bias_relu_backward_kernel(const __grid_constant__ ConcatBiasReluBackward p) {
  const int64_t column = first_column<kWidth>();
  const bool inside = column < p.columns;
  float sum[kWidth] = {};

  if (inside) {
    const Branch branch = branch_of(p.branches, p.count, column);
    const int64_t channel = column - branch.begin;
    for (int64_t row = first_row(); row < p.rows; row += row_step()) {
      auto grad = load<T, kWidth>(p.grad_y.data, row * p.grad_y.stride + column);
      if (p.y.data != nullptr) {
        const auto y = load<T, kWidth>(p.y.data, row * p.y.stride + column);
        for (int i = 0; i < kWidth; ++i) {
          grad.values[i] = to_float(y.values[i]) <= 0.f ? from_float<T>(0.f) : grad.values[i];
        }
      }
      store<T, kWidth>(branch.data, row * branch.stride + channel, grad);
      for (int i = 0; i < kWidth; ++i) sum[i] += to_float(grad.values[i]);
    }
  }
  if (p.partial != nullptr) store_partial<kWidth>(sum, p.partial, p.columns);
}

template <typename T>
bool can_vectorize(const Branch* branches, int count) {
  return std::all_of(branches, branches + count, [](const Branch& branch) {
    return branch.channels % kVectorWidth<T> == 0 &&
           can_vectorize<T>(Matrix{branch.data, branch.stride});
  });
}

}  // namespace

void run_cuda(Dtype dtype, const ConcatBiasRelu& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  for_dtype(dtype, [&](auto value) {
    using T = decltype(value);
    const bool vectorize = can_vectorize<T>(p.branches, p.count) && can_vectorize<T>(p.y);
    for_width<T>(vectorize, [&](auto width) {
      launch(
          "concat_bias_relu", concat_bias_relu_kernel<T, width>,
          shape_for_rows(p.rows, p.columns, width), stream, p);
    });
  });
}

void run_cuda(Dtype dtype, const ConcatBiasReluBackward& p, cudaStream_t stream) {
  if (p.columns == 0) return;
  const bool bias = p.grad_bias != nullptr;
  for_dtype(dtype, [&](auto value) {
    using T = decltype(value);
    if (p.rows == 0) return;
    const bool vectorize = can_vectorize<T>(p.branches, p.count) && can_vectorize<T>(p.grad_y) &&
                           can_vectorize<T>(p.y);
    for_width<T>(vectorize, [&](auto width) {
      launch(
          "concat_bias_relu_backward", concat_bias_relu_backward_kernel<T, width>,
          bias ? shape_for_sums(p.rows, p.columns, width)
               : shape_for_rows(p.rows, p.columns, width),
          stream, p);
    });
  });
  if (bias) sum_partials(p.partial, bias_partials(p.rows), p.columns, p.grad_bias, stream);
}

}  // namespace googlenet_fast
