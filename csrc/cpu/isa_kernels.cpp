// The vector kernels of the instruction set GOOGLENET_FAST_ISA. The build compiles this once per
// set.

#include "gemm.h"
#include "hash.h"
#include "kernel_configs.h"
#include "lrn.h"
#include "pool.h"
#include "relu_mask.h"
#include "winograd.h"

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

extern const KernelConfigs kConfigs;
const KernelConfigs kConfigs{
    .isa = NAME(GOOGLENET_FAST_ISA),
    .gemm = kGemm,
    .winograd = kWinograd,
    .pool = kPool,
    .lrn = kLrn,
    .relu_mask = kReluMask,
    .hash = kHash,
};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
