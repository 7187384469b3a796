"""A process's place in a run."""

import pytest
import torch

from googlenet_fast.engine.distributed import distributed
from googlenet_fast.errors import UserError


def test_one_process_needs_no_group() -> None:
    with distributed("cpu") as process:
        assert process.is_main
        assert process.device == torch.device("cpu")
        tensor = torch.ones(2)
        assert process.sum(tensor) is tensor
        assert process.broadcast({"a": 1}) == {"a": 1}
        assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_a_gpu_without_one() -> None:
    with (
        pytest.raises(UserError, match=r"--device cuda: process 0 .* has no GPU \(0 found\)"),
        distributed("cuda"),
    ):
        pass
