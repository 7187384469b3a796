// 3x3 and 5x5 convolutions by Winograd transforms (winograd.h), as in convolution.h. There is at
// least one pixel.
#pragma once

#include "convolution.h"

namespace googlenet_fast::cpu::winograd_conv {

int tile_points(const Size& size, int taps, int64_t channels);
int64_t packed_size(const Size& size, const Filter& w);
void pack_filter(const Size& size, const Filter& w, float* packed);

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y);
void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x);
void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w);

}  // namespace googlenet_fast::cpu::winograd_conv
