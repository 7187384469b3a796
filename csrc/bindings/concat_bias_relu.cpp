#include "../concat_bias_relu.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

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
    check_same_pixels("concat_bias_relu", branch, first);
    const Rows rows = rows_of(branch);
    const void* bias = nullptr;
    keep.push_back(rows.tensor);
    if (!biases.empty()) {
      keep.push_back(bias_of("concat_bias_relu", biases[p.count], branch));
      bias = keep.back().data_ptr();
    }
    p.branches[p.count++] = {rows.matrix.data, rows.matrix.stride, branch.size(1), p.columns, bias};
    p.columns += branch.size(1);
  }
  const Tensor y = empty_channels_last(first, p.columns);
  p.rows = first.size(0) * first.size(2) * first.size(3);
  p.y = matrix_of(y);
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
  p.grad_y = grad_rows.matrix;

  std::optional<Rows> y_rows;
  if (y.has_value()) {
    check_same_pixels("concat_bias_relu_backward", *y, grad_y);
    STD_TORCH_CHECK(y->size(1) == p.columns, "concat_bias_relu_backward: y is not of grad_y's size");
    y_rows = rows_of(*y);
    p.y = y_rows->matrix;
  }
  const Tensor partial = empty_sums(grad_y, {bias ? bias_partials(p.rows) : 0, p.columns});
  const Tensor grad_bias = empty_sums(grad_y, {bias ? p.columns : 0});
  if (bias) {
    p.partial = partial.data_ptr();
    p.grad_bias = grad_bias.data_ptr();
  }
  run(grad_y, p);
  return {grads, grad_bias};
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
}

REGISTER_CUDA(m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
}
