"""Parts of the network that flags name, for their learning rates and for freezing."""

from collections.abc import Collection

from torch import nn

from googlenet_fast.choices import PARTS
from googlenet_fast.errors import GoogLeNetError

HEADS = ("aux", "fc")
DEPTHS = {part: len(PARTS) - len(HEADS) - i for i, part in enumerate(PARTS) if part not in HEADS}
"""How far a part is from the heads: 1 for `5b`, 10 for `stem`."""


def part_of(name: str) -> str:
    """Return which of `PARTS` a parameter or child belongs to.

    Args:
        name: as `named_parameters` and `named_children` give it.
    """
    child = name.partition(".")[0]
    for prefix, part in (("conv", "stem"), ("aux", "aux")):
        if child.startswith(prefix):
            return part
    return child.removeprefix("inception")


def freeze_parts(model: nn.Module, parts: Collection[str]) -> None:
    """Let parts keep their weights, and use the statistics of their batch norms as they are.

    Args:
        model: a `GoogLeNet` in training mode. Whoever sets its mode later calls this again.
        parts: of `PARTS`, or `backbone` for all but the heads.

    Raises:
        GoogLeNetError: nothing is left to train.
    """
    for name, child in model.named_children():
        part = part_of(name)
        if part in parts or ("backbone" in parts and part in PARTS and part not in HEADS):
            child.eval().requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise GoogLeNetError(
            f"--model.freeze {','.join(parts)}: leaves nothing to train; leave fc out"
        )
