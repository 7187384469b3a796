// Direct convolutions with AMX (amx.h), as in convolution.h and stacked_1x1.h. There is at least
// one pixel. They take few more instructions than Winograd convolutions, and need no transforms.
#pragma once

#include "stacked_1x1.h"

namespace googlenet_fast::cpu::bf16_split_conv {

int64_t packed_size(const Filter& w);
void pack_filter(const Filter& w, float* packed);

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y);
void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x);
void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w);

void stacked_1x1(const Size& size, MatrixView x, std::span<const Conv1x1> convs, uint8_t* index);
void stacked_1x1_input_gradient(
    const Size& size, const InputGrad1x1 (&convs)[2], const InputGrad1x1& pooled,
    const uint8_t* index, MatrixView grad_x);
void stacked_1x1_weight_gradient(const Size& size, std::span<const WeightGrad> convs, MatrixView x);

}  // namespace googlenet_fast::cpu::bf16_split_conv
