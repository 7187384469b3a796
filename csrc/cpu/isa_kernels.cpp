// The vector kernels for the instruction set GOOGLENET_FAST_ISA; the build compiles this for several.

#include "gemm.h"
#include "hash.h"
#include "isa.h"
#include "rows.h"
#include "simd.h"
#include "winograd.h"

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

extern const Isa kIsa;
const Isa kIsa{
    .name = NAME(GOOGLENET_FAST_ISA),
    .tile_rows = kTileRows,
    .panel = kPanel,
    .streams = kStreams,
    .multiply = multiply,
    .multiply_transposed = multiply_transposed,
    .pack = pack,
    .pack_transposed = pack_transposed,
    .transform_input = transform_input,
    .transform_output = transform_output,
    .transform_output_adjoint = transform_output_adjoint,
    .transform_filter = transform_filter,
    .transform_filter_adjoint = transform_filter_adjoint,
    .max_of_nine = max_of_nine,
    .max_of_rows = max_of_rows,
    .unpool_halved = unpool_halved,
    .add_unclipped = add_unclipped,
    .unpool_rows = unpool_rows,
    .normalize = normalize,
    .normalize_backward = normalize_backward,
    .mask = mask,
    .hash = hash,
};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
