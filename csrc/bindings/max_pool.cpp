#include "../max_pool.h"

#include "pooling.h"

namespace googlenet_fast {
namespace {

PoolShape shape_of(const Check& check, const char* name, const Tensor& x) {
  return pool_shape(check, name, x, x.size(2), x.size(3), x.size(2), x.size(3));
}

std::tuple<Tensor, std::optional<Tensor>> forward(
    const char* op, const Tensor& given, bool training) {
  const Check check(op, given);
  check.image("x", given);
  MaxPool p{};
  p.shape = shape_of(check, "x", given);
  const Tensor x = in_fp32_on_cpu(given);
  const Rows rows = rows_of(x);
  p.x = rows.matrix;
  const Tensor y = empty_channels_last(x, x.size(1));
  p.y = matrix_of(y);
  std::optional<Tensor> index;
  if (training) {
    index = empty_channels_last(x, ScalarType::Byte, x.size(1), x.size(2), x.size(3));
    p.index = static_cast<uint8_t*>(index->data_ptr());
  }
  run(x, p);
  return {as_dtype(y, given.scalar_type()), index};
}

Tensor max_pool(Tensor x) { return std::get<0>(forward("max_pool", x, false)); }

std::tuple<Tensor, Tensor> max_pool_training(Tensor x) {
  const auto [y, index] = forward("max_pool_training", x, true);
  return {y, *index};
}

Tensor max_pool_backward(Tensor given, Tensor index, std::optional<Tensor> add_to) {
  const Check check("max_pool_backward", given);
  check.image("grad_y", given);
  MaxPoolBackward p{};
  p.shape = shape_of(check, "grad_y", given);
  const Tensor dense = dense_index(check, index, given);
  std::optional<Rows> added;
  if (add_to.has_value()) {
    check.same_pixels("add_to", *add_to, given, given.size(1));
    added = rows_of(in_fp32_on_cpu(*add_to));
    p.add_to = added->matrix;
  }
  const Tensor grad_y = in_fp32_on_cpu(given);
  const Rows grad_rows = rows_of(grad_y);
  const Tensor grad_x = empty_channels_last(grad_y, grad_y.size(1));
  p.grad_y = grad_rows.matrix;
  p.index = static_cast<const uint8_t*>(dense.data_ptr());
  p.grad_x = matrix_of(grad_x);
  run(grad_y, p);
  return as_dtype(grad_x, given.scalar_type());
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("max_pool", TORCH_BOX(&googlenet_fast::max_pool));
  m.impl("max_pool_training", TORCH_BOX(&googlenet_fast::max_pool_training));
  m.impl("max_pool_backward", TORCH_BOX(&googlenet_fast::max_pool_backward));
}

REGISTER_CUDA(m) {
  m.impl("max_pool", TORCH_BOX(&googlenet_fast::max_pool));
  m.impl("max_pool_training", TORCH_BOX(&googlenet_fast::max_pool_training));
  m.impl("max_pool_backward", TORCH_BOX(&googlenet_fast::max_pool_backward));
}
