// Chooses the algorithm of a convolution.

#include "convolution.h"

#include <algorithm>

#include "amx.h"
#include "bf16_split_conv.h"
#include "gemm_conv.h"
#include "stacked_1x1.h"
#include "winograd_conv.h"

namespace googlenet_fast::cpu {
namespace {

enum class Algorithm { kGemm, kWinograd, kBf16Split };

// The stem (7x7) is never split: the small errors would move the maxima of the pool behind it.
Algorithm algorithm_for(int taps) {
  if (amx() != nullptr && taps != 7) return Algorithm::kBf16Split;
  return taps == 3 || taps == 5 ? Algorithm::kWinograd : Algorithm::kGemm;
}

}  // namespace

int tile_points(const Size& size, int taps, int64_t channels) {
  if (algorithm_for(taps) != Algorithm::kWinograd) return 0;
  return winograd_conv::tile_points(size, taps, channels);
}

int64_t packed_size(const Size& size, const Filter& w) {
  switch (algorithm_for(w.taps)) {
    case Algorithm::kBf16Split: return bf16_split_conv::packed_size(w);
    case Algorithm::kWinograd: return winograd_conv::packed_size(size, w);
    case Algorithm::kGemm: break;
  }
  return gemm_conv::packed_size(w);
}

void pack_filter(const Size& size, const Filter& w, float* packed) {
  switch (algorithm_for(w.taps)) {
    case Algorithm::kBf16Split: return bf16_split_conv::pack_filter(w, packed);
    case Algorithm::kWinograd: return winograd_conv::pack_filter(size, w, packed);
    case Algorithm::kGemm: return gemm_conv::pack_filter(w, packed);
  }
}

const float* packed_filter(const Size& size, const Filter& w, Scratch& scratch) {
  if (w.packed != nullptr) return w.packed;
  float* const values = scratch.take(packed_size(size, w));
  pack_filter(size, w, values);
  return values;
}

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y) {
  if (size.pixels() == 0) return;
  switch (algorithm_for(w.taps)) {
    case Algorithm::kBf16Split: return bf16_split_conv::convolve(size, x, w, bias, relu, y);
    case Algorithm::kWinograd: return winograd_conv::convolve(size, x, w, bias, relu, y);
    case Algorithm::kGemm: return gemm_conv::convolve(size, x, w, bias, relu, y);
  }
}

void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x) {
  if (size.pixels() == 0) return;
  switch (algorithm_for(w.taps)) {
    case Algorithm::kBf16Split:
      return bf16_split_conv::input_gradient(size, grad_y, w, mask, grad_x);
    case Algorithm::kWinograd: return winograd_conv::input_gradient(size, grad_y, w, mask, grad_x);
    case Algorithm::kGemm: return gemm_conv::input_gradient(size, grad_y, w, grad_x);
  }
}

void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w) {
  if (taps == 1) {
    const WeightGrad only[] = {{grad_y, grad_w}};
    return stacked_1x1_weight_gradient(size, only, x);
  }
  if (size.pixels() == 0) {
    std::fill_n(grad_w, grad_y.channels * taps * taps * x.channels, 0.0f);
  } else if (amx() != nullptr) {
    bf16_split_conv::weight_gradient(size, grad_y, x, taps, grad_w);
  } else {
    winograd_conv::weight_gradient(size, grad_y, x, taps, grad_w);
  }
}

}  // namespace googlenet_fast::cpu
