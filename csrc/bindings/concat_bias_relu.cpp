#include "../concat_bias_relu.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

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
