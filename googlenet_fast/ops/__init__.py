"""The fused operations that GoogLeNet and its training are made of, each with several backends.

Every op of the network takes and returns (N, C, H, W) tensors, channels_last, and works with
autograd, autocast and torch.compile. Under torch.func and forward-mode AD the pure-PyTorch
references run.
`googlenet_fast.registry` says how a backend is chosen.
"""

from googlenet_fast import selfcheck
from googlenet_fast.ops import flops
from googlenet_fast.ops.bias_relu_pool import bias_relu_pool
from googlenet_fast.ops.bn_relu_concat import bn_relu_concat
from googlenet_fast.ops.bn_relu_pool import bn_relu_pool
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu
from googlenet_fast.ops.conv_bias_relu import conv_bias_relu
from googlenet_fast.ops.inception import inception
from googlenet_fast.ops.inception_bn import inception_bn
from googlenet_fast.ops.local_response_norm import local_response_norm
from googlenet_fast.ops.max_pool import max_pool
from googlenet_fast.ops.packed_weights import pack_inception, pack_weight
from googlenet_fast.ops.sgd_step import find_nonfinite, sgd_step
from googlenet_fast.registry import install_policy, use_impl

__all__ = [
    "bias_relu_pool",
    "bn_relu_concat",
    "bn_relu_pool",
    "concat_bias_relu",
    "conv_bias_relu",
    "find_nonfinite",
    "inception",
    "inception_bn",
    "local_response_norm",
    "max_pool",
    "pack_inception",
    "pack_weight",
    "sgd_step",
    "use_impl",
]

install_policy(selfcheck.order, selfcheck.distrust)
flops.register()
