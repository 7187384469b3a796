// Local response normalisation and its gradient; each tensor is read or written once.
//
// A thread computes a few adjacent channels of a pixel. It loads the neighbouring channels by the
// same wide accesses as their own threads do, so they hit L1.

#include <cfloat>
#include <cmath>

#include "../local_response_norm.h"
#include "launch.h"

namespace googlenet_fast {
namespace {

constexpr int kBefore = kNormalizedChannels / 2;
constexpr int kAfter = (kNormalizedChannels - 1) / 2;
static_assert(kBefore == kAfter, "windows are symmetric");

// Channels first - kMargin to first + kWidth + kMargin of a row; zero beyond the first and last.
template <typename T, int kWidth, int kMargin>
__device__ inline void load_around(
    const Matrix& x, int64_t row, int64_t first, int64_t channels,
    float (&values)[kWidth + 2 * kMargin]) {
  constexpr int kVectors = (kMargin + kWidth - 1) / kWidth;  // on either side
#pragma unroll
  for (int v = -kVectors; v <= kVectors; ++v) {
    const int64_t channel = first + v * kWidth;
    Vector<T, kWidth> vector{};
    if (channel >= 0 && channel < channels) {
      vector = load<T, kWidth>(x.data, row * x.stride + channel);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const int k = kMargin + v * kWidth + i;
      if (k >= 0 && k < kWidth + 2 * kMargin) values[k] = to_float(vector.values[i]);
    }
  }
}

// Powers of a positive s: `scale` is s^-beta, over_s(v) is v / s.
struct AnyBeta {
  float s, scale;
  __device__ AnyBeta(float s, float beta) : s(s), scale(exp2f(-beta * log2f(s))) {}
  __device__ float over_s(float v) const { return v / s; }
};

// The same of beta = 3/4, that of every published network: s^-1/2 * s^-1/4, by two instructions for
// reciprocal roots (2 ulp each) in place of a logarithm, a power and a division.
struct ThreeQuarters {
  float root, scale;
  __device__ ThreeQuarters(float s, float) : root(rsqrtf(s)) {
    const float fourth = root * rsqrtf(fmaxf(root, FLT_MIN));  // s^-1/4, 0 of an infinite s
    scale = root * fourth;
  }
  __device__ float over_s(float v) const { return v * root * root; }
};

// s of the channel at values[kBefore].
__device__ inline float divisor(const Normalization& norm, const float* values) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kNormalizedChannels; ++i) sum += values[i] * values[i];
  return norm.k + norm.alpha / kNormalizedChannels * sum;
}

template <typename T, int kWidth, typename Beta>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_kernel(const __grid_constant__ LocalResponseNorm p) {
  const Normalization& norm = p.norm;
  const int64_t channel = first_column<kWidth>();
  if (channel >= norm.channels) return;
  for (int64_t row = first_row(); row < norm.rows; row += row_step()) {
    float x[kWidth + 2 * kBefore];
    load_around<T, kWidth, kBefore>(p.x, row, channel, norm.channels, x);
    Vector<T, kWidth> y;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const Beta power(divisor(norm, x + i), norm.beta);
      y.values[i] = from_float<T>(x[kBefore + i] * power.scale);
    }
    store<T, kWidth>(p.y.data, row * p.y.stride + channel, y);
  }
}

template <typename T, int kWidth, typename Beta>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_backward_kernel(const __grid_constant__ LocalResponseNormBackward p) {
  constexpr int kReach = kBefore + kAfter;
  const Normalization& norm = p.norm;
  const int64_t channel = first_column<kWidth>();
  if (channel >= norm.channels) return;
  const float factor = 2.f * norm.alpha * norm.beta / kNormalizedChannels;

  for (int64_t row = first_row(); row < norm.rows; row += row_step()) {
    float x[kWidth + 2 * kReach];
    float grad[kWidth + 2 * kAfter];
    load_around<T, kWidth, kReach>(p.x, row, channel, norm.channels, x);
    load_around<T, kWidth, kAfter>(p.grad_y, row, channel, norm.channels, grad);
    // Of the channels from kAfter before the thread's own to kBefore after them.
    float scaled[kWidth + kReach];  // grad_y * s^-beta
    float term[kWidth + kReach];    // grad_y * x * s^(-beta - 1)
#pragma unroll
    for (int i = 0; i < kWidth + kReach; ++i) {
      const Beta power(divisor(norm, x + i), norm.beta);
      scaled[i] = grad[i] * power.scale;
      term[i] = power.over_s(scaled[i] * x[kBefore + i]);
    }
    Vector<T, kWidth> grad_x;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < kNormalizedChannels; ++j) sum += term[i + j];
      grad_x.values[i] = from_float<T>(scaled[kAfter + i] - factor * x[kReach + i] * sum);
    }
    store<T, kWidth>(p.grad_x.data, row * p.grad_x.stride + channel, grad_x);
  }
}

// Call function(type) with std::type_identity of what computes the powers.
template <typename F>
void for_beta(float beta, const F& function) {
  if (beta == 0.75f) return function(std::type_identity<ThreeQuarters>());
  function(std::type_identity<AnyBeta>());
}

}  // namespace

void run_cuda(Dtype dtype, const LocalResponseNorm& p, cudaStream_t stream) {
  const int64_t rows = p.norm.rows, channels = p.norm.channels;
  if (rows == 0 || channels == 0) return;
  const bool vectorize = can_vectorize(dtype, p.x, channels) && can_vectorize(dtype, p.y, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    for_beta(p.norm.beta, [&](auto beta) {
      launch(
          "local_response_norm",
          local_response_norm_kernel<decltype(value), width, typename decltype(beta)::type>,
          shape_for_rows(rows, channels, width), stream, p);
    });
  });
}

void run_cuda(Dtype dtype, const LocalResponseNormBackward& p, cudaStream_t stream) {
  const int64_t rows = p.norm.rows, channels = p.norm.channels;
  if (rows == 0 || channels == 0) return;
  const bool vectorize = can_vectorize(dtype, p.grad_y, channels) &&
                         can_vectorize(dtype, p.x, channels) &&
                         can_vectorize(dtype, p.grad_x, channels);
  for_access(dtype, vectorize, [&](auto value, auto width) {
    for_beta(p.norm.beta, [&](auto beta) {
      launch(
          "local_response_norm_backward",
          local_response_norm_backward_kernel<
              decltype(value), width, typename decltype(beta)::type>,
          shape_for_rows(rows, channels, width), stream, p);
    });
  });
}

}  // namespace googlenet_fast
