#include "../bn_relu_pool.h"

#include <cmath>

#include "pooling.h"

namespace googlenet_fast {
namespace {

// Arguments of the three ops for the kernels, and what they point to.
template <typename Parameters>
struct NormedPool {
  Parameters p{};

  NormedPool(const char* op, const Tensor& x, const Tensor& statistics, double eps)
      : check_(op, x), x_(x) {
    check_.image("x", x, kFloats);
    p.x = rows(x);
    p.eps = eps;
    const ScalarType accumulator[] = {accumulator_of(x)};
    check_.tensor("statistics", statistics, accumulator, {2, x.size(1)});
    std::tie(p.mean, p.variance) = pair(statistics);
  }

  const Check& check() const { return check_; }

  const void* values(const char* name, const Tensor& tensor) {
    check_.tensor(name, tensor, kFloats, {x_.size(1)});
    keep_.push_back(dense_bias(tensor, x_));
    return keep_.back().data_ptr();
  }

  void pooled_to(const char* name, int64_t height, int64_t width) {
    p.shape = pool_shape(check_, name, x_, x_.size(2), x_.size(3), height, width);
  }

  void take_gradient(const Tensor& grad_y, const Tensor& index) {
    check_.activation("grad_y", grad_y, {x_.size(0), x_.size(1), kAny, kAny});
    check_pooled(check_, "x", x_.size(2), x_.size(3), grad_y.size(2), grad_y.size(3));
    pooled_to("x", grad_y.size(2), grad_y.size(3));
    keep_.push_back(dense_index(check_, index, grad_y));
    p.index = static_cast<const uint8_t*>(keep_.back().data_ptr());
    p.grad_y = rows(grad_y);
  }

  void take_sums(const Tensor& sums, double total) {
    const ScalarType accumulator[] = {accumulator_of(x_)};
    check_.tensor("sums", sums, accumulator, {2, x_.size(1)});
    check_.that(total > 0 && std::isfinite(total), "total", "be positive and finite");
    std::tie(p.grad_bias, p.grad_weight) = pair(sums);
    p.total = total;
  }

 private:
  Check check_;
  const Tensor& x_;
  std::vector<Tensor> keep_;

  Matrix rows(const Tensor& x) {
    const Rows found = rows_of(x);
    keep_.push_back(found.tensor);
    return found.matrix;
  }

  // The rows of a tensor of (2, channels).
  std::pair<const void*, const void*> pair(const Tensor& tensor) {
    keep_.push_back(dense(tensor, tensor.scalar_type()));
    const char* const first = static_cast<const char*>(keep_.back().data_ptr());
    return {first, first + x_.size(1) * tensor.element_size()};
  }
};

std::tuple<Tensor, Tensor> bn_relu_pool(
    Tensor x, Tensor statistics, Tensor weight, Tensor bias, double eps, bool ceil_mode) {
  NormedPool<BnReluPool> pool("bn_relu_pool", x, statistics, eps);
  pool.p.weight = pool.values("weight", weight);
  pool.p.bias = pool.values("bias", bias);
  const int64_t height = pooled_size(x.size(2), ceil_mode);
  const int64_t width = pooled_size(x.size(3), ceil_mode);
  pool.check().that(height > 0 && width > 0, "x", "be as large as a window");
  pool.pooled_to("x", height, width);
  const Tensor y = empty_channels_last(x, x.scalar_type(), x.size(1), height, width);
  const Tensor index = empty_channels_last(x, ScalarType::Byte, x.size(1), height, width);
  pool.p.y = matrix_of(y);
  pool.p.index = static_cast<uint8_t*>(index.data_ptr());
  run(x, pool.p);
  return {y, index};
}

Tensor bn_relu_pool_sums(Tensor grad_y, Tensor index, Tensor x, Tensor statistics, double eps) {
  NormedPool<BnReluPoolSums> pool("bn_relu_pool_sums", x, statistics, eps);
  pool.take_gradient(grad_y, index);
  const int64_t pixels = x.size(0) * x.size(2) * x.size(3);
  const Tensor partial = empty_sums(x, {partial_size(pixels, x.size(1), 2)});
  const Tensor sums = empty_sums(x, {2, x.size(1)});
  pool.p.partial = partial.data_ptr();
  pool.p.sums = sums.data_ptr();
  run(x, pool.p);
  return sums;
}

Tensor bn_relu_pool_backward(
    Tensor grad_y, Tensor index, Tensor x, Tensor statistics, Tensor weight, double eps,
    Tensor sums, double total) {
  NormedPool<BnReluPoolBackward> pool("bn_relu_pool_backward", x, statistics, eps);
  pool.p.weight = pool.values("weight", weight);
  pool.take_gradient(grad_y, index);
  pool.take_sums(sums, total);
  const Tensor grad_x = empty_channels_last(x, x.size(1));
  pool.p.grad_x = matrix_of(grad_x);
  run(x, pool.p);
  return grad_x;
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) {
  m.impl("bn_relu_pool", TORCH_BOX(&googlenet_fast::bn_relu_pool));
  m.impl("bn_relu_pool_sums", TORCH_BOX(&googlenet_fast::bn_relu_pool_sums));
  m.impl("bn_relu_pool_backward", TORCH_BOX(&googlenet_fast::bn_relu_pool_backward));
}

REGISTER_CUDA(m) {
  m.impl("bn_relu_pool", TORCH_BOX(&googlenet_fast::bn_relu_pool));
  m.impl("bn_relu_pool_sums", TORCH_BOX(&googlenet_fast::bn_relu_pool_sums));
  m.impl("bn_relu_pool_backward", TORCH_BOX(&googlenet_fast::bn_relu_pool_backward));
}
