#include "../../csrc/sgd_step.h"

#include "arguments.h"

namespace googlenet_fast {
namespace {

py::dtype single() { return py::dtype::of<float>(); }

float* scalar(const Check& check, const char* name, const Optional& a, bool write = false) {
  return a.has_value() ? static_cast<float*>(check.dense(name, *a, single(), {}, write)) : nullptr;
}

float* floats(const Check& check, const char* name, const Arrays& list, size_t i, Sizes sizes) {
  if (list.empty()) return nullptr;
  return static_cast<float*>(check.dense(name, list[i], single(), sizes, true));
}

// Lists of one array per parameter; momenta, copies and averages may be empty. Gradients and
// copies are of one dtype.
void sgd_step(
    Arrays parameters, Arrays gradients, Arrays momenta, Arrays copies, Arrays averages, Arrays lr,
    std::vector<float> weight_decay, float momentum, bool nesterov, Optional grad_scale,
    Optional found_inf, Optional average_weight) {
  if (gradients.empty()) return;
  const Check check("sgd_step", "gradients", copies.empty() ? gradients[0] : copies[0]);
  const size_t count = parameters.size();
  for (const Arrays* list : {&gradients, &lr}) check.one_each("lists", list->size(), count);
  for (const Arrays* list : {&momenta, &copies, &averages})
    check.that(list->empty() || list->size() == count, "lists", "be empty or one per parameter");
  check.one_each("weight_decay", weight_decay.size(), count);
  std::vector<SgdTensor> tensors;
  for (size_t i = 0; i < count; ++i) {
    const Sizes sizes = sizes_of(parameters[i]);
    const py::dtype dtype = gradients[i].dtype();
    SgdTensor t{};
    t.parameter = floats(check, "parameters", parameters, i, sizes);
    t.gradient = check.dense("gradients", gradients[i], dtype, sizes);
    t.single = dtype.equal(single());
    t.momentum = floats(check, "momenta", momenta, i, sizes);
    if (!copies.empty()) t.copy = check.dense("copies", copies[i], copies[0].dtype(), sizes, true);
    check.that(
        t.single || copies.empty() || dtype.equal(copies[0].dtype()), "gradients",
        "be of float32 or the copies' dtype");
    t.average = floats(check, "averages", averages, i, sizes);
    t.lr = static_cast<const float*>(check.dense("lr", lr[i], single(), {}));
    t.count = parameters[i].size();
    t.weight_decay = weight_decay[i];
    tensors.push_back(t);
  }
  check.that(
      averages.empty() || average_weight.has_value(), "average_weight", "be given with averages");
  run(check.dtype(),
      SgdStep{
          tensors.data(), static_cast<int64_t>(count), momentum, nesterov,
          scalar(check, "grad_scale", grad_scale), scalar(check, "found_inf", found_inf),
          scalar(check, "average_weight", average_weight)});
}

void find_nonfinite(Arrays gradients, Array found) {
  if (gradients.empty()) return;
  const Check check("find_nonfinite", "gradients", gradients[0]);
  std::vector<Gradient> list;
  for (const Array& gradient : gradients) {
    const py::dtype dtype = gradient.dtype();
    check.that(
        dtype.equal(single()) || dtype.equal(gradients[0].dtype()), "gradients", "be of one dtype");
    list.push_back(
        {check.dense("gradients", gradient, dtype, sizes_of(gradient)), gradient.size(),
         dtype.equal(single())});
  }
  run(check.dtype(),
      FindNonfinite{
          list.data(), static_cast<int64_t>(list.size()), scalar(check, "found", found, true)});
}

}  // namespace

void bind_sgd_step(py::module_& m) {
  using py::arg, py::none;
  m.def(
      "sgd_step", &sgd_step, arg("parameters"), arg("gradients"), arg("momenta"), arg("copies"),
      arg("averages"), arg("lr"), arg("weight_decay"), arg("momentum"), arg("nesterov"),
      arg("grad_scale") = none(), arg("found_inf") = none(), arg("average_weight") = none());
  m.def("find_nonfinite", &find_nonfinite, arg("gradients"), arg("found"));
}

}  // namespace googlenet_fast
