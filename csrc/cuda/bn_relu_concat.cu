// Batch normalisation with ReLU and concatenation, in four passes over memory.
//
// A thread stays in its columns (launch.h), so it loads the values of a channel once. The backward
// pass does not read y: it recomputes from the input which values ReLU clipped.

#include <algorithm>
#include <cmath>

#include "../bn_relu_concat.h"
#include "batch_norm.h"

namespace googlenet_fast {
namespace {

__device__ inline NormBranch branch_of(const NormBranches& p, int64_t column) {
  const auto select = [](NormBranch& branch, const NormBranch& other, auto take) {
    take(branch.x.data, other.x.data);
    take(branch.x.stride, other.x.stride);
    take(branch.grad.data, other.grad.data);
    take(branch.grad.stride, other.grad.stride);
    take(branch.out.data, other.out.data);
    take(branch.out.stride, other.out.stride);
    take(branch.begin, other.begin);
    take(branch.mean, other.mean);
    take(branch.variance, other.variance);
    take(branch.weight, other.weight);
    take(branch.bias, other.bias);
    take(branch.grad_bias, other.grad_bias);
    take(branch.grad_weight, other.grad_weight);
  };
  return branch_of(p.branches, p.count, column, select);
}

// Mean and variance in one pass. A thread subtracts its first row from all of its own, and means
// are merged as differences to row 0, so that a mean far from zero costs no digits.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) bn_relu_concat_statistics_kernel(
    const __grid_constant__ BatchNormStatistics p, const ColumnSums sums) {
  const int64_t column = first_column<kWidth>(), first = first_row();
  Moments<kWidth> moments;
  if (column < p.columns && first < p.rows) {
    const NormBranch branch = branch_of(p, column);
    const int64_t channel = column - branch.begin;
    const auto origin = load<T, kWidth>(branch.x.data, channel);
    const auto start = load<T, kWidth>(branch.x.data, first * branch.x.stride + channel);
    float sum[kWidth] = {}, squares[kWidth] = {};  // of differences to the first row
    int count = 0;
    for (int64_t row = first; row < p.rows; row += row_step(), ++count) {
      const auto x = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
      for (int i = 0; i < kWidth; ++i) {
        const float difference = to_float(x.values[i]) - to_float(start.values[i]);
        sum[i] += difference;
        squares[i] = fmaf(difference, difference, squares[i]);
      }
    }
    const float share = 1.f / static_cast<float>(count);
    for (int i = 0; i < kWidth; ++i) {
      const float offset = sum[i] * share;
      moments.fields[i] = to_float(start.values[i]) - to_float(origin.values[i]) + offset;
      moments.fields[kWidth + i] = fmaxf(0.f, fmaf(-sum[i], offset, squares[i]));
    }
    moments.set_rows(count);
  }
  merge_all(moments, sums, [&](auto& all, int64_t begin) {
    const NormBranch branch = branch_of(p, begin);
    const auto origin = load<T, kWidth>(branch.x.data, begin - branch.begin);
    for (int i = 0; i < kWidth; ++i) {
      all.fields[i] += to_float(origin.values[i]);
      all.fields[kWidth + i] /= all.rows();
    }
    store_row(all, static_cast<float*>(p.statistics), p.columns, begin);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_concat_kernel(const __grid_constant__ BatchNormRelu p) {
  const int64_t column = first_column<kWidth>();
  if (column >= p.columns) return;
  const NormBranch branch = branch_of(p, column);
  const int64_t channel = column - branch.begin;
  const Normalization<kWidth> norm(branch, channel, static_cast<float>(p.eps));
  for (int64_t row = first_row(); row < p.rows; row += row_step()) {
    auto vector = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float value = norm.value(i, norm.centered(i, to_float(vector.values[i])));
      vector.values[i] = from_float<T>(value < 0.f ? 0.f : value);  // keeps NaN
    }
    store<T, kWidth>(branch.out.data, row * branch.out.stride + channel, vector);
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_concat_sums_kernel(const __grid_constant__ BatchNormSums p, const ColumnSums sums) {
  const int64_t column = first_column<kWidth>();
  Sums<kWidth, 2> grads;  // of bias and weight
  if (column < p.columns) {
    const NormBranch branch = branch_of(p, column);
    const int64_t channel = column - branch.begin;
    const Normalization<kWidth> norm(branch, channel, static_cast<float>(p.eps));
    for (int64_t row = first_row(); row < p.rows; row += row_step()) {
      const auto x = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
      const auto grad_y = load<T, kWidth>(branch.grad.data, row * branch.grad.stride + channel);
      for (int i = 0; i < kWidth; ++i) {
        const float centered = norm.centered(i, to_float(x.values[i]));
        const float grad = norm.value(i, centered) <= 0.f ? 0.f : to_float(grad_y.values[i]);
        grads.fields[i] += grad;
        grads.fields[kWidth + i] = fmaf(grad, centered, grads.fields[kWidth + i]);
      }
    }
    for (int i = 0; i < kWidth; ++i) grads.fields[kWidth + i] *= norm.inverse[i];
  }
  merge_all(grads, sums, [&](const auto& all, int64_t begin) {
    store_row(all, static_cast<float*>(p.sums), p.columns, begin);
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bn_relu_concat_backward_kernel(const __grid_constant__ BatchNormBackward p) {
  const int64_t column = first_column<kWidth>();
  if (column >= p.columns) return;
  const NormBranch branch = branch_of(p, column);
  const int64_t channel = column - branch.begin;
  const Normalization<kWidth> norm(branch, channel, static_cast<float>(p.eps));
  const float total = static_cast<float>(p.total);
  float mean[kWidth], slope[kWidth];  // mean of the masked gradient, and its slope over x
  load_bias(branch.grad_bias, channel, mean);
  load_bias(branch.grad_weight, channel, slope);
  for (int i = 0; i < kWidth; ++i) {
    mean[i] /= total;
    slope[i] = slope[i] / total * norm.inverse[i];
  }
  for (int64_t row = first_row(); row < p.rows; row += row_step()) {
    const auto x = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
    auto grad_y = load<T, kWidth>(branch.grad.data, row * branch.grad.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float centered = norm.centered(i, to_float(x.values[i]));
      const float grad = norm.value(i, centered) <= 0.f ? 0.f : to_float(grad_y.values[i]);
      grad_y.values[i] = from_float<T>(norm.scale[i] * (grad - mean[i] - centered * slope[i]));
    }
    store<T, kWidth>(branch.out.data, row * branch.out.stride + channel, grad_y);
  }
}

// Matrices that a pass does not use are null.
bool can_vectorize_branches(Dtype dtype, const NormBranches& p) {
  return std::all_of(p.branches, p.branches + p.count, [&](const NormBranch& branch) {
    const auto is_aligned = [&](const Matrix& matrix) {
      return can_vectorize(dtype, matrix, branch.channels);
    };
    return is_aligned(branch.x) && is_aligned(branch.grad) && is_aligned(branch.out);
  });
}

}  // namespace

void run_cuda(Dtype dtype, const BatchNormStatistics& p, cudaStream_t stream) {
  if (p.columns == 0) return;
  if (p.rows == 0) return store_zeros(p.statistics, 2 * p.columns, stream);
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    const Shape shape = shape_for_sums(p.rows, p.columns, width);
    launch(
        "bn_relu_concat_statistics", bn_relu_concat_statistics_kernel<decltype(value), width>,
        shape, stream, p, column_sums(shape, p.partial, p.rows, p.columns, 2, stream));
  });
}

void run_cuda(Dtype dtype, const BatchNormRelu& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    launch(
        "bn_relu_concat", bn_relu_concat_kernel<decltype(value), width>,
        shape_for_rows(p.rows, p.columns, width), stream, p);
  });
}

void run_cuda(Dtype dtype, const BatchNormSums& p, cudaStream_t stream) {
  if (p.columns == 0) return;
  if (p.rows == 0) return store_zeros(p.sums, 2 * p.columns, stream);
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    const Shape shape = shape_for_sums(p.rows, p.columns, width);
    launch(
        "bn_relu_concat_sums", bn_relu_concat_sums_kernel<decltype(value), width>, shape, stream, p,
        column_sums(shape, p.partial, p.rows, p.columns, 2, stream));
  });
}

void run_cuda(Dtype dtype, const BatchNormBackward& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    launch(
        "bn_relu_concat_backward", bn_relu_concat_backward_kernel<decltype(value), width>,
        shape_for_rows(p.rows, p.columns, width), stream, p);
  });
}

}  // namespace googlenet_fast
