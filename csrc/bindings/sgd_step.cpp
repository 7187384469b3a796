#include "../sgd_step.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

using Tensors = std::vector<Tensor>;
using OptionalTensor = std::optional<Tensor>;

constexpr Dtypes kHalf = kFloats.first(2);

bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != b.size(i) || (a.size(i) != 1 && a.stride(i) != b.stride(i))) return false;
  }
  return true;
}

// Checks the lists of tensors, and knows the dtype of those in half precision.
class Lists {
 public:
  Lists(const char* op, const Tensor& first) : check_(op, first), half_(first) {}

  const Check& check() const { return check_; }
  // A tensor of the dtype that kernels are chosen by.
  const Tensor& half() const { return half_; }

  void size(const char* name, size_t size, size_t parameters, bool optional = false) const {
    check_.that(
        size == parameters || (optional && size == 0), name, "be one per parameter, ", parameters,
        ", not ", size);
  }

  void is_float(const char* name, const Tensor& t) const {
    check_.that(t.device() == first().device(), name, "be on the device of the first parameter");
    check_.that(t.scalar_type() == ScalarType::Float, name, "be of Float, not ", t.scalar_type());
  }

  void is_dense_float(const char* name, const Tensor& t) const {
    is_float(name, t);
    check_.not_too_large(name, t);
    check_.that(t.numel() == 0 || is_dense(t), name, "be dense");
  }

  // Half precision, of one dtype in all tensors of the op.
  void is_half(const char* name, const Tensor& t) {
    check_.that(t.device() == first().device(), name, "be on the device of the first parameter");
    check_.that(
        std::ranges::find(kHalf, t.scalar_type()) != kHalf.end(), name,
        "be of Half or BFloat16 or, gradients, of Float, not ", t.scalar_type());
    if (half_.scalar_type() == ScalarType::Float) half_ = t;
    check_.that(
        t.scalar_type() == half_.scalar_type(), name, "be of ", half_.scalar_type(),
        " as others are, not ", t.scalar_type());
  }

  void like(const char* name, const Tensor& t, const Tensor& parameter) const {
    check_.that(same_layout(t, parameter), name, "have the sizes and strides of the parameter");
  }

  // One value on the device; null if it is not given.
  const float* scalar(const char* name, const OptionalTensor& t) const {
    if (!t.has_value()) return nullptr;
    is_float(name, *t);
    check_.that(t->numel() == 1, name, "be one value, not ", t->numel());
    return static_cast<const float*>(t->data_ptr());
  }

 private:
  const Tensor& first() const { return half_; }

  Check check_;
  Tensor half_;
};

// Null for a gradient that is empty, of a parameter that has none.
const void* gradient_of(Lists& lists, const Tensor& gradient, const Tensor& parameter) {
  if (gradient.numel() == 0) return nullptr;
  if (gradient.scalar_type() == ScalarType::Float) {
    lists.is_float("gradients", gradient);
  } else {
    lists.is_half("gradients", gradient);
  }
  lists.like("gradients", gradient, parameter);
  return gradient.data_ptr();
}

float* like_parameter(
    const Lists& lists, const char* name, const Tensors& tensors, size_t i,
    const Tensor& parameter) {
  if (tensors.empty()) return nullptr;
  lists.is_float(name, tensors[i]);
  lists.like(name, tensors[i], parameter);
  return static_cast<float*>(tensors[i].data_ptr());
}

void* copy_of(Lists& lists, const Tensors& copies, size_t i, const Tensor& parameter) {
  if (copies.empty() || copies[i].numel() == 0) return nullptr;
  lists.is_half("copies", copies[i]);
  lists.like("copies", copies[i], parameter);
  return copies[i].data_ptr();
}

void sgd_step(
    Tensors parameters, Tensors gradients, Tensors momenta, Tensors copies, Tensors averages,
    Tensors lr, std::vector<double> weight_decay, double momentum, bool nesterov,
    OptionalTensor grad_scale, OptionalTensor found_inf, OptionalTensor average_weight) {
  if (parameters.empty()) throw std::runtime_error("sgd_step: parameters must be one or more");
  Lists lists("sgd_step", parameters[0]);
  const size_t count = parameters.size();
  lists.size("gradients", gradients.size(), count);
  lists.size("momenta", momenta.size(), count, true);
  lists.size("copies", copies.size(), count, true);
  lists.size("averages", averages.size(), count, true);
  lists.size("lr", lr.size(), count);
  lists.size("weight_decay", weight_decay.size(), count);
  lists.check().that(
      momentum == 0 || !momenta.empty(), "momenta", "be given with a momentum of ", momentum);
  lists.check().that(
      averages.empty() || average_weight.has_value(), "average_weight", "be given with averages");

  std::vector<SgdTensor> tensors;
  for (size_t i = 0; i < count; ++i) {
    const Tensor& parameter = parameters[i];
    lists.is_dense_float("parameters", parameter);
    tensors.push_back(
        {.parameter = static_cast<float*>(parameter.data_ptr()),
         .gradient = gradient_of(lists, gradients[i], parameter),
         .momentum = like_parameter(lists, "momenta", momenta, i, parameter),
         .copy = copy_of(lists, copies, i, parameter),
         .average = like_parameter(lists, "averages", averages, i, parameter),
         .lr = lists.scalar("lr", lr[i]),
         .count = parameter.numel(),
         .weight_decay = static_cast<float>(weight_decay[i]),
         .single = gradients[i].scalar_type() == ScalarType::Float});
  }
  const SgdStep p{
      .tensors = tensors.data(),
      .count = static_cast<int64_t>(count),
      .momentum = static_cast<float>(momentum),
      .nesterov = nesterov,
      .grad_scale = lists.scalar("grad_scale", grad_scale),
      .found_inf = lists.scalar("found_inf", found_inf),
      .average_weight = lists.scalar("average_weight", average_weight)};
  run(lists.half(), p);
}

void find_nonfinite(Tensors gradients, Tensor found) {
  Lists lists("find_nonfinite", found);
  const float* const flag = lists.scalar("found", found);
  std::vector<Gradient> items;
  for (const Tensor& gradient : gradients) {
    lists.check().not_too_large("gradients", gradient);
    const void* const data = gradient_of(lists, gradient, gradient);
    lists.check().that(data == nullptr || is_dense(gradient), "gradients", "be dense");
    items.push_back({data, gradient.numel(), gradient.scalar_type() == ScalarType::Float});
  }
  const int64_t count = static_cast<int64_t>(items.size());
  run(lists.half(), FindNonfinite{items.data(), count, const_cast<float*>(flag)});
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CUDA(m) {
  m.impl("sgd_step", TORCH_BOX(&googlenet_fast::sgd_step));
  m.impl("find_nonfinite", TORCH_BOX(&googlenet_fast::find_nonfinite));
}
