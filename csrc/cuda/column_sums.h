// Sums of columns over all rows, or their mean and variance, in one launch and a fixed order.
//
// Each block stores its sums in a row of `partial`. Of every kGroup blocks the last one adds their
// rows; of every kGroup such blocks the last one adds what these stored, and so on. Which block it
// is does not change the order in which the rows are added.
#pragma once

#include "last_block.h"

namespace googlenet_fast {

constexpr int kGroup = kThreads / 8;  // two rounds add the sums of 1024 blocks

// Sums of kKinds kinds, each of kWidth adjacent columns.
template <int kWidthOf, int kKindsOf>
struct Sums {
  static constexpr int kWidth = kWidthOf, kKinds = kKindsOf, kFields = kKinds * kWidth;
  float fields[kFields] = {};  // kind by kind

  __device__ void set_rows(int64_t) {}
  __device__ void merge(const Sums& other) {
#pragma unroll
    for (int i = 0; i < kFields; ++i) fields[i] += other.fields[i];
  }
};

// Mean and sum of squared deviations from it, and the number of rows.
template <int kWidthOf>
struct Moments {
  static constexpr int kWidth = kWidthOf, kKinds = 2, kFields = 2 * kWidth + 1;
  float fields[kFields] = {};

  __device__ float& rows() { return fields[2 * kWidth]; }
  __device__ void set_rows(int64_t count) { rows() = static_cast<float>(count); }

  // Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
  // variances".
  __device__ void merge(const Moments& other) {
    const float own = rows(), more = other.fields[2 * kWidth], all = own + more;
    const float share = all > 0.f ? more / all : 0.f;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float distance = other.fields[i] - fields[i];
      fields[i] = fmaf(distance, share, fields[i]);
      fields[kWidth + i] += fmaf(distance, distance * (own * share), other.fields[kWidth + i]);
    }
    rows() = all;
  }
};

// Rows that the first blocks of a grid-stride loop have, in blocks of `height` rows.
struct RowsOfBlocks {
  int64_t blocks, height, turns, rest;

  __device__ RowsOfBlocks(int64_t rows, int64_t blocks, int64_t height)
      : blocks(blocks), height(height), turns(rows / (blocks * height)) {
    rest = rows - turns * blocks * height;
  }
  __device__ int64_t before(int64_t block) const {
    block = block < blocks ? block : blocks;
    const int64_t last = block * height;
    return turns * last + (last < rest ? last : rest);
  }
};

// Merge over threadIdx.y, a power of two: the result is in the threads whose threadIdx.y is 0.
template <typename Value>
__device__ inline void merge_threads(Value& value, float (*shared)[kThreads]) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < Value::kFields; ++i) shared[i][thread] = value.fields[i];
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half) {
      Value other;
#pragma unroll
      for (int i = 0; i < Value::kFields; ++i) {
        other.fields[i] = shared[i][thread + half * blockDim.x];
      }
      value.merge(other);
    }
    __syncthreads();
  }
}

// A row of results: its kinds, one after the other, of `columns` columns each.
template <typename Value>
__device__ inline void store_row(const Value& value, float* row, int64_t columns, int64_t column) {
  constexpr int kStep = Value::kWidth == 1 ? 1 : kVectorWidth<float>;
#pragma unroll
  for (int i = 0; i < Value::kKinds * Value::kWidth; i += kStep) {
    Vector<float, kStep> vector;
    for (int j = 0; j < kStep; ++j) vector.values[j] = value.fields[i + j];
    store<float, kStep>(row, i / Value::kWidth * columns + column + i % Value::kWidth, vector);
  }
}

template <typename Value>
__device__ inline Value load_row(const float* row, int64_t columns, int64_t column) {
  constexpr int kStep = Value::kWidth == 1 ? 1 : kVectorWidth<float>;
  Value value;
#pragma unroll
  for (int i = 0; i < Value::kKinds * Value::kWidth; i += kStep) {
    const auto vector =
        load<float, kStep>(row, i / Value::kWidth * columns + column + i % Value::kWidth);
    for (int j = 0; j < kStep; ++j) value.fields[i + j] = vector.values[j];
  }
  return value;
}

// What a launch that sums columns needs beside its own arguments.
struct ColumnSums {
  float* partial;  // (blocks over the rows, kinds, columns), and room for counters: partial_size
  int64_t rows;
  int64_t columns;
  Counters counters;
};

// Merge the values of all threads that share columns, and call finish(value) in the threads that
// store the results. All threads of all blocks must call it, those beyond the last column with
// values of no rows.
template <typename Value, typename F>
__device__ inline void merge_all(Value& value, const ColumnSums& sums, const F& finish) {
  __shared__ float shared[Value::kFields][kThreads];
  const int64_t column = first_column<Value::kWidth>(), row = Value::kKinds * sums.columns;
  const bool in_bounds = column < sums.columns;
  merge_threads(value, shared);
  // In each round `parts` values remain, of `step` blocks each; this block has number `part`.
  int64_t part = blockIdx.x, parts = gridDim.x, step = 1;
  unsigned* counter = sums.counters.get() + blockIdx.y;
  while (parts > 1) {
    if (in_bounds && threadIdx.y == 0) {
      store_row(value, sums.partial + part * step * row, sums.columns, column);
    }
    const int64_t groups = (parts + kGroup - 1) / kGroup, group = part / kGroup;
    const int64_t begin = group * kGroup;
    const int64_t end = begin + kGroup < parts ? begin + kGroup : parts;
    if (!is_last(counter + group * gridDim.y, end - begin)) return;
    const RowsOfBlocks rows(sums.rows, gridDim.x, blockDim.y);
    value = Value();
    for (int64_t i = begin + threadIdx.y; in_bounds && i < end; i += blockDim.y) {
      auto next = load_row<Value>(sums.partial + i * step * row, sums.columns, column);
      next.set_rows(rows.before((i + 1) * step) - rows.before(i * step));
      value.merge(next);
    }
    merge_threads(value, shared);
    counter += groups * gridDim.y;
    part = group, parts = groups, step *= kGroup;
  }
  if (in_bounds && threadIdx.y == 0) finish(value, column);
}

// One block over the rows per row of partial sums.
inline Shape shape_for_sums(int64_t rows, int64_t columns, int width) {
  return shape_of(columns, width, bias_partials(rows));
}

// For a launch of that shape.
inline ColumnSums column_sums(
    const Shape& shape, void* partial, int64_t rows, int64_t columns, int kinds,
    cudaStream_t stream) {
  int64_t count = 0;
  for (int64_t parts = shape.grid.x; parts > 1;) {
    parts = divide_up(parts, kGroup);
    count += parts * shape.grid.y;
  }
  float* const values = static_cast<float*>(partial);
  void* const spare = values + shape.grid.x * kinds * columns;
  return {values, rows, columns, zero_counters(count, spare, stream)};
}

// The sums of no rows.
inline void store_zeros(void* sums, int64_t count, cudaStream_t stream) {
  check(cudaMemsetAsync(sums, 0, count * sizeof(float), stream), "cudaMemsetAsync");
}

}  // namespace googlenet_fast
