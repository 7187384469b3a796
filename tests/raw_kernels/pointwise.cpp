#include "../../csrc/concat_bias_relu.h"
#include "../../csrc/local_response_norm.h"
#include "arguments.h"

namespace googlenet_fast {
namespace {

Check check_of(const char* kernel, const char* name, const Arrays& branches) {
  const size_t count = branches.size();
  if (count < 1 || count > kMaxBranches)
    throw py::value_error(std::string(kernel) + ": " + name + " must be 1 to 4 branches");
  return {kernel, name, branches[0], OnCpu::kAll};
}

int64_t channels_of(const Array& a) { return a.ndim() == 4 ? a.shape(3) : 0; }

// out = relu(x + bias), each branch into its own array, which may be a slice.
void concat_bias_relu(Arrays branches, Arrays biases, bool relu, Arrays outs) {
  const Check check = check_of("concat_bias_relu", "branches", branches);
  check.one_each("outs", outs.size(), branches.size());
  if (!biases.empty()) check.one_each("biases", biases.size(), branches.size());
  ConcatBiasRelu p{};
  for (size_t i = 0; i < branches.size(); ++i) {
    const int64_t channels = channels_of(branches[i]);
    check.that(biases.empty() || channels > 0, "branches", "have channels if they have biases");
    const void* const bias =
        biases.empty() ? nullptr : check.values("biases", biases[i], {channels});
    p.branches[p.count++] = {
        check.read("branches", branches[i], channels), check.write("outs", outs[i], channels),
        channels, p.columns, bias};
    p.columns += channels;
  }
  p.rows = check.pixels();
  p.relu = relu;
  run(check.dtype(), p);
}

// outs = grads where outputs > 0; grad_bias of all branches, end to end. No outputs: without ReLU.
void concat_bias_relu_backward(
    Arrays grads, Arrays outputs, Arrays outs, Optional partial, Optional grad_bias) {
  const Check check = check_of("concat_bias_relu_backward", "grads", grads);
  check.one_each("outs", outs.size(), grads.size());
  if (!outputs.empty()) check.one_each("outputs", outputs.size(), grads.size());
  ConcatBiasReluBackward p{};
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t channels = channels_of(grads[i]);
    const Matrix y = outputs.empty() ? Matrix{} : check.read("outputs", outputs[i], channels);
    p.branches[p.count++] = {
        check.read("grads", grads[i], channels), y, check.write("outs", outs[i], channels),
        channels, p.columns};
    p.columns += channels;
  }
  p.rows = check.pixels();
  check.that(partial.has_value() == grad_bias.has_value(), "partial", "be given with grad_bias");
  if (grad_bias.has_value()) {
    p.partial = check.values("partial", *partial, {partial_size(p.rows, p.columns)}, true);
    p.grad_bias = check.values("grad_bias", *grad_bias, {p.columns}, true);
  }
  run(check.dtype(), p);
}

Normalization normalization(
    const Check& check, const Array& x, int size, float alpha, float beta, float k) {
  check.that(size > 0, "size", "be positive");
  check.that(
      !kEmulatesCuda || size == kNormalizedChannels, "size", "be 5 channels on a GPU, not ", size);
  return {check.pixels(), x.shape(3), size, alpha, beta, k};
}

void local_response_norm(Array x, int size, float alpha, float beta, float k, Array y) {
  const Check check("local_response_norm", "x", x, OnCpu::kFloat32);
  const int64_t channels = x.shape(3);
  const LocalResponseNorm p{
      normalization(check, x, size, alpha, beta, k), check.read("x", x, channels),
      check.write("y", y, channels)};
  run(check.dtype(), p);
}

void local_response_norm_backward(
    Array grad_y, Array x, int size, float alpha, float beta, float k, Array grad_x) {
  const Check check("local_response_norm_backward", "x", x, OnCpu::kFloat32);
  const int64_t channels = x.shape(3);
  const LocalResponseNormBackward p{
      normalization(check, x, size, alpha, beta, k), check.read("grad_y", grad_y, channels),
      check.read("x", x, channels), check.write("grad_x", grad_x, channels)};
  run(check.dtype(), p);
}

}  // namespace

void bind_pointwise(py::module_& m) {
  using py::arg, py::none;
  m.def(
      "concat_bias_relu", &concat_bias_relu, arg("branches"), arg("biases"), arg("relu"),
      arg("outs"));
  m.def(
      "concat_bias_relu_backward", &concat_bias_relu_backward, arg("grads"), arg("outputs"),
      arg("outs"), arg("partial") = none(), arg("grad_bias") = none());
  m.def(
      "local_response_norm", &local_response_norm, arg("x"), arg("size"), arg("alpha"), arg("beta"),
      arg("k"), arg("y"));
  m.def(
      "local_response_norm_backward", &local_response_norm_backward, arg("grad_y"), arg("x"),
      arg("size"), arg("alpha"), arg("beta"), arg("k"), arg("grad_x"));
}

}  // namespace googlenet_fast
