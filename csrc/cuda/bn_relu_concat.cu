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

// The number of rows of a block in a grid-stride loop over blocks of `height` rows.
__device__ inline int64_t rows_of_block(
    int64_t rows, int64_t blocks, int64_t height, int64_t block) {
  const int64_t turns = rows / (blocks * height);
  const int64_t rest = rows - turns * blocks * height - block * height;
  return turns * height + (rest < 0 ? 0 : rest < height ? rest : height);
}

// Mean and sum of squared deviations of each block's rows. The first row is subtracted from all, so
// that a mean far from zero costs no digits.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const __grid_constant__ BatchNormStatistics p) {
  const int64_t column = first_column<kWidth>();
  const int64_t first = int64_t{blockIdx.x} * blockDim.y;
  float shift[kWidth] = {}, mean[kWidth] = {}, squares[kWidth] = {};

  if (column < p.columns && first < p.rows) {
    const NormBranch branch = branch_of(p, column);
    const int64_t channel = column - branch.begin;
    const auto start = load<T, kWidth>(branch.x.data, first * branch.x.stride + channel);
    for (int i = 0; i < kWidth; ++i) shift[i] = to_float(start.values[i]);
    for (int64_t row = first_row(); row < p.rows; row += row_step()) {
      const auto x = load<T, kWidth>(branch.x.data, row * branch.x.stride + channel);
      for (int i = 0; i < kWidth; ++i) {
        const float difference = to_float(x.values[i]) - shift[i];
        mean[i] += difference;
        squares[i] = fmaf(difference, difference, squares[i]);
      }
    }
  }
  const int64_t count = rows_of_block(p.rows, gridDim.x, blockDim.y, blockIdx.x);
  const float rows = static_cast<float>(count > 0 ? count : 1);
  store_pair<kWidth>(mean, squares, p.partial, p.columns, [&](int i) {
    const float offset = mean[i] / rows;
    squares[i] = fmaxf(0.f, squares[i] - mean[i] * offset);
    mean[i] = shift[i] + offset;
  });
}

// Combine the moments of blocks of `height` rows into mean and variance of all rows.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) statistics_kernel(
    const float* partial, int64_t parts, int64_t rows, int64_t height, int64_t columns,
    float* statistics) {
  __shared__ float shared[kWidth][kThreads];
  __shared__ float means[kWidth][kThreads];
  const int64_t column = first_column<kWidth>();
  const int64_t end = column < columns ? parts : 0;
  const float all = fmaxf(1.f, static_cast<float>(rows));

  float sum[kWidth] = {};  // of differences to the first block's mean
  for (int64_t part = threadIdx.y; part < end; part += blockDim.y) {
    const auto count = static_cast<float>(rows_of_block(rows, parts, height, part));
    const float* const mean = partial + part * 2 * columns + column;
    for (int i = 0; i < kWidth; ++i) {
      sum[i] = fmaf(count, mean[i] - partial[column + i], sum[i]);
    }
  }
  sum_over_rows<kWidth>(sum, shared);
  if (threadIdx.y == 0) {
    for (int i = 0; i < kWidth; ++i) {
      means[i][threadIdx.x] = (end > 0 ? partial[column + i] : 0.f) + sum[i] / all;
    }
  }
  __syncthreads();

  float squares[kWidth] = {};
  for (int64_t part = threadIdx.y; part < end; part += blockDim.y) {
    const auto count = static_cast<float>(rows_of_block(rows, parts, height, part));
    const float* const mean = partial + part * 2 * columns + column;
    for (int i = 0; i < kWidth; ++i) {
      const float offset = mean[i] - means[i][threadIdx.x];
      squares[i] += fmaf(count * offset, offset, mean[columns + i]);
    }
  }
  sum_over_rows<kWidth>(squares, shared);
  if (column >= columns || threadIdx.y != 0) return;
  for (int i = 0; i < kWidth; ++i) {
    statistics[column + i] = means[i][threadIdx.x];
    statistics[columns + column + i] = squares[i] / all;
  }
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
    bn_relu_concat_sums_kernel(const __grid_constant__ BatchNormSums p) {
  const int64_t column = first_column<kWidth>();
  float grad_bias[kWidth] = {}, grad_weight[kWidth] = {};
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
        grad_bias[i] += grad;
        grad_weight[i] = fmaf(grad, centered, grad_weight[i]);
      }
    }
    for (int i = 0; i < kWidth; ++i) grad_weight[i] *= norm.inverse[i];
  }
  store_pair<kWidth>(grad_bias, grad_weight, p.partial, p.columns, [](int) {});
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
  const int64_t parts = bias_partials(p.rows);
  int64_t height = 1;
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    if (p.rows == 0) return;
    const Shape shape = shape_for_sums(p.rows, p.columns, width);
    height = shape.block.y;
    launch("bn_relu_concat_moments", moments_kernel<decltype(value), width>, shape, stream, p);
  });
  launch(
      "bn_relu_concat_statistics", statistics_kernel<1>, shape_of(p.columns, 1, 1), stream,
      static_cast<const float*>(p.partial), parts, p.rows, height, p.columns,
      static_cast<float*>(p.statistics));
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
  for_access(dtype, can_vectorize_branches(dtype, p), [&](auto value, auto width) {
    if (p.rows == 0) return;
    launch(
        "bn_relu_concat_sums", bn_relu_concat_sums_kernel<decltype(value), width>,
        shape_for_sums(p.rows, p.columns, width), stream, p);
  });
  sum_partials(p.partial, bias_partials(p.rows), 2 * p.columns, p.sums, stream);
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
