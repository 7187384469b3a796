#include "../concat_bias_relu.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

Tensor concat_bias_relu(std::vector<Tensor> branches, std::vector<Tensor> biases, bool relu) {
  const Check check("concat_bias_relu", branches.empty() ? biases.at(0) : branches[0]);
  check.branches("branches", branches.size(), kMaxBranches);
  if (!biases.empty()) check.one_per_branch("biases", biases.size(), branches.size());
  const Tensor& first = branches[0];
  check.image("branches", first, kFloats);

  std::vector<Tensor> keep;
  ConcatBiasRelu p{};
  for (size_t i = 0; i < branches.size(); ++i) {
    const Tensor& branch = branches[i];
    check.same_pixels("branches", branch, first, kAny);
    if (!biases.empty()) check.tensor("biases", biases[i], kFloats, {branch.size(1)});
    if (branch.size(1) == 0) continue;  // its bias is null, which means none to the kernel
    const Rows rows = rows_of(branch);
    const void* bias = nullptr;
    keep.push_back(rows.tensor);
    if (!biases.empty()) {
      keep.push_back(dense_bias(biases[i], branch));
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
  const Check check("concat_bias_relu_backward", grad_y);
  check.image("grad_y", grad_y, kFloats);
  const int64_t all = grad_y.size(1);
  if (y.has_value()) check.same_pixels("y", *y, grad_y, all);
  check.branches("channels", channels.size(), kMaxBranches);
  int64_t rest = all;
  for (const int64_t count : channels) {
    check.that(count >= 0 && count <= rest, "channels", "add up to those of grad_y");
    rest -= count;
  }
  check.that(rest == 0, "channels", "add up to those of grad_y");

  const Rows grad_rows = rows_of(grad_y);
  ConcatBiasReluBackward p{};
  std::vector<Tensor> grads;
  for (const int64_t count : channels) {
    grads.push_back(empty_channels_last(grad_y, count));
    p.branches[p.count++] = {grads.back().data_ptr(), count, count, p.columns, nullptr};
    p.columns += count;
  }
  p.rows = grad_y.size(0) * grad_y.size(2) * grad_y.size(3);
  p.grad_y = grad_rows.matrix;

  std::optional<Rows> y_rows;
  if (y.has_value()) {
    y_rows = rows_of(*y);
    p.y = y_rows->matrix;
  }
  const Tensor partial = empty_sums(grad_y, {bias ? partial_size(p.rows, p.columns) : 0});
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
