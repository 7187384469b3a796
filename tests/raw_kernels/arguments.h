// Checks NumPy arrays and hands them to the kernels. Errors name the kernel and the argument.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/pooling.h"

namespace googlenet_fast {

namespace py = pybind11;

using Array = py::array;
using Arrays = std::vector<Array>;
using Optional = std::optional<Array>;
using Sizes = std::vector<int64_t>;

#ifdef GOOGLENET_FAST_CUDA_EMULATOR
inline constexpr bool kEmulatesCuda = true;
inline cudaStream_t stream = nullptr;  // of the next launches
#else
inline constexpr bool kEmulatesCuda = false;
#endif

template <typename Parameters>
void run(Dtype dtype, const Parameters& p) {
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
  run_cuda(dtype, p, stream);
#else
  run_cpu(dtype, p);
#endif
}

// Dtypes that the kernel for CPUs takes; those for GPUs take all but float64.
enum class OnCpu { kFloat32, kAll };

inline Sizes sizes_of(const Array& a) { return {a.shape(), a.shape() + a.ndim()}; }

inline std::string text_of(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return '(' + text + ')';
}

class Check {
 public:
  // `first`: decides the dtype of activations and how many pixels there are, (N, H, W, C).
  Check(const char* kernel, const char* name, const Array& first, OnCpu on_cpu)
      : kernel_(kernel), dtype_(dtype_of(name, first)) {
    const bool fp32 = !kEmulatesCuda && on_cpu == OnCpu::kFloat32;
    that(!fp32 || dtype_ == Dtype::kFloat32, name, "be of float32 on a CPU");
    that(!kEmulatesCuda || dtype_ != Dtype::kFloat64, name, "not be of float64 on a GPU");
    that(first.ndim() == 4, name, "be (N, H, W, C), not ", text_of(sizes_of(first)));
    images_ = sizes_of(first);
    images_.pop_back();
  }

  // A kernel that has no activations; `first`: decides the dtype.
  Check(const char* kernel, const char* name, const Array& first)
      : kernel_(kernel), dtype_(dtype_of(name, first)) {}

  // `must`: what is said of the argument if it does not hold, "be positive".
  template <typename... Parts>
  void that(bool holds, const char* name, const Parts&... must) const {
    if (holds) return;
    std::ostringstream message;
    message << kernel_ << ": " << name << " must ";
    (message << ... << must);
    throw py::value_error(message.str());
  }

  Dtype dtype() const { return dtype_; }
  int64_t pixels() const { return images_[0] * images_[1] * images_[2]; }
  py::dtype sums() const {
    return dtype_ == Dtype::kFloat64 ? py::dtype::of<double>() : py::dtype::of<float>();
  }

  // (N, H, W, channels) whose pixels are evenly spaced rows of adjacent channels.
  Matrix read(const char* name, const Array& a, const Sizes& sizes) const {
    that(dtype_of(name, a) == dtype_, name, "be of the dtype of the first activations");
    shape(name, a, sizes);
    const int64_t bytes = a.itemsize(), channels = sizes[3];
    Matrix matrix{const_cast<void*>(a.data()), channels};
    if (a.size() == 0) return matrix;
    bool known = false, even = channels == 1 || a.strides(3) == bytes;
    int64_t step = 1;
    for (const int axis : {2, 1, 0}) {
      if (sizes[axis] > 1) {
        if (!known) matrix.stride = a.strides(axis) / step / bytes;
        even = even && a.strides(axis) == matrix.stride * step * bytes;
        known = true;
      }
      step *= sizes[axis];
    }
    that(even && matrix.stride >= channels, name, "have evenly spaced pixels of adjacent channels");
    return matrix;
  }

  Matrix write(const char* name, const Array& a, const Sizes& sizes) const {
    writeable(name, a);
    return read(name, a, sizes);
  }

  // The same for as many pixels as `first` has.
  Matrix read(const char* name, const Array& a, int64_t channels) const {
    return read(name, a, of_pixels(channels));
  }
  Matrix write(const char* name, const Array& a, int64_t channels) const {
    return write(name, a, of_pixels(channels));
  }

  // A contiguous array; `write`: the kernel writes it.
  void* dense(
      const char* name, const Array& a, const py::dtype& dtype, const Sizes& sizes,
      bool write = false) const {
    that(a.dtype().equal(dtype), name, "be of ", std::string(py::str(dtype)));
    shape(name, a, sizes);
    that((a.flags() & Array::c_style) != 0, name, "be contiguous");
    aligned(name, a);
    if (write) writeable(name, a);
    return const_cast<void*>(a.data());
  }

  // Values per channel, or sums, of the dtype in which values of the activations are summed.
  void* values(const char* name, const Array& a, const Sizes& sizes, bool write = false) const {
    return dense(name, a, sums(), sizes, write);
  }

  uint8_t* index(const char* name, const Array& a, const Sizes& sizes, bool write = false) const {
    return static_cast<uint8_t*>(dense(name, a, py::dtype::of<uint8_t>(), sizes, write));
  }

  void one_each(const char* name, size_t count, size_t wanted) const {
    that(count == wanted, name, "be ", wanted, ", one each, not ", count);
  }

  Sizes of_pixels(int64_t channels) const {
    Sizes sizes = images_;
    sizes.push_back(channels);
    return sizes;
  }

 private:
  const char* kernel_;
  Dtype dtype_;
  Sizes images_;  // N, H, W

  Dtype dtype_of(const char* name, const Array& a) const {
    aligned(name, a);
    const bool native = a.dtype().byteorder() != '>';
    const auto size = a.itemsize();
    if (native && a.dtype().kind() == 'f') {
      if (size == 2) return Dtype::kFloat16;
      if (size == 4) return Dtype::kFloat32;
      if (size == 8) return Dtype::kFloat64;
    }
    that(
        native && a.dtype().kind() == 'u' && size == 2, name,
        "be of float16, float32, float64 or uint16 (the bits of bfloat16), not ",
        std::string(py::str(a.dtype())));
    return Dtype::kBFloat16;
  }

  void shape(const char* name, const Array& a, const Sizes& sizes) const {
    const Sizes actual = sizes_of(a);
    that(actual == sizes, name, "be ", text_of(sizes), ", not ", text_of(actual));
  }

  void aligned(const char* name, const Array& a) const {
    that((a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0, name, "be aligned");
  }

  void writeable(const char* name, const Array& a) const {
    that(a.writeable(), name, "be writeable");
  }
};

inline PoolShape pool_shape(const Check& check, const Array& x, const Array& y) {
  check.that(check.pixels() <= std::numeric_limits<int>::max(), "x", "be of less than 2^31 pixels");
  const auto size = [](const Array& a, int axis) { return static_cast<int>(a.shape(axis)); };
  return {size(x, 0), size(x, 1), size(x, 2), size(y, 1), size(y, 2), x.shape(3)};
}

// Of windows of 3x3, stride 2, the last of which may reach over the edge.
inline PoolShape strided_pool(const Check& check, const Array& x, const Array& y) {
  check.that(y.ndim() == 4, "y", "be (N, H, W, C)");
  bool fits = true, ceil = true, floor = true;
  for (const int axis : {1, 2}) {
    const int64_t in = x.shape(axis), out = y.shape(axis);
    fits = fits && in > 0 && out > 0;
    ceil = ceil && out == in / 2;
    floor = floor && out == (in - 1) / 2;
  }
  check.that(fits && (ceil || floor), "y", "have one pixel for each window of x");
  return pool_shape(check, x, y);
}

// The functions of the ops, each in the file of its op.
void bind_pools(py::module_& m);
void bind_pointwise(py::module_& m);
void bind_batch_norm(py::module_& m);
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
void bind_sgd_step(py::module_& m);
#else
void bind_convolutions(py::module_& m);
#endif

}  // namespace googlenet_fast
