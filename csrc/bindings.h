// What the bindings of the ops share. The file of an op in bindings/ checks its arguments,
// allocates its results and registers it on LibTorch's stable ABI, for the keys CPU and CUDA or one
// of them. The schemas are in googlenet_fast/ops.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace googlenet_fast {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::Double: return Dtype::kFloat64;
    default: STD_TORCH_CHECK(false, "the compiled kernels take fp16, bf16, fp32 and fp64 only");
  }
}

// Dtype of biases and of sums over values of `tensor`.
inline ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Elements from one pixel of (N, C, H, W) to the next, or nothing if pixels are not evenly spaced
// rows of adjacent channels. Slices of channels of a channels_last tensor are.
inline std::optional<int64_t> row_stride(const Tensor& x) {
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  const int64_t channels = sizes[1];
  int64_t stride = channels, step = 1;
  bool known = false;
  for (const int dim : {3, 2, 0}) {
    if (sizes[dim] != 1) {
      if (!known) stride = strides[dim];
      if (strides[dim] != stride * step) return std::nullopt;
      known = true;
    }
    step *= sizes[dim];
  }
  if ((channels != 1 && strides[1] != 1) || stride < channels) return std::nullopt;
  return stride;
}

// (N, C, H, W) as a matrix of N*H*W rows.
struct Rows {
  Tensor tensor;  // keeps `data` alive
  void* data;
  int64_t stride;
};

// Copies where pixels are not evenly spaced rows.
inline Rows rows_of(const Tensor& x) {
  if (const auto stride = row_stride(x); stride.has_value()) return {x, x.data_ptr(), *stride};
  const Tensor copy = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  return {copy, copy.data_ptr(), copy.size(1)};
}

inline Tensor empty_channels_last(const Tensor& like, int64_t channels) {
  const int64_t sizes[] = {like.size(0), channels, like.size(2), like.size(3)};
  return torch::stable::empty(
      sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
      MemoryFormat::ChannelsLast);
}

// Run the kernel that takes `p` on the device of `on`, in torch's current stream.
template <typename Parameters>
void run(const Tensor& on, const Parameters& p) {
#ifdef USE_CUDA
  if (on.is_cuda()) {
    if constexpr (requires(cudaStream_t stream) { run_cuda(Dtype(), p, stream); }) {
      void* stream = nullptr;
      const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
      STABLE_TORCH_ERROR_CODE_CHECK(
          aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
      return run_cuda(dtype_of(on), p, static_cast<cudaStream_t>(stream));
    }
  }
#endif
  if (on.is_cpu()) {
    if constexpr (requires { run_cpu(Dtype(), p); }) return run_cpu(dtype_of(on), p);
  }
  STD_TORCH_CHECK(false, "this op has no compiled kernel for the device of its argument");
}

}  // namespace googlenet_fast
