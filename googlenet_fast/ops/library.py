"""The operator library `torch.ops.googlenet_fast`; each op defines itself in it."""

import torch

LIBRARY = torch.library.Library("googlenet_fast", "FRAGMENT")
"""Schemas, fakes and references are entered here, kernels by the compiled extension."""

TAGS = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
"""Of every op: under torch.compile its arguments keep their strides."""
