// Bias and ReLU of branches, and the gradient, one pass over memory each.

#include <algorithm>
#include <initializer_list>

#include "../concat_bias_relu.h"
#include "column_sums.h"

namespace googlenet_fast {
namespace {

__device__ inline Branch branch_of(const ConcatBiasRelu& p, int64_t column) {
  const auto select = [](Branch& branch, const Branch& other, auto take) {
    take(branch.x.data, other.x.data);
    take(branch.x.stride, other.x.stride);
    take(branch.out.data, other.out.data);
    take(branch.out.stride, other.out.stride);
    take(branch.begin, other.begin);
    take(branch.bias, other.bias);
  };
  return branch_of(p.branches, p.count, column, select);
}

__device__ inline GradBranch branch_of(const ConcatBiasReluBackward& p, int64_t column) {
  const auto select = [](GradBranch& branch, const GradBranch& other, auto take) {
    take(branch.grad.data, other.grad.data);
    take(branch.grad.stride, other.grad.stride);
    take(branch.y.data, other.y.data);
    take(branch.y.stride, other.y.stride);
    take(branch.out.data, other.out.data);
    take(branch.out.stride, other.out.stride);
    take(branch.begin, other.begin);
  };
  return branch_of(p.branches, p.count, column, select);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    concat_bias_relu_kernel(const __grid_constant__ ConcatBiasRelu p) {
  const int64_t column = first_column<kWidth>();
  if (column >= p.columns) return;
  const Branch branch = branch_of(p, column);
  const int64_t channel = column - branch.begin;

  float bias[kWidth];
  load_bias(branch.bias, channel, bias);
  for (int64_t row = first_row(); row < p.rows; row += row_step()) {
    auto vector = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float value = to_float(vector.values[i]) + bias[i];
      vector.values[i] = from_float<T>(p.relu && value < 0.f ? 0.f : value);  // keeps NaN
    }
    store<T, kWidth>(branch.out.data, row * branch.out.stride + channel, vector);
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) concat_bias_relu_backward_kernel(
    const __grid_constant__ ConcatBiasReluBackward p, const ColumnSums sums) {
  const int64_t column = first_column<kWidth>();
  Sums<kWidth, 1> sum;

  if (column < p.columns) {
    const GradBranch branch = branch_of(p, column);
    const int64_t channel = column - branch.begin;
    for (int64_t row = first_row(); row < p.rows; row += row_step()) {
      auto grad = load<T, kWidth>(branch.grad.data, row * branch.grad.stride + channel);
      if (branch.y.data != nullptr) {
        const auto y = load<T, kWidth>(branch.y.data, row * branch.y.stride + channel);
        for (int i = 0; i < kWidth; ++i) {
          grad.values[i] = to_float(y.values[i]) <= 0.f ? from_float<T>(0.f) : grad.values[i];
        }
      }
      store<T, kWidth>(branch.out.data, row * branch.out.stride + channel, grad);
      for (int i = 0; i < kWidth; ++i) sum.fields[i] += to_float(grad.values[i]);
    }
  }
  if (p.grad_bias == nullptr) return;
  merge_all(sum, sums, [&](const auto& all, int64_t first) {
    store_row(all, static_cast<float*>(p.grad_bias), p.columns, first);
  });
}

// Matrices that a branch does not have are null.
bool can_vectorize_all(Dtype dtype, int64_t channels, std::initializer_list<Matrix> matrices) {
  return std::ranges::all_of(
      matrices, [&](const Matrix& matrix) { return can_vectorize(dtype, matrix, channels); });
}

}  // namespace

void run_cuda(Dtype dtype, const ConcatBiasRelu& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  const bool vectorize = std::all_of(p.branches, p.branches + p.count, [&](const Branch& branch) {
    return can_vectorize_all(dtype, branch.channels, {branch.x, branch.out});
  });
  for_access(dtype, vectorize, [&](auto value, auto width) {
    launch(
        "concat_bias_relu", concat_bias_relu_kernel<decltype(value), width>,
        shape_for_rows(p.rows, p.columns, width), stream, p);
  });
}

void run_cuda(Dtype dtype, const ConcatBiasReluBackward& p, cudaStream_t stream) {
  if (p.columns == 0) return;
  const bool bias = p.grad_bias != nullptr;
  if (p.rows == 0) {
    if (bias) store_zeros(p.grad_bias, p.columns, stream);
    return;
  }
  const bool vectorize =
      std::all_of(p.branches, p.branches + p.count, [&](const GradBranch& branch) {
        return can_vectorize_all(dtype, branch.channels, {branch.grad, branch.y, branch.out});
      });
  for_access(dtype, vectorize, [&](auto value, auto width) {
    const Shape shape =
        bias ? shape_for_sums(p.rows, p.columns, width) : shape_for_rows(p.rows, p.columns, width);
    launch(
        "concat_bias_relu_backward", concat_bias_relu_backward_kernel<decltype(value), width>,
        shape, stream, p,
        bias ? column_sums(shape, p.partial, p.rows, p.columns, 1, stream) : ColumnSums{});
  });
}

}  // namespace googlenet_fast
