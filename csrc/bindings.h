// What the bindings of the ops share. The file of an op in bindings/ checks its arguments,
// allocates its results and registers it on LibTorch's stable ABI, for CPUs and GPUs or one of
// them. The schemas are in googlenet_fast/ops. The file is compiled for the CPU part and, with
// USE_CUDA, for the CUDA part, a library of its own.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels.h"

namespace googlenet_fast {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline constexpr std::array kAllFloats{
    ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double};

using Dtypes = std::span<const ScalarType>;
inline constexpr Dtypes kFloats = kAllFloats;
inline constexpr Dtypes kFloatsOnGpu = kFloats.first(3);
inline constexpr Dtypes kComputedInFp32 =
    kFloats.subspan(1, 2);  // by the CPU kernels of fp32 alone
inline constexpr Dtypes kFp32 = kFloats.subspan(2, 1);

// Whether an op's kernel for GPUs runs on x.
inline bool on_gpu([[maybe_unused]] const Tensor& x) {
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
  return true;
#else
  return !x.is_cpu();
#endif
}

// Dtypes of activations, given those that the kernel for CPUs takes.
inline Dtypes activation_dtypes(const Tensor& x, Dtypes on_cpu = kComputedInFp32) {
  return on_gpu(x) ? kFloatsOnGpu : on_cpu;
}

constexpr int64_t kAny = -1;  // a size that may be any

using Sizes = std::initializer_list<int64_t>;

// Whether the product of sizes is at most `most`, zeros counted as ones: an empty tensor has other
// sizes that kernels multiply.
template <typename List>
bool product_fits(const List& sizes, int64_t most) {
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size > most / product) return false;
    product *= std::max<int64_t>(size, 1);
  }
  return true;
}

// "(2, any, 3)"
template <typename List>
std::string text_of(const List& sizes) {
  std::string text;
  for (const int64_t size : sizes) {
    text += (text.empty() ? "" : ", ") + (size == kAny ? "any" : std::to_string(size));
  }
  return '(' + text + ')';
}

// Checks the arguments of an op. Errors name the op and the argument.
class Check {
 public:
  // Tensors must be on the device of `first`, activations of its dtype.
  Check(const char* op, const Tensor& first)
      : op_(op), device_(first.device()), dtype_(first.scalar_type()) {}

  // `must`: what is said of the argument if it does not hold, "be positive".
  template <typename... Parts>
  void that(bool holds, const char* name, const Parts&... must) const {
    if (holds) return;
    std::ostringstream message;
    message << op_ << ": " << name << " must ";
    (message << ... << must);
    throw std::runtime_error(message.str());
  }

  void tensor(const char* name, const Tensor& t, Dtypes dtypes, Sizes sizes) const {
    that(t.device() == device_, name, "be on the device of the op's first tensor");
    that(
        std::ranges::find(dtypes, t.scalar_type()) != dtypes.end(), name, "be of ",
        DtypeNames{dtypes}, ", not ", t.scalar_type());
    const auto actual = t.sizes();
    const bool same = std::equal(
        sizes.begin(), sizes.end(), actual.begin(), actual.end(),
        [](int64_t wanted, int64_t size) { return wanted == kAny || wanted == size; });
    if (!same) that(false, name, "be ", text_of(sizes), ", not ", text_of(actual));
    not_too_large(name, t);
  }

  // Products of the sizes of a few such tensors fit int64, and so do numbers of bytes.
  void not_too_large(const char* name, const Tensor& t) const {
    that(product_fits(t.sizes(), int64_t(1) << 46), name, "have at most 2^46 values");
  }

  void activation(const char* name, const Tensor& t, Sizes sizes) const {
    tensor(name, t, {&dtype_, 1}, sizes);
  }

  // (N, channels, H, W) of the same pixels.
  void same_pixels(const char* name, const Tensor& t, const Tensor& as, int64_t channels) const {
    activation(name, t, {as.size(0), channels, as.size(2), as.size(3)});
  }

  // (N, C, H, W), the op's first tensor.
  void image(const char* name, const Tensor& t, Dtypes on_cpu = kComputedInFp32) const {
    tensor(name, t, activation_dtypes(t, on_cpu), {kAny, kAny, kAny, kAny});
  }

  // One for each branch, of which there are 1 to `most`.
  void branches(const char* name, size_t count, size_t most) const {
    that(count >= 1 && count <= most, name, "be 1 to ", most, " branches, not ", count);
  }

  void one_per_branch(const char* name, size_t count, size_t branches) const {
    that(count == branches, name, "be ", branches, ", one per branch, not ", count);
  }

 private:
  struct DtypeNames {
    Dtypes dtypes;
    friend std::ostream& operator<<(std::ostream& stream, const DtypeNames& names) {
      for (size_t i = 0; i < names.dtypes.size(); ++i)
        stream << (i ? " or " : "") << names.dtypes[i];
      return stream;
    }
  };

  const char* op_;
  torch::stable::Device device_;
  ScalarType dtype_;
};

// Of a tensor that was checked.
inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Double: return Dtype::kFloat64;
    default: return Dtype::kFloat32;
  }
}

// Dtype of biases and of sums over values of `tensor`.
inline ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Whether the values fill an interval of memory, in any order of the dimensions.
inline bool is_dense(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dimensions;  // stride, size
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (t.size(i) != 1) dimensions.emplace_back(t.stride(i), t.size(i));
  }
  std::ranges::sort(dimensions);
  int64_t expected = 1;
  for (const auto& [stride, size] : dimensions) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Elements from one pixel of (N, C, H, W) to the next, or nothing if pixels are not evenly spaced
// rows of adjacent channels. Slices of channels of a channels_last tensor are.
inline std::optional<int64_t> row_stride(const Tensor& x) {
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  const int64_t channels = sizes[1];
  if (x.numel() == 0) return channels;  // its strides mean nothing, and may be any
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

// Calls into torch cost about a microsecond each, as much as a kernel on a small tensor: what has
// the dtype and the layout already is spared them.
inline Tensor as_dtype(const Tensor& x, ScalarType dtype) {
  return x.scalar_type() == dtype ? x : torch::stable::to(x, dtype);
}

// What a kernel of fp32 alone reads, of fp32 or bf16 given to it on a CPU; kernels for GPUs read
// any.
inline Tensor in_fp32_on_cpu(const Tensor& x) {
  return on_gpu(x) ? x : as_dtype(x, ScalarType::Float);
}

inline Tensor dense(const Tensor& x, ScalarType dtype) {
  const Tensor converted = as_dtype(x, dtype);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

inline Tensor dense_channels_last(const Tensor& x) {
  return row_stride(x) == x.size(1) ? x : torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
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

// A bias that was checked, as the kernels read it: dense, of the dtype of sums over x.
inline Tensor dense_bias(const Tensor& bias, const Tensor& x) {
  return dense(bias, accumulator_of(x));
}

// (K, C, T, T) as the kernels for CPUs read it: (K, T, T, C), dense, of fp32.
inline Tensor dense_weight(const Tensor& weight) {
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
#elif defined(USE_CUDA)
  if (on.is_cuda()) {
    if constexpr (requires(cudaStream_t stream) { run_cuda(Dtype(), p, stream); }) {
      void* stream = nullptr;
      const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
      STABLE_TORCH_ERROR_CODE_CHECK(
          aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
      return run_cuda(dtype_of(on), p, static_cast<cudaStream_t>(stream));
    }
  }
  STD_TORCH_CHECK(false, "this op has no CUDA kernel for the device of its argument");
#else
  if (on.is_cpu()) {
    if constexpr (requires { run_cpu(Dtype(), p); }) return run_cpu(dtype_of(on), p);
  }
  STD_TORCH_CHECK(false, "this op has no CPU kernel for the device of its argument");
#endif
}

}  // namespace googlenet_fast

// The namespace of the ops. A build for kernel hubs has its own, beside which others can be loaded.
#ifndef GOOGLENET_FAST_NAMESPACE
#define GOOGLENET_FAST_NAMESPACE googlenet_fast
#endif

// REGISTER_CPU(m) and REGISTER_CUDA(m) open the function that registers an op's kernels, for the
// key of that device; the part for the other device leaves them out. In the emulator of CUDA
// (tests/cuda_emulator) the kernels for GPUs take the place of those for CPUs.
#define GOOGLENET_FAST_LEAVE_OUT(m)             \
  [[maybe_unused]] static void C10_CONCATENATE( \
      googlenet_fast_left_out_, C10_UID)(torch::stable::detail::StableLibrary & m)
#if defined(GOOGLENET_FAST_CUDA_EMULATOR)
#define REGISTER_CPU(m) GOOGLENET_FAST_LEAVE_OUT(m)
#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(GOOGLENET_FAST_NAMESPACE, CPU, m)
#elif defined(USE_CUDA)
#define REGISTER_CPU(m) GOOGLENET_FAST_LEAVE_OUT(m)
#define REGISTER_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(GOOGLENET_FAST_NAMESPACE, CUDA, m)
#else
#define REGISTER_CPU(m) STABLE_TORCH_LIBRARY_IMPL(GOOGLENET_FAST_NAMESPACE, CPU, m)
#define REGISTER_CUDA(m) GOOGLENET_FAST_LEAVE_OUT(m)
#endif
