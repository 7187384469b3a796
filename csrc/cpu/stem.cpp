// A filter's row covers 7 * channels adjacent values of an image's row, and the next pixel's begin
// 2 * channels values on: the patches of a row of outputs are a matrix of overlapping rows, in seven
// parts, that is multiplied where it lies. Only the zeros around an image have to be put there, in a
// copy of the few rows that a band of outputs reads.

#include "stem.h"

#include <algorithm>

#include "common.h"
#include "isa.h"
#include "parts.h"
#include "scratch.h"

namespace googlenet_fast::cpu {
namespace {

constexpr int64_t kTaps = 7, kStride = 2, kBorder = 3;
constexpr int64_t kBandRows = 8;  // of the output
constexpr int64_t kPixels = 256;  // that are masked and packed at a time
constexpr int64_t kParts = 16;    // sums of the weight gradient at most, whatever the threads

// The images as bands of rows of outputs.
struct Bands {
  Size size;
  int64_t channels, height, width, per_image;

  Bands(const Size& size, int64_t channels)
      : size(size), channels(channels), height(halved(size.height)), width(halved(size.width)),
        per_image((height + kBandRows - 1) / kBandRows) {}

  int64_t count() const { return size.images * per_image; }
  int64_t first(int64_t band) const { return band % per_image * kBandRows; }
  int64_t rows(int64_t band) const { return std::min(kBandRows, height - first(band)); }
  int64_t pixel(int64_t band, int64_t row) const {
    return (band / per_image * height + first(band) + row) * width;
  }

  // Values of a row with zeros around, of a filter's row, and of the rows that a band reads.
  int64_t padded() const { return (size.width + 2 * kBorder) * channels; }
  int64_t depth() const { return kTaps * channels; }
  int64_t scratch() const { return (kStride * kBandRows + kTaps - kStride) * padded(); }

  void copy(int64_t band, Rows x, float* to) const {
    const int64_t image = band / per_image, top = kStride * first(band) - kBorder;
    const int64_t end = top + kStride * rows(band) + kTaps - kStride, border = kBorder * channels;
    for (int64_t y = top; y < end; ++y, to += padded()) {
      if (y < 0 || y >= size.height) {
        std::fill_n(to, padded(), 0.0f);
        continue;
      }
      std::fill_n(to, border, 0.0f);
      const int64_t run = x.stride == channels ? size.width : 1;  // adjacent pixels
      for (int64_t i = 0; i < size.width; i += run) {
        const float* const pixels = x.row((image * size.height + y) * size.width + i);
        std::copy_n(pixels, run * channels, to + border + i * channels);
      }
      std::fill_n(to + padded() - border, border, 0.0f);
    }
  }
};

// The rows of grad_y of some pixels, zero where mask (data null: none) is zero or less: those are written
// to `masked` (count, outputs). sums (outputs,), if not null, += the rows.
Rows mask_rows(
    Rows grad_y, Rows mask, int64_t first, int64_t count, float* masked, float* sums) {
  const int64_t outputs = grad_y.channels;
  const bool masks = mask.data != nullptr;
  for (int64_t i = 0; i < count; ++i) {
    isa().mask(
        grad_y.row(first + i), masks ? mask.row(first + i) : nullptr, outputs,
        masks ? masked + i * outputs : nullptr, sums, false);
  }
  return masks ? Rows{masked, outputs, outputs} : grad_y.from(first);
}

// total (taps² * channels + 1, outputs) += the gradients of some bands; the last row is the bias's.
void add_gradients(
    const Bands& bands, int64_t begin, int64_t end, Rows grad_y, Rows mask, Rows x, float* total) {
  const int64_t outputs = grad_y.channels, depth = bands.depth(), most = kPixels;
  Scratch scratch;
  float* const rows = scratch.take(bands.scratch());
  float* const masked = scratch.take(most * outputs);
  float* const packed = scratch.take(isa().packed_size(most, outputs));
  for (int64_t band = begin; band < end; ++band) {
    bands.copy(band, x, rows);
    for (int64_t row = 0; row < bands.rows(band); ++row) {
      for (int64_t first = 0; first < bands.width; first += most) {
        const int64_t count = std::min(most, bands.width - first);
        const Rows grads = mask_rows(
            grad_y, mask, bands.pixel(band, row) + first, count, masked,
            total + kTaps * depth * outputs);
        isa().pack(grads.data, grads.stride, count, outputs, count, packed);
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          const float* const patches =
              rows + (kStride * row + tap) * bands.padded() + kStride * first * bands.channels;
          isa().multiply_transposed(
              {patches, kStride * bands.channels, packed, count, total + tap * depth * outputs,
               outputs, count, depth, outputs, true});
        }
      }
    }
  }
}

}  // namespace

void convolve_stem(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y) {
  const Bands bands(size, x.channels);
  Scratch scratch;
  const float* const packed = prepared(size, w, scratch);
  const bool stream = better_streamed({size.images, bands.height, bands.width}, y);
  for_each_task(bands.count(), [&](int64_t band) {
    Scratch own;
    float* const rows = own.take(bands.scratch());
    bands.copy(band, x, rows);
    for (int64_t row = 0; row < bands.rows(band); ++row) {
      isa().multiply(
          {rows + kStride * row * bands.padded(), kStride * x.channels, packed,
           y.row(bands.pixel(band, row)), y.stride, bands.width, y.channels, bands.depth(), bias,
           relu, false, kTaps, bands.padded(), stream});
    }
  });
}

void stem_weight_gradient(
    const Size& size, Rows grad_y, Rows mask, Rows x, float* grad_w, float* grad_bias) {
  const Bands bands(size, x.channels);
  const int64_t outputs = grad_y.channels, values = kTaps * bands.depth();
  const int64_t parts = std::min(kParts, bands.count()), part_size = (values + 1) * outputs;
  Scratch scratch;
  float* const partial = scratch.take(parts * part_size);
  std::fill_n(partial, parts * part_size, 0.0f);
  for_each_task(parts, [&](int64_t part) {
    add_gradients(
        bands, part * bands.count() / parts, (part + 1) * bands.count() / parts, grad_y, mask, x,
        partial + part * part_size);
  });
  float* const total = scratch.take(part_size);
  add_parts<float>(partial, parts, part_size, total);
  for (int64_t k = 0; k < outputs; ++k) {
    for (int64_t i = 0; i < values; ++i) grad_w[k * values + i] = total[i * outputs + k];
  }
  std::copy_n(total + values * outputs, outputs, grad_bias);
}

void stem_input_gradient(const Size& size, Rows grad_y, Rows mask, const Filter& w, Rows grad_x) {
  const Bands bands(size, grad_x.channels);
  const int64_t values = kTaps * bands.depth(), outputs = w.outputs;
  Scratch scratch;
  float* const packed = scratch.take(isa().packed_size(outputs, values));
  isa().pack(w.data, values, outputs, values, outputs, packed);
  for_each_task(size.images, [&](int64_t image) {
    Scratch own;
    const int64_t padded_size = (kStride * bands.height + kTaps) * bands.padded();
    float* const padded = own.take(padded_size);
    float* const masked = own.take(bands.width * outputs);
    float* const patches = own.take(bands.width * values);
    std::fill_n(padded, padded_size, 0.0f);
    for (int64_t row = 0; row < bands.height; ++row) {
      const int64_t first = (image * bands.height + row) * bands.width;
      const Rows grads = mask_rows(grad_y, mask, first, bands.width, masked, nullptr);
      isa().multiply(
          {grads.data, grads.stride, packed, patches, values, bands.width, values, outputs, nullptr,
           false, false});
      for (int64_t i = 0; i < bands.width * kTaps; ++i) {
        const float* const from = patches + i * bands.depth();
        float* const to = padded + (kStride * row + i % kTaps) * bands.padded() +
                          kStride * (i / kTaps) * bands.channels;
        for (int64_t j = 0; j < bands.depth(); ++j) to[j] += from[j];
      }
    }
    for (int64_t i = 0; i < size.height * size.width; ++i) {
      const int64_t y = i / size.width + kBorder, at = i % size.width + kBorder;
      std::copy_n(
          padded + y * bands.padded() + at * bands.channels, bands.channels,
          grad_x.row(image * size.height * size.width + i));
    }
  });
}

}  // namespace googlenet_fast::cpu
