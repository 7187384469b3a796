#include "../concat_bias_relu.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

using Tensors = std::vector<Tensor>;

// Results of the kernel: one tensor of all branches, or one for each.
template <typename Parameters>
Tensors allocate(const Tensor& like, bool concatenate, Parameters& p) {
  Tensors results;
  if (concatenate) results.push_back(empty_channels_last(like, p.columns));
  for (int i = 0; i < p.count; ++i) {
    auto& branch = p.branches[i];
    if (!concatenate) results.push_back(empty_channels_last(like, branch.channels));
    branch.out = matrix_of(results.back());
    const int64_t bytes = branch.begin * like.element_size();
    if (concatenate) branch.out.data = static_cast<char*>(branch.out.data) + bytes;
  }
  return results;
}

// A branch without channels has no bias, which would mean to the kernel that no branch has.
void leave_out_empty(ConcatBiasRelu& p) {
  Branch* const end = std::remove_if(
      p.branches, p.branches + p.count, [](const Branch& branch) { return branch.channels == 0; });
  p.count = static_cast<int>(end - p.branches);
}

Tensors forward(
    const char* op, const Tensors& branches, const Tensors& biases, bool relu, bool concatenate) {
  const Check check(op, branches.empty() ? biases.at(0) : branches[0]);
  check.branches("branches", branches.size(), kMaxBranches);
  if (!biases.empty()) check.one_per_branch("biases", biases.size(), branches.size());
  const Tensor& first = branches[0];
  check.image("branches", first, kFloats);

  Tensors keep;
  ConcatBiasRelu p{};
  for (size_t i = 0; i < branches.size(); ++i) {
    const int64_t channels = branches[i].size(1);
    check.same_pixels("branches", branches[i], first, kAny);
    if (!biases.empty()) {
      check.tensor("biases", biases[i], kFloats, {channels});
      keep.push_back(dense_bias(biases[i], first));
    }
    const void* const bias = biases.empty() ? nullptr : keep.back().data_ptr();
    const Rows rows = rows_of(branches[i]);
    keep.push_back(rows.tensor);
    p.branches[p.count++] = {rows.matrix, {}, channels, p.columns, bias};
    p.columns += channels;
  }
  p.rows = first.size(0) * first.size(2) * first.size(3);
  p.relu = relu;
  const Tensors results = allocate(first, concatenate, p);
  leave_out_empty(p);
  run(first, p);
  return results;
}

Tensor concat_bias_relu(Tensors branches, Tensors biases, bool relu) {
  return forward("concat_bias_relu", branches, biases, relu, true)[0];
}

Tensors bias_relu(Tensors branches, Tensors biases, bool relu) {
  return forward("bias_relu", branches, biases, relu, false);
}

// Run the kernel on branches that have their gradients and outputs; returns also the sums.
std::tuple<Tensors, Tensor> backward(
    const Tensor& like, ConcatBiasReluBackward& p, bool bias, bool concatenate) {
  p.rows = like.size(0) * like.size(2) * like.size(3);
  const Tensors results = allocate(like, concatenate, p);
  const Tensor partial = empty_sums(like, {bias ? partial_size(p.rows, p.columns) : 0});
  const Tensor grad_bias = empty_sums(like, {bias ? p.columns : 0});
  if (bias) {
    p.partial = partial.data_ptr();
    p.grad_bias = grad_bias.data_ptr();
  }
  run(like, p);
  return {results, grad_bias};
}

// Columns of a matrix from `column` on; of null, null.
Matrix columns_from(const Tensor& like, const Matrix& matrix, int64_t column) {
  if (matrix.data == nullptr) return matrix;
  return {static_cast<char*>(matrix.data) + column * like.element_size(), matrix.stride};
}

std::tuple<Tensors, Tensor> concat_bias_relu_backward(
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
  const std::optional<Rows> y_rows = y.has_value() ? std::optional(rows_of(*y)) : std::nullopt;
  const Matrix y_matrix = y_rows.has_value() ? y_rows->matrix : Matrix{};
  ConcatBiasReluBackward p{};
  for (const int64_t count : channels) {
    p.branches[p.count++] = {
        columns_from(grad_y, grad_rows.matrix, p.columns),
        columns_from(grad_y, y_matrix, p.columns),
        {},
        count,
        p.columns};
    p.columns += count;
  }
  return backward(grad_y, p, bias, false);
}

std::tuple<Tensors, Tensor> bias_relu_backward(
    Tensors grads, Tensors outputs, bool bias, bool concatenate) {
  const Check check("bias_relu_backward", grads.empty() ? outputs.at(0) : grads[0]);
  check.branches("grads", grads.size(), kMaxBranches);
  check.that(outputs.size() <= grads.size(), "outputs", "be at most one per branch");
  const Tensor& first = grads[0];
  check.image("grads", first, kFloats);

  Tensors keep;
  const auto rows = [&keep](const Tensor& x) {
    const Rows found = rows_of(x);
    keep.push_back(found.tensor);
    return found.matrix;
  };
  ConcatBiasReluBackward p{};
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t channels = grads[i].size(1);
    check.same_pixels("grads", grads[i], first, kAny);
    GradBranch& branch = p.branches[p.count++];
    branch = {rows(grads[i]), {}, {}, channels, p.columns};
    p.columns += channels;
    if (i >= outputs.size()) continue;
    check.same_pixels("outputs", outputs[i], first, channels);
    branch.y = rows(outputs[i]);
  }
  return backward(first, p, bias, concatenate);
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
  m.impl("bias_relu", TORCH_BOX(&googlenet_fast::bias_relu));
  m.impl("bias_relu_backward", TORCH_BOX(&googlenet_fast::bias_relu_backward));
}

REGISTER_CUDA(m) {
  m.impl("concat_bias_relu", TORCH_BOX(&googlenet_fast::concat_bias_relu));
  m.impl("concat_bias_relu_backward", TORCH_BOX(&googlenet_fast::concat_bias_relu_backward));
  m.impl("bias_relu", TORCH_BOX(&googlenet_fast::bias_relu));
  m.impl("bias_relu_backward", TORCH_BOX(&googlenet_fast::bias_relu_backward));
}
