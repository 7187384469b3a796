// Batch normalisation with ReLU and concatenation, in four passes over memory.

#include "../bn_relu_concat.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"

namespace googlenet_fast {
namespace {

using cpu::Accumulator;
using cpu::dispatch;
using cpu::kGrain;
using cpu::row_of;
using torch::stable::parallel_for;

// A branch's constants, per channel.
template <typename A>
struct Constants {
  std::vector<A> mean, inverse, scale, bias;  // y = relu((x - mean) * scale + bias)
  std::vector<A> grad_mean, slope;            // mean of the masked gradient, and its slope over x

  Constants(const NormBranch& branch, double eps, double total)
      : mean(branch.channels), inverse(branch.channels), scale(branch.channels),
        bias(branch.channels), grad_mean(branch.channels), slope(branch.channels) {
    const auto at = [](const void* values, int64_t c) { return static_cast<const A*>(values)[c]; };
    for (int64_t c = 0; c < branch.channels; ++c) {
      mean[c] = at(branch.mean, c);
      inverse[c] = A(1) / std::sqrt(at(branch.variance, c) + static_cast<A>(eps));
      scale[c] = inverse[c] * at(branch.weight, c);
      bias[c] = at(branch.bias, c);
      if (branch.grad_bias == nullptr) continue;
      grad_mean[c] = at(branch.grad_bias, c) / static_cast<A>(total);
      slope[c] = at(branch.grad_weight, c) / static_cast<A>(total) * inverse[c];
    }
  }
};

template <typename A>
std::vector<Constants<A>> constants_of(const NormBranches& p, double total) {
  std::vector<Constants<A>> constants;
  for (int i = 0; i < p.count; ++i) constants.emplace_back(p.branches[i], p.eps, total);
  return constants;
}

// Call function(branch, row) for all rows of all branches, on all threads.
template <typename F>
void for_rows(const NormBranches& p, const F& function) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, p.columns));
  parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < p.count; ++i) function(i, row);
    }
  });
}

// The first row of partial sum k. It does not depend on the number of threads.
int64_t first_row(const NormBranches& p, int64_t k) { return k * p.rows / bias_partials(p.rows); }

// Call function(branch, a, b, begin, end) for each branch and each partial sum's rows, on all
// threads. a and b are sums per channel, which start from zero.
template <typename A, typename F>
void for_partials(const NormBranches& p, void* partial, const F& function) {
  parallel_for(0, bias_partials(p.rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      A* const sums = static_cast<A*>(partial) + k * 2 * p.columns;
      std::fill_n(sums, 2 * p.columns, A(0));
      for (int i = 0; i < p.count; ++i) {
        A* const first = sums + p.branches[i].begin;
        function(i, first, first + p.columns, first_row(p, k), first_row(p, k + 1));
      }
    }
  });
}

// Mean and sum of squared deviations of some rows. The first row is subtracted from all, so that a
// mean far from zero costs no digits.
template <typename T>
void moments(
    const NormBranch& branch, Accumulator<T>* __restrict mean, Accumulator<T>* __restrict squares,
    int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const T* const shift = row_of<T>(branch.x, begin);
  for (int64_t row = begin; row < end; ++row) {
    const T* const x = row_of<T>(branch.x, row);
    for (int64_t c = 0; c < branch.channels; ++c) {
      const A difference = static_cast<A>(x[c]) - static_cast<A>(shift[c]);
      mean[c] += difference;
      squares[c] += difference * difference;
    }
  }
  const A rows = static_cast<A>(end - begin);
  for (int64_t c = 0; c < branch.channels; ++c) {
    const A offset = mean[c] / rows;
    squares[c] = std::max(A(0), squares[c] - mean[c] * offset);
    mean[c] = static_cast<A>(shift[c]) + offset;
  }
}

template <typename T>
void statistics(const BatchNormStatistics& p) {
  using A = Accumulator<T>;
  for_partials<A>(p, p.partial, [&](int i, A* mean, A* squares, int64_t begin, int64_t end) {
    moments<T>(p.branches[i], mean, squares, begin, end);
  });

  const A* const partial = static_cast<const A*>(p.partial);
  A* const mean = static_cast<A*>(p.statistics);
  A* const variance = mean + p.columns;
  std::fill_n(mean, 2 * p.columns, A(0));
  const int64_t partials = bias_partials(p.rows);
  const auto rows_of_partial = [&](int64_t k) {
    return static_cast<A>(first_row(p, k + 1) - first_row(p, k));
  };
  for (int64_t k = 0; k < partials; ++k) {
    const A share = rows_of_partial(k) / static_cast<A>(p.rows);
    const A* const partial_mean = partial + k * 2 * p.columns;
    for (int64_t c = 0; c < p.columns; ++c) mean[c] += share * (partial_mean[c] - partial[c]);
  }
  for (int64_t c = 0; c < (partials ? p.columns : 0); ++c) mean[c] += partial[c];
  for (int64_t k = 0; k < partials; ++k) {
    const A rows = rows_of_partial(k);
    const A* const partial_mean = partial + k * 2 * p.columns;
    const A* const squares = partial_mean + p.columns;
    for (int64_t c = 0; c < p.columns; ++c) {
      const A offset = partial_mean[c] - mean[c];
      variance[c] += (squares[c] + rows * offset * offset) / static_cast<A>(p.rows);
    }
  }
}

template <typename T>
void forward(const BatchNormRelu& p) {
  using A = Accumulator<T>;
  const auto constants = constants_of<A>(p, 1);
  for_rows(p, [&](int i, int64_t row) {
    const T* const __restrict x = row_of<T>(p.branches[i].x, row);
    T* const __restrict y = row_of<T>(p.branches[i].out, row);
    const A* const __restrict mean = constants[i].mean.data();
    const A* const __restrict scale = constants[i].scale.data();
    const A* const __restrict bias = constants[i].bias.data();
    for (int64_t c = 0; c < p.branches[i].channels; ++c) {
      const A value = (static_cast<A>(x[c]) - mean[c]) * scale[c] + bias[c];
      y[c] = static_cast<T>(value < A(0) ? A(0) : value);  // keeps NaN
    }
  });
}

template <typename T>
void sums(const BatchNormSums& p) {
  using A = Accumulator<T>;
  const auto constants = constants_of<A>(p, 1);
  for_partials<A>(
      p, p.partial,
      [&](int i, A* __restrict grad_bias, A* __restrict grad_weight, int64_t begin, int64_t end) {
        const A* const __restrict mean = constants[i].mean.data();
        const A* const __restrict scale = constants[i].scale.data();
        const A* const __restrict bias = constants[i].bias.data();
        for (int64_t row = begin; row < end; ++row) {
          const T* const __restrict x = row_of<T>(p.branches[i].x, row);
          const T* const __restrict grad_y = row_of<T>(p.branches[i].grad, row);
          for (int64_t c = 0; c < p.branches[i].channels; ++c) {
            const A centered = static_cast<A>(x[c]) - mean[c];
            const A value = centered * scale[c] + bias[c];
            const A upstream =
                static_cast<A>(grad_y[c]);  // unconditional, or GCC does not vectorize
            const A grad = value <= A(0) ? A(0) : upstream;
            grad_bias[c] += grad;
            grad_weight[c] += grad * centered;
          }
        }
        for (int64_t c = 0; c < p.branches[i].channels; ++c)
          grad_weight[c] *= constants[i].inverse[c];
      });

  cpu::sum_partials(
      static_cast<const A*>(p.partial), bias_partials(p.rows), 2 * p.columns,
      static_cast<A*>(p.sums));
}

template <typename T>
void backward(const BatchNormBackward& p) {
  using A = Accumulator<T>;
  const auto constants = constants_of<A>(p, p.total);
  for_rows(p, [&](int i, int64_t row) {
    const T* const __restrict x = row_of<T>(p.branches[i].x, row);
    const T* const __restrict grad_y = row_of<T>(p.branches[i].grad, row);
    T* const __restrict grad_x = row_of<T>(p.branches[i].out, row);
    const A* const __restrict mean = constants[i].mean.data();
    const A* const __restrict scale = constants[i].scale.data();
    const A* const __restrict bias = constants[i].bias.data();
    const A* const __restrict grad_mean = constants[i].grad_mean.data();
    const A* const __restrict slope = constants[i].slope.data();
    for (int64_t c = 0; c < p.branches[i].channels; ++c) {
      const A centered = static_cast<A>(x[c]) - mean[c];
      const A value = centered * scale[c] + bias[c];
      const A upstream = static_cast<A>(grad_y[c]);
      const A grad = value <= A(0) ? A(0) : upstream;
      grad_x[c] = static_cast<T>(scale[c] * (grad - grad_mean[c] - centered * slope[c]));
    }
  });
}

}  // namespace

void run_cpu(Dtype dtype, const BatchNormStatistics& p) {
  dispatch(dtype, [&](auto value) { statistics<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const BatchNormRelu& p) {
  dispatch(dtype, [&](auto value) { forward<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const BatchNormSums& p) {
  dispatch(dtype, [&](auto value) { sums<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const BatchNormBackward& p) {
  dispatch(dtype, [&](auto value) { backward<decltype(value)>(p); });
}

}  // namespace googlenet_fast
