#include "bf16_split_conv.h"

#include <algorithm>
#include <vector>

#include "amx.h"
#include "partition.h"
#include "stacked_input_gradient.h"

namespace googlenet_fast::cpu::bf16_split_conv {
namespace {

constexpr int64_t kBlock = kSplitBlock;
constexpr int64_t kColumns = 16;  // in a group of B

int64_t whole_blocks(int64_t count) { return split_blocks(count) * kBlock; }

// bf16x3 for 1x1 convolutions, which are as exact as in fp32. bf16x2 for others: half the products,
// and errors of 4e-6 (in norm), like Winograd's.
int terms_for(int taps) { return taps == 1 ? 3 : 2; }

// A packed B, whose depth is taps² runs of `depth`.
struct Packed {
  int terms, taps;
  int64_t depth, columns;
  uint16_t* data = nullptr;

  int64_t tap_size() const { return whole_blocks(depth) * kColumns; }
  int64_t term_stride() const { return taps * taps * tap_size(); }
  int64_t column_stride() const { return terms * term_stride(); }
  int64_t size() const { return ceil_div(columns, kColumns) * column_stride(); }
  SplitB at(int64_t column, int64_t tap) const {
    uint16_t* const group = data + column / kColumns * column_stride();
    return {group + tap * tap_size(), column_stride(), term_stride()};
  }
};

// Depth: channels; columns: outputs.
Packed forward_shape(const Filter& w) { return {terms_for(w.taps), w.taps, w.channels, w.outputs}; }

Packed pack_forward(const Size& size, const Filter& w, Scratch& scratch) {
  Packed packed = forward_shape(w);
  packed.data = reinterpret_cast<uint16_t*>(const_cast<float*>(packed_filter(size, w, scratch)));
  return packed;
}

// Depth: outputs; columns: channels. For the input gradient: the filters are flipped. Written from
// row `first` of the depth on.
void pack_backward_at(const Filter& w, const Packed& to, int64_t first) {
  const int64_t taps = w.taps * w.taps;
  parallel_for_each(split_blocks(w.channels) * taps, [&](int64_t i) {
    Scratch scratch;
    const int64_t tap = i % taps, column = i / taps * kBlock;
    const float** const rows = scratch.take<const float*>(w.outputs);
    for (int64_t k = 0; k < w.outputs; ++k) {
      rows[k] = w.data + (k * taps + taps - 1 - tap) * w.channels + column;
    }
    SplitB b = to.at(column, tap);
    b.data += first * kColumns;
    amx()->pack_b(rows, w.outputs, std::min(kBlock, w.channels - column), to.terms, b);
  });
}

Packed pack_backward(const Filter& w, Scratch& scratch) {
  Packed packed{terms_for(w.taps), w.taps, w.outputs, w.channels};
  packed.data = scratch.take<uint16_t>(packed.size());
  pack_backward_at(w, packed, 0);
  return packed;
}

// The pixels of all images as one sequence of positions, with padding after each row and each
// image: a tap reads a fixed number of positions away from any pixel. Padding is shared by the rows
// or images on both sides of it.
struct Positions {
  Size size;
  int taps;
  int64_t border;
  int64_t pitch, rows;  // positions of a row, rows of an image; both with padding

  Positions(const Size& size, int taps)
      : size(size), taps(taps), border(taps / 2), pitch(size.width + border),
        rows(size.height + border) {}

  int64_t count() const { return size.images * rows * pitch; }
  int64_t margin() const { return border * pitch + border; }  // of a tap's farthest read

  // Distance of a tap's read from `margin` before a position.
  int64_t shift(int64_t tap) const { return tap / taps * pitch + tap % taps; }

  // Pointers to the pixels of x at `positions` positions from `first` on; `padding` between pixels.
  template <typename T>
  void pixel_pointers(
      int64_t first, int64_t positions, MatrixView x, T* padding, T** pointers) const {
    const int64_t end = first + positions;
    int64_t line = (first + (border + 1) * pitch) / pitch - (border + 1);  // rounded down
    for (int64_t p = first; p < end; ++line) {
      const bool in_bounds = line >= 0 && line < size.images * rows && line % rows < size.height;
      const int64_t row = in_bounds ? (line / rows * size.height + line % rows) * size.width : 0;
      for (; p < std::min(end, (line + 1) * pitch); ++p) {
        const int64_t column = p - line * pitch;
        *pointers++ = in_bounds && column < size.width ? x.row(row + column) : padding;
      }
    }
  }
};

// Pack A: `count` positions from `first` on, and the margins that their taps read. The channels of
// `sources` are side by side, each padded to whole chunks.
SplitA pack_a(
    const Positions& positions, int64_t first, int64_t count, std::span<const MatrixView> sources,
    Scratch& scratch) {
  const int terms = terms_for(positions.taps);
  const int64_t margin = positions.margin(), total = count + 2 * margin;
  const int64_t term_stride = ((whole_blocks(count) + 2 * margin) | 1) * kBlock;
  int64_t chunks = 0, widest = 0;
  for (const MatrixView& x : sources) {
    chunks += split_blocks(x.channels);
    widest = std::max(widest, x.channels);
  }
  const SplitA a{
      scratch.take<uint16_t>(chunks * terms * term_stride), terms * term_stride, term_stride};
  Scratch own;
  float* const zeros = take_zeros(widest, own);
  float** const rows = own.take<float*>(total);
  SplitA to = a;
  for (const MatrixView& x : sources) {
    positions.pixel_pointers(first - margin, total, x, zeros, rows);
    amx()->pack_a(rows, total, x.channels, terms, to);
    to.data += split_blocks(x.channels) * a.chunk_stride;
  }
  return a;
}

// One of the convolutions of the same x.
struct Conv {
  Packed packed;
  const float* bias;
  bool relu;
  MatrixView mask, y;
  bool nontemporal_store;
  bool pooled = false;  // reads the max pool of x
};

// Some columns of a convolution, at the `count` positions from `first` on that `a` was packed from.
void gemm(
    const Positions& positions, int64_t first, int64_t count, const SplitA& a, const Conv& conv,
    int64_t column, int64_t columns) {
  Scratch scratch;
  const int64_t taps = positions.taps * positions.taps;
  int64_t* const shifts = scratch.take<int64_t>(taps);
  for (int64_t tap = 0; tap < taps; ++tap) shifts[tap] = positions.shift(tap);
  float* const not_written = nullptr;
  float** const c = scratch.take<float*>(count);
  float** const masks = scratch.take<float*>(count);
  positions.pixel_pointers(first, count, conv.y.columns(column, columns), not_written, c);
  const bool masked = conv.mask.data != nullptr;
  if (masked) {
    positions.pixel_pointers(first, count, conv.mask.columns(column, columns), not_written, masks);
  }
  const Packed& b = conv.packed;
  amx()->gemm(
      {.terms = b.terms,
       .a = a,
       .b = b.at(column, 0),
       .rows = count,
       .columns = columns,
       .chunks = split_blocks(b.depth),
       .taps = taps,
       .shifts = shifts},
      {.rows = c,
       .bias = conv.bias == nullptr ? nullptr : conv.bias + column,
       .masks = masked ? masks : nullptr,
       .relu = conv.relu,
       .nontemporal_store = conv.nontemporal_store});
}

// Columns [column, end) of all outputs side by side, each padded to whole blocks, at `count`
// positions from `first` on.
void convolve_tile(
    const Positions& positions, MatrixView x, std::span<const Conv> convs, uint8_t* index,
    int64_t first, int64_t count, int64_t column, int64_t end) {
  Scratch scratch;
  SplitA own{}, pooled{};
  for (const Conv& conv : convs) {
    const int64_t width = whole_blocks(conv.packed.columns);
    const int64_t from = std::max<int64_t>(column, 0), to = std::min(end, width);
    column -= width, end -= width;
    if (from >= to) continue;
    SplitA& a = conv.pooled ? pooled : own;
    if (a.data == nullptr && conv.pooled) {
      const MatrixView maxima{scratch.take(count * x.channels), x.channels, x.channels};
      max_pool_3x3(positions.size, first, count, x, maxima, from == 0 ? index : nullptr);
      const MatrixView sources[] = {{maxima.data - first * x.channels, x.channels, x.channels}};
      a = pack_a(positions, first, count, sources, scratch);
    } else if (a.data == nullptr) {
      a = pack_a(positions, first, count, {&x, 1}, scratch);
    }
    gemm(positions, first, count, a, conv, from, std::min(to, conv.packed.columns) - from);
  }
}

// All convolutions of x, in one pass over it.
void convolve_all(
    const Positions& positions, MatrixView x, std::span<const Conv> convs, uint8_t* index) {
  int64_t columns = 0;
  for (const Conv& conv : convs) columns += whole_blocks(conv.packed.columns);
  // Blocks of positions per tile. Margins are packed as well: large tiles amortize them.
  const int64_t tile_blocks =
      positions.taps == 1 ? 4 : std::max<int64_t>(24, 2 * positions.margin() / kBlock);
  const auto run = [&](const Tile2d& tile) {
    const int64_t first = tile.row * kBlock;
    const int64_t count = std::min(tile.rows * kBlock, positions.count() - first);
    convolve_tile(
        positions, x, convs, index, first, count, tile.column, tile.column + tile.columns);
  };
  parallel_for_2d(split_blocks(positions.count()), tile_blocks, columns, kBlock, run);
}

// Weight gradients of convolutions of the same x: grad_yᵀ · x, or the max pool of x. The positions
// are divided into slices, whose sums are added in the end. Packed values stay with the thread that
// packs them: other threads would wait for its caches.
struct WeightGradients {
  Positions positions;
  MatrixView x;
  std::span<const WeightGrad> grads;
  int terms = terms_for(positions.taps);
  int64_t taps = positions.taps * positions.taps;
  int64_t blocks = split_blocks(positions.count());
  int64_t outputs = all_outputs();
  int64_t batch = std::min(blocks, batch_blocks()) * kBlock;
  int64_t wide = batch + whole_blocks(2 * positions.margin());  // a batch with margins

  int64_t all_outputs() const {
    int64_t all = 0;
    for (const WeightGrad& g : grads) all += g.grad_y.channels;
    return all;
  }

  // The packed values of a batch fill about half of an L2 cache of 2 MB.
  int64_t batch_blocks() const {
    constexpr int64_t kValues = 1 << 19, kMin = 4, kMax = 32;
    const int64_t values = (2 * x.channels + outputs) * terms * kBlock + 1;
    return std::clamp<int64_t>(kValues / values, kMin, kMax);
  }

  // Adding a slice takes a tenth of the time of its GEMMs. With fewer slices than threads x is
  // packed once per group of outputs, which takes more, unless there are few positions.
  int64_t slices() const {
    constexpr int64_t kMax = 16, kFew = 700;
    const int64_t count = positions.count();
    return std::clamp<int64_t>(count / (taps == 1 ? 1500 : 3000), count < kFew ? 1 : 2, kMax);
  }

  // B: with one tap, x and its max pool. With more, x from the first position on and from the
  // second on: pairs of rows are interleaved, so odd shifts need a copy of their own.
  struct Inputs {
    SplitB copies[2];
  };

  Inputs take_inputs(Scratch& scratch) const {
    // Terms begin in different cache sets.
    const int64_t term_stride = (wide / 2 | 1) * 2 * kColumns;
    const int64_t size = ceil_div(x.channels, kColumns) * terms * term_stride;
    Inputs inputs;
    for (SplitB& copy : inputs.copies) {
      copy = {scratch.take<uint16_t>(size), terms * term_stride, term_stride};
    }
    return inputs;
  }

  void pack_b(int64_t first, int64_t count, float* zeros, const Inputs& inputs) const {
    Scratch scratch;
    const int64_t from = first - positions.margin(), read = count + 2 * positions.margin();
    float** const rows = scratch.take<float*>(read + 1);
    positions.pixel_pointers(from, read + 1, x, zeros, rows);
    bool own = false, pooled = false;
    for (const WeightGrad& g : grads) (g.pooled ? pooled : own) = true;
    if (own) amx()->pack_b(rows, read, x.channels, terms, inputs.copies[0]);
    if (taps > 1) amx()->pack_b(rows + 1, read, x.channels, terms, inputs.copies[1]);
    if (!pooled) return;
    const int64_t pixels = std::min(read, positions.count() - from);
    float* const maxima = scratch.take(pixels * x.channels);
    max_pool_3x3(positions.size, from, pixels, x, {maxima, x.channels, x.channels}, nullptr);
    for (int64_t i = 0; i < read; ++i) rows[i] = i < pixels ? maxima + i * x.channels : zeros;
    amx()->pack_b(rows, read, x.channels, terms, inputs.copies[1]);
  }

  // sums[i] (outputs, taps, channels) = the gradients of the blocks of positions from `begin` to
  // `end`, for one group of outputs.
  void accumulate(
      int64_t begin, int64_t end, int64_t group, int64_t groups, float* const* sums) const {
    Scratch scratch;
    float* const zeros = take_zeros(std::max(x.channels, outputs), scratch);
    const Inputs inputs = take_inputs(scratch);
    const int64_t rows = whole_blocks(outputs) * kBlock;
    const SplitA a{scratch.take<uint16_t>(batch / kBlock * terms * rows), terms * rows, rows};
    float** const pointers = scratch.take<float*>(batch);
    for (int64_t block = begin; block < end; block += batch / kBlock) {
      const int64_t first = block * kBlock, count = std::min(batch, end * kBlock - first);
      pack_b(first, count, zeros, inputs);
      for (size_t i = 0; i < grads.size(); ++i) {
        const WeightGrad& g = grads[i];
        const int64_t all = split_blocks(g.grad_y.channels);
        const int64_t output = group * all / groups * kBlock;
        const int64_t last = std::min(g.grad_y.channels, (group + 1) * all / groups * kBlock);
        positions.pixel_pointers(
            first, count, g.grad_y.columns(output, last - output), zeros, pointers);
        amx()->pack_at(pointers, count, last - output, terms, a);
        for (int64_t tap = 0; tap < taps; ++tap) {
          gemm_tap(
              a, inputs, g.pooled, tap, count / kBlock, last - output, block > begin,
              sums[i] + output * taps * x.channels);
        }
      }
    }
  }

  void gemm_tap(
      const SplitA& a, const Inputs& inputs, bool pooled, int64_t tap, int64_t chunks, int64_t rows,
      bool add, float* to) const {
    const int64_t shift = positions.shift(tap), no_shift = 0;
    SplitB b = inputs.copies[taps == 1 ? pooled : shift % 2];
    b.data += shift / 2 * 2 * kColumns;
    amx()->gemm_accumulate(
        {.terms = terms,
         .a = a,
         .b = b,
         .rows = rows,
         .columns = x.channels,
         .chunks = chunks,
         .taps = 1,
         .shifts = &no_shift},
        to + tap * x.channels, taps * x.channels, add);
  }

  void run() const {
    Scratch scratch;
    const int64_t count = slices(), row = taps * x.channels;
    // With fewer slices than threads, threads share the outputs of a slice.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t groups = std::max<int64_t>(1, std::min(threads / count, split_blocks(outputs)));
    float** const sums = scratch.take<float*>(count * grads.size());
    for (int64_t slice = 0; slice < count; ++slice) {
      for (size_t i = 0; i < grads.size(); ++i) {
        sums[slice * grads.size() + i] =
            slice == 0 ? grads[i].grad_w : scratch.take(grads[i].grad_y.channels * row);
      }
    }
    parallel_for_each(count * groups, [&](int64_t i) {
      const int64_t slice = i / groups;
      accumulate(
          slice * blocks / count, (slice + 1) * blocks / count, i % groups, groups,
          sums + slice * grads.size());
    });
    for (size_t i = 0; i < grads.size() && count > 1; ++i) {
      parallel_for_ranges(grads[i].grad_y.channels * row, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t slice = 1; slice < count; ++slice) {
          const float* const from = sums[slice * grads.size() + i];
          for (int64_t k = begin; k < end; ++k) grads[i].grad_w[k] += from[k];
        }
      });
    }
  }
};

}  // namespace

int64_t packed_size(const Filter& w) {
  return forward_shape(w).size() / 2;  // of floats
}

void pack_filter(const Filter& w, float* values) {
  Packed packed = forward_shape(w);
  packed.data = reinterpret_cast<uint16_t*>(values);
  const int64_t taps = w.taps * w.taps;
  parallel_for_each(split_blocks(w.outputs) * taps, [&](int64_t i) {
    const int64_t tap = i % taps, first = i / taps * kBlock;
    amx()->pack_bt(
        w.data + (first * taps + tap) * w.channels, taps * w.channels, w.channels,
        std::min(kBlock, w.outputs - first), packed.terms, packed.at(first, tap));
  });
}

void convolve(
    const Size& size, MatrixView x, const Filter& w, const float* bias, bool relu, MatrixView y) {
  Scratch scratch;
  const Conv conv{pack_forward(size, w, scratch), bias, relu, {}, y,
                  use_nontemporal_store(size, y)};
  convolve_all({size, w.taps}, x, {&conv, 1}, nullptr);
}

void input_gradient(
    const Size& size, MatrixView grad_y, const Filter& w, MatrixView mask, MatrixView grad_x) {
  Scratch scratch;
  const bool nontemporal_store = use_nontemporal_store(size, grad_x);
  const Conv conv{pack_backward(w, scratch), nullptr, false, mask, grad_x, nontemporal_store};
  convolve_all({size, w.taps}, grad_y, {&conv, 1}, nullptr);
}

void weight_gradient(const Size& size, MatrixView grad_y, MatrixView x, int taps, float* grad_w) {
  const WeightGrad grad{grad_y, grad_w};
  WeightGradients{{size, taps}, x, {&grad, 1}}.run();
}

void stacked_1x1(const Size& size, MatrixView x, std::span<const Conv1x1> convs, uint8_t* index) {
  Scratch scratch;
  std::vector<Conv> packed;
  for (const Conv1x1& c : convs) {
    packed.push_back(
        {pack_forward(size, c.w, scratch),
         c.bias,
         c.relu,
         {},
         c.y,
         use_nontemporal_store(size, c.y),
         c.pooled});
  }
  convolve_all({size, 1}, x, packed, index);
}

void stacked_1x1_input_gradient(
    const Size& size, const InputGrad1x1 (&convs)[2], const InputGrad1x1& pooled,
    const uint8_t* index, MatrixView grad_x) {
  Scratch scratch;
  const Packed packed_pooled = pack_backward(pooled.w, scratch);
  const int64_t first_depth = whole_blocks(convs[0].w.outputs);
  Packed both{terms_for(1), 1, first_depth + convs[1].w.outputs, grad_x.channels};
  both.data = scratch.take<uint16_t>(both.size());
  pack_backward_at(convs[0].w, both, 0);
  pack_backward_at(convs[1].w, both, first_depth);
  const MatrixView grads[] = {convs[0].grad_y, convs[1].grad_y};
  const Positions positions(size, 1);
  const auto run = [&](const Tile2d& tile) {
    const auto gemm_at = [&](int64_t first, int64_t pixels, std::span<const MatrixView> sources,
                             const Packed& packed, MatrixView y) {
      Scratch own;
      const SplitA a = pack_a(positions, first, pixels, sources, own);
      const Conv conv{packed, nullptr, false, {}, y, false};
      gemm(positions, first, pixels, a, conv, tile.column, tile.columns);
    };
    const auto pooled_gemm = [&](int64_t first, int64_t pixels, MatrixView to) {
      const MatrixView y{to.data - first * to.stride - tile.column, to.stride, grad_x.channels};
      gemm_at(first, pixels, {&pooled.grad_y, 1}, packed_pooled, y);
    };
    const auto stacked_gemm = [&](int64_t first, int64_t pixels) {
      gemm_at(first, pixels, grads, both, grad_x);
    };
    stacked_input_gradient_tile(size, tile, 4 * kBlock, index, grad_x, pooled_gemm, stacked_gemm);
  };
  parallel_for_2d(size.images * size.height, size.height, grad_x.channels, kBlock, run);
}

void stacked_1x1_weight_gradient(
    const Size& size, std::span<const WeightGrad> convs, MatrixView x) {
  WeightGradients{{size, 1}, x, convs}.run();
}

}  // namespace googlenet_fast::cpu::bf16_split_conv
