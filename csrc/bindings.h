// What the bindings of the ops share. The file of an op in bindings/ checks its arguments,
// allocates its results and registers it on LibTorch's stable ABI, for CPUs and GPUs or one of them.
// The schemas are in googlenet_fast/ops.
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
  Tensor tensor;  // keeps the data alive
  Matrix matrix;
};

// Copies where pixels are not evenly spaced rows.
inline Rows rows_of(const Tensor& x) {
  if (const auto stride = row_stride(x); stride.has_value()) return {x, {x.data_ptr(), *stride}};
  const Tensor copy = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  return {copy, {copy.data_ptr(), copy.size(1)}};
}

// Calls into torch cost about a microsecond each, as much as a kernel on a small tensor: what has the
// dtype and the layout already is spared them.
inline Tensor as_dtype(const Tensor& x, ScalarType dtype) {
  return x.scalar_type() == dtype ? x : torch::stable::to(x, dtype);
}

// What a kernel of fp32 alone reads, of fp32 or bf16 given to it on a CPU; kernels for GPUs read any.
inline Tensor in_fp32_on_cpu(const Tensor& x) {
#ifndef GOOGLENET_FAST_CUDA_EMULATOR
  if (x.is_cpu() && x.scalar_type() == ScalarType::BFloat16) {
    return torch::stable::to(x, ScalarType::Float);
  }
#endif
  return x;
}

inline Tensor dense(const Tensor& x, ScalarType dtype) {
  const Tensor converted = as_dtype(x, dtype);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

inline Tensor dense_channels_last(const Tensor& x) {
  return row_stride(x) == x.size(1) ? x
                                    : torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
}

// A dense channels_last tensor.
inline Matrix matrix_of(const Tensor& x) { return {x.data_ptr(), x.size(1)}; }

inline Tensor empty_channels_last(
    const Tensor& like, ScalarType dtype, int64_t channels, int64_t height, int64_t width) {
  const int64_t sizes[] = {like.size(0), channels, height, width};
  return torch::stable::empty(
      sizes, dtype, std::nullopt, like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

inline Tensor empty_channels_last(const Tensor& like, int64_t channels) {
  return empty_channels_last(like, like.scalar_type(), channels, like.size(2), like.size(3));
}

// For sums over values of `like`.
inline Tensor empty_sums(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::empty(sizes, accumulator_of(like), std::nullopt, like.device());
}

inline void check_same_pixels(const char* op, const Tensor& x, const Tensor& other) {
  STD_TORCH_CHECK(
      x.dim() == 4 && x.size(0) == other.size(0) && x.size(2) == other.size(2) &&
          x.size(3) == other.size(3),
      op, ": activations must be (N, C, H, W) and agree in all sizes but their channels");
  STD_TORCH_CHECK(
      x.scalar_type() == other.scalar_type(), op, ": activations of several dtypes");
  STD_TORCH_CHECK(x.device() == other.device(), op, ": activations on several devices");
}

// A bias as the kernels read it: dense, of the dtype of sums.
inline Tensor bias_of(const char* op, const Tensor& bias, const Tensor& x) {
  STD_TORCH_CHECK(
      bias.dim() == 1 && bias.size(0) == x.size(1), op, ": a bias must have one value per channel");
  STD_TORCH_CHECK(bias.device() == x.device(), op, ": a bias on another device");
  return dense(bias, accumulator_of(x));
}

// (K, C, T, T) as the kernels for CPUs read it: (K, T, T, C), dense, of fp32.
inline Tensor dense_weight(const char* op, const Tensor& weight) {
  STD_TORCH_CHECK(
      weight.dim() == 4 && weight.size(2) == weight.size(3), op, ": weights must be (K, C, T, T)");
  return dense_channels_last(as_dtype(weight, ScalarType::Float));
}

// Run the kernel that takes `p` on the device of `on`, in torch's current stream.
template <typename Parameters>
void run(const Tensor& on, const Parameters& p) {
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
  if constexpr (requires { run_cuda(Dtype(), p, nullptr); }) {
    return run_cuda(dtype_of(on), p, nullptr);
  }
  STD_TORCH_CHECK(false, "this op has no kernel for GPUs");
#else
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
#endif
}

}  // namespace googlenet_fast

// REGISTER_CPU(m) and REGISTER_CUDA(m) open the function that registers an op's kernels, for the
// key of that device. In the emulator of CUDA (tests/cuda_emulator) the kernels for GPUs take the
// place of those for CPUs; in a build without CUDA they stay out.
#define GOOGLENET_FAST_LEAVE_OUT(m)                                               \
  [[maybe_unused]] static void C10_CONCATENATE(googlenet_fast_left_out_, C10_UID)( \
      torch::stable::detail::StableLibrary& m)
#if defined(GOOGLENET_FAST_CUDA_EMULATOR)
#define REGISTER_CPU(m) GOOGLENET_FAST_LEAVE_OUT(m)
#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CPU, m)
#elif defined(USE_CUDA)
#define REGISTER_CPU(m) STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CPU, m)
#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CUDA, m)
#else
#define REGISTER_CPU(m) STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CPU, m)
#define REGISTER_CUDA(m) GOOGLENET_FAST_LEAVE_OUT(m)
#endif
