#include "../fingerprint.h"

#include "../bindings.h"

namespace googlenet_fast {
namespace {

int64_t fingerprint(std::vector<Tensor> tensors) {
  const Check check("fingerprint", tensors.at(0));
  std::vector<Tensor> keep;
  std::vector<Bytes> arrays;
  for (const Tensor& t : tensors) {
    check.that(t.is_cpu(), "tensors", "be on the CPU");
    check.not_too_large("tensors", t);
    keep.push_back(t.is_contiguous() || is_dense(t) ? t : torch::stable::contiguous(t));
    const int64_t bytes = t.numel() * static_cast<int64_t>(t.element_size());
    arrays.push_back({keep.back().data_ptr(), bytes});
  }
  uint64_t digest = 0;
  run(tensors[0], Fingerprint{arrays.data(), static_cast<int64_t>(arrays.size()), &digest});
  return static_cast<int64_t>(digest);
}

}  // namespace
}  // namespace googlenet_fast

REGISTER_CPU(m) { m.impl("fingerprint", TORCH_BOX(&googlenet_fast::fingerprint)); }
