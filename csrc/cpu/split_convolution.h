// The convolutions of convolution.h by products of split values (amx.h), directly: they take few more
// instructions than Winograd's, without its transforms.
#pragma once

#include "convolution.h"

namespace googlenet_fast::cpu::split {

int64_t prepared_size(const Filter& w);
void prepare(const Filter& w, float* prepared);

void convolve(const Size& size, Rows x, const Filter& w, const float* bias, bool relu, Rows y);
void input_gradient(const Size& size, Rows grad_y, const Filter& w, Rows mask, Rows grad_x);
void weight_gradient(const Size& size, Rows grad_y, Rows x, int taps, float* grad_w);

void convolve_siblings(const Size& size, Rows x, std::span<Sibling> siblings, uint8_t* index);
void siblings_input_gradient(
    const Size& size, const SiblingGradient (&siblings)[2], const SiblingGradient& pooled,
    const uint8_t* index, Rows grad_x);
void siblings_weight_gradient(
    const Size& size, std::span<const SiblingWeightGradient> siblings, Rows x);

}  // namespace googlenet_fast::cpu::split
