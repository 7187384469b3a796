// Direct convolution by GEMM, without im2col. A filter's row covers 7 * channels adjacent values of
// an image's row, and the next output's begin 2 * channels values later. So the patches of a row of
// outputs are a matrix with overlapping rows of seven segments, which GEMM reads in place. Only the
// padding needs a copy: of the few image rows that a band of outputs reads.

#include "stem.h"

#include <algorithm>

#include "common.h"
#include "partition.h"
#include "scratch.h"

namespace googlenet_fast::cpu {
namespace {

constexpr int64_t kTaps = 7, kStride = 2, kPadding = 3;
constexpr int64_t kBandRows = 8;      // of the output
constexpr int64_t kPixels = 256;      // that are masked and packed at a time
constexpr int64_t kMaxPartials = 16;  // of the weight gradient, for any number of threads

// The images' outputs, divided into bands of rows.
struct Bands {
  Size size;
  int64_t channels, height, width, per_image;

  Bands(const Size& size, int64_t channels)
      : size(size), channels(channels), height(halved(size.height)), width(halved(size.width)),
        per_image(ceil_div(height, kBandRows)) {}

  int64_t count() const { return size.images * per_image; }
  int64_t first(int64_t band) const { return band % per_image * kBandRows; }
  int64_t rows(int64_t band) const { return std::min(kBandRows, height - first(band)); }
  int64_t pixel(int64_t band, int64_t row) const {
    return (band / per_image * height + first(band) + row) * width;
  }

  // Values of a padded image row, of a filter's row, and of the padded rows that a band reads.
  int64_t padded() const { return (size.width + 2 * kPadding) * channels; }
  int64_t depth() const { return kTaps * channels; }
  int64_t scratch() const { return (kStride * kBandRows + kTaps - kStride) * padded(); }

  void copy_padded(int64_t band, MatrixView x, float* to) const {
    const int64_t image = band / per_image, top = kStride * first(band) - kPadding;
    const int64_t end = top + kStride * rows(band) + kTaps - kStride, padding = kPadding * channels;
    for (int64_t y = top; y < end; ++y, to += padded()) {
      if (y < 0 || y >= size.height) {
        std::fill_n(to, padded(), 0.0f);
        continue;
      }
      std::fill_n(to, padding, 0.0f);
      const int64_t run = x.stride == channels ? size.width : 1;  // adjacent pixels
      for (int64_t i = 0; i < size.width; i += run) {
        const float* const pixels = x.row((image * size.height + y) * size.width + i);
        std::copy_n(pixels, run * channels, to + padding + i * channels);
      }
      std::fill_n(to + padded() - padding, padding, 0.0f);
    }
  }
};

// grad_y of some pixels, zero where mask is zero or less: written to `masked` (count, outputs),
// unless the mask's data is null. sums (outputs,), if not null, += its rows.
MatrixView mask_rows(
    MatrixView grad_y, MatrixView mask, int64_t first, int64_t count, float* masked, float* sums) {
  const int64_t outputs = grad_y.channels;
  const bool has_mask = mask.data != nullptr;
  for (int64_t i = 0; i < count; ++i) {
    kernel_configs().relu_mask.relu_mask(
        grad_y.row(first + i), has_mask ? mask.row(first + i) : nullptr, outputs,
        has_mask ? masked + i * outputs : nullptr, sums, false);
  }
  return has_mask ? MatrixView{masked, outputs, outputs} : grad_y.rows_from(first);
}

// total (taps² * channels + 1, outputs) += the gradients of some bands; the last row is the bias's.
void accumulate_gradients(
    const Bands& bands, int64_t begin, int64_t end, MatrixView grad_y, MatrixView mask,
    MatrixView x, float* total) {
  const int64_t outputs = grad_y.channels, depth = bands.depth(), most = kPixels;
  Scratch scratch;
  float* const rows = scratch.take(bands.scratch());
  float* const masked = scratch.take(most * outputs);
  float* const packed = scratch.take(gemm_config().packed_size(most, outputs));
  for (int64_t band = begin; band < end; ++band) {
    bands.copy_padded(band, x, rows);
    for (int64_t row = 0; row < bands.rows(band); ++row) {
      for (int64_t first = 0; first < bands.width; first += most) {
        const int64_t count = std::min(most, bands.width - first);
        const MatrixView grads = mask_rows(
            grad_y, mask, bands.pixel(band, row) + first, count, masked,
            total + kTaps * depth * outputs);
        gemm_config().pack_b(grads.data, grads.stride, count, outputs, count, packed);
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          const float* const patches =
              rows + (kStride * row + tap) * bands.padded() + kStride * first * bands.channels;
          gemm_config().gemm_at(
              {patches, kStride * bands.channels, packed, count, total + tap * depth * outputs,
               outputs, count, depth, outputs, true});
        }
      }
    }
  }
}

}  // namespace

void convolve_stem(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y) {
  const Bands bands(size, x.channels);
  Scratch scratch;
  const float* const packed = packed_filter(size, w, scratch);
  const bool nontemporal_store = use_nontemporal_store({size.images, bands.height, bands.width}, y);
  parallel_for_each(bands.count(), [&](int64_t band) {
    Scratch own;
    float* const rows = own.take(bands.scratch());
    bands.copy_padded(band, x, rows);
    for (int64_t row = 0; row < bands.rows(band); ++row) {
      gemm_config().gemm(
          {.a = rows + kStride * row * bands.padded(),
           .a_stride = kStride * x.channels,
           .b = packed,
           .c = y.row(bands.pixel(band, row)),
           .c_stride = y.stride,
           .rows = bands.width,
           .columns = y.channels,
           .depth = bands.depth(),
           .bias = bias,
           .relu = relu,
           .add = false,
           .segments = kTaps,
           .segment_stride = bands.padded(),
           .nontemporal_store = nontemporal_store});
    }
  });
}

void stem_weight_gradient(
    const Size& size, MatrixView grad_y, MatrixView mask, MatrixView x, float* grad_w,
    float* grad_bias) {
  const Bands bands(size, x.channels);
  const int64_t outputs = grad_y.channels, values = kTaps * bands.depth();
  const int64_t partials = std::min(kMaxPartials, bands.count());
  const int64_t partial_size = (values + 1) * outputs;
  Scratch scratch;
  float* const partial = take_zeros(partials * partial_size, scratch);
  parallel_for_each(partials, [&](int64_t p) {
    accumulate_gradients(
        bands, p * bands.count() / partials, (p + 1) * bands.count() / partials, grad_y, mask, x,
        partial + p * partial_size);
  });
  float* const total = scratch.take(partial_size);
  sum_partials<float>(partial, partials, partial_size, total);
  for (int64_t k = 0; k < outputs; ++k) {
    for (int64_t i = 0; i < values; ++i) grad_w[k * values + i] = total[i * outputs + k];
  }
  std::copy_n(total + values * outputs, outputs, grad_bias);
}

void stem_input_gradient(
    const Size& size, MatrixView grad_y, MatrixView mask, const Filter& w, MatrixView grad_x) {
  const Bands bands(size, grad_x.channels);
  const int64_t values = kTaps * bands.depth(), outputs = w.outputs;
  Scratch scratch;
  float* const packed = scratch.take(gemm_config().packed_size(outputs, values));
  gemm_config().pack_b(w.data, values, outputs, values, outputs, packed);
  parallel_for_each(size.images, [&](int64_t image) {
    Scratch own;
    const int64_t padded_size = (kStride * bands.height + kTaps) * bands.padded();
    float* const padded = take_zeros(padded_size, own);
    float* const masked = own.take(bands.width * outputs);
    float* const patches = own.take(bands.width * values);
    for (int64_t row = 0; row < bands.height; ++row) {
      const int64_t first = (image * bands.height + row) * bands.width;
      const MatrixView grads = mask_rows(grad_y, mask, first, bands.width, masked, nullptr);
      gemm_config().gemm(
          {.a = grads.data,
           .a_stride = grads.stride,
           .b = packed,
           .c = patches,
           .c_stride = values,
           .rows = bands.width,
           .columns = values,
           .depth = outputs,
           .bias = nullptr,
           .relu = false,
           .add = false});
      for (int64_t i = 0; i < bands.width * kTaps; ++i) {
        const float* const from = patches + i * bands.depth();
        float* const to = padded + (kStride * row + i % kTaps) * bands.padded() +
                          kStride * (i / kTaps) * bands.channels;
        for (int64_t j = 0; j < bands.depth(); ++j) to[j] += from[j];
      }
    }
    for (int64_t i = 0; i < size.height * size.width; ++i) {
      const int64_t y = i / size.width + kPadding, at = i % size.width + kPadding;
      std::copy_n(
          padded + y * bands.padded() + at * bands.channels, bands.channels,
          grad_x.row(image * size.height * size.width + i));
    }
  });
}

}  // namespace googlenet_fast::cpu
