// The ops as torch sees them: checks, allocation, and registration on LibTorch's stable ABI.
// Their schemas are in googlenet_fast/ops.

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
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::Double: return Dtype::kFloat64;
    default: STD_TORCH_CHECK(false, "concat_bias_relu takes fp16, bf16, fp32 and fp64 only");
  }
}

ScalarType accumulator_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Elements from one pixel of (N, C, H, W) to the next, or nothing if pixels are not evenly spaced
// rows of adjacent channels. Slices of channels of a channels_last tensor are.
std::optional<int64_t> row_stride(const Tensor& x) {
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

struct Rows {
  Tensor tensor;  // keeps `data` alive
  void* data;
  int64_t stride;
};

Rows rows_of(const Tensor& x) {
  if (const auto stride = row_stride(x); stride.has_value()) return {x, x.data_ptr(), *stride};
  const Tensor copy = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  return {copy, copy.data_ptr(), copy.size(1)};
}

Tensor empty_channels_last(const Tensor& like, int64_t channels) {
  const int64_t sizes[] = {like.size(0), channels, like.size(2), like.size(3)};
  return torch::stable::empty(
      sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
      MemoryFormat::ChannelsLast);
}

// Run the kernel that takes `p`, on the device of `on`.
template <typename Parameters>
void run(const Tensor& on, const Parameters& p) {
#ifdef USE_CUDA
  if (on.is_cuda()) {
    void* stream = nullptr;
    const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    return cuda::run(dtype_of(on), p, static_cast<cudaStream_t>(stream));
  }
#endif
  cpu::run(dtype_of(on), p);
}

void check_branch(const Tensor& branch, const Tensor& first) {
  STD_TORCH_CHECK(branch.dim() == 4, "concat_bias_relu: branches must be (N, C, H, W)");
  STD_TORCH_CHECK(
      branch.size(0) == first.size(0) && branch.size(2) == first.size(2) &&
          branch.size(3) == first.size(3),
      "concat_bias_relu: branches must agree in all sizes but their channels");
  STD_TORCH_CHECK(
      branch.scalar_type() == first.scalar_type(), "concat_bias_relu: branches of several dtypes");
  STD_TORCH_CHECK(
      branch.device() == first.device(), "concat_bias_relu: branches on several devices");
}

Tensor bias_of(const Tensor& bias, const Tensor& branch) {
  STD_TORCH_CHECK(
      bias.dim() == 1 && bias.size(0) == branch.size(1),
      "concat_bias_relu: a bias must have one value per channel of its branch");
  STD_TORCH_CHECK(
      bias.device() == branch.device(), "concat_bias_relu: a bias on another device");
  return torch::stable::contiguous(torch::stable::to(bias, accumulator_of(branch)));
}

Tensor concat_bias_relu(std::vector<Tensor> branches, std::vector<Tensor> biases, bool relu) {
  STD_TORCH_CHECK(
      !branches.empty() && branches.size() <= kMaxBranches, "concat_bias_relu: takes 1 to ",
      kMaxBranches, " branches, not ", branches.size());
  STD_TORCH_CHECK(
      biases.empty() || biases.size() == branches.size(),
      "concat_bias_relu: give a bias for each branch or for none");
  const Tensor& first = branches[0];

  std::vector<Tensor> keep;
  ConcatBiasRelu p{};
  for (const Tensor& branch : branches) {
    check_branch(branch, first);
    const Rows rows = rows_of(branch);
    const void* bias = nullptr;
    keep.push_back(rows.tensor);
    if (!biases.empty()) {
      keep.push_back(bias_of(biases[p.count], branch));
      bias = keep.back().data_ptr();
    }
    p.branches[p.count++] = {rows.data, rows.stride, branch.size(1), p.columns, bias};
    p.columns += branch.size(1);
  }
  const Tensor y = empty_channels_last(first, p.columns);
  p.rows = first.size(0) * first.size(2) * first.size(3);
  p.y = y.data_ptr();
  p.relu = relu;
  run(first, p);
  return y;
}

std::tuple<std::vector<Tensor>, Tensor> concat_bias_relu_backward(
    Tensor grad_y, std::optional<Tensor> y, std::vector<int64_t> channels, bool bias) {
  STD_TORCH_CHECK(
      !channels.empty() && channels.size() <= kMaxBranches,
      "concat_bias_relu_backward: takes 1 to ", kMaxBranches, " branches, not ", channels.size());
  STD_TORCH_CHECK(grad_y.dim() == 4, "concat_bias_relu_backward: grad_y must be (N, C, H, W)");

  const Rows grad_rows = rows_of(grad_y);
  ConcatBiasReluBackward p{};
  std::vector<Tensor> grads;
  for (const int64_t count : channels) {
    grads.push_back(empty_channels_last(grad_y, count));
    p.branches[p.count++] = {grads.back().data_ptr(), count, count, p.columns, nullptr};
    p.columns += count;
  }
  STD_TORCH_CHECK(
      p.columns == grad_y.size(1), "concat_bias_relu_backward: channels must add up to grad_y's");
  p.rows = grad_y.size(0) * grad_y.size(2) * grad_y.size(3);
  p.grad_y = grad_rows.data;
  p.grad_y_stride = grad_rows.stride;

  std::optional<Tensor> y_rows;
  if (y.has_value()) {
    check_branch(*y, grad_y);
    STD_TORCH_CHECK(y->size(1) == p.columns, "concat_bias_relu_backward: y is not of grad_y's size");
    y_rows = torch::stable::contiguous(*y, MemoryFormat::ChannelsLast);
    p.y = y_rows->data_ptr();
  }
  const auto allocate = [&](std::vector<int64_t> sizes) {
    return torch::stable::empty(sizes, accumulator_of(grad_y), std::nullopt, grad_y.device());
  };
  const Tensor partial = allocate({bias ? bias_partials(p.rows) : 0, p.columns});
  const Tensor grad_bias = allocate({bias ? p.columns : 0});
  if (bias) {
    p.partial = partial.data_ptr();
    p.grad_bias = grad_bias.data_ptr();
  }
  run(grad_y, p);
  return {grads, grad_bias};
}

}  // namespace
}  // namespace googlenet_fast

// What the build wants remembered, as JSON; read by googlenet_fast/ops/extension.py.
extern "C" __attribute__((visibility("default"))) const char* googlenet_fast_build_info() { return GOOGLENET_FAST_BUILD_INFO; }

STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CPU, m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
}

#ifdef USE_CUDA
STABLE_TORCH_LIBRARY_IMPL(googlenet_fast, CUDA, m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
}
#endif
