"""torch.jit.trace works where nothing has gradients, and says so elsewhere."""

import io

import pytest
import torch

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.presets import PRESETS
from tests.deploy.trained_networks import random_network

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # deprecated; sizes are constants


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_trace_takes_any_number_and_size_of_images(preset: str) -> None:
    """Saved and loaded; the ops of this package are found where it is imported."""
    model = random_network(preset)
    with torch.no_grad():
        saved = io.BytesIO()
        torch.jit.save(torch.jit.trace(model, torch.randn(2, 3, 64, 64)), saved)
        traced = torch.jit.load(io.BytesIO(saved.getvalue()))
        for shape in ((1, 3, 64, 64), (3, 3, 96, 71)):
            images = torch.randn(shape)
            expected = model(images)
            torch.testing.assert_close(traced(images), expected, rtol=1e-3, atol=1e-4)


def test_gradients_cannot_be_traced() -> None:
    with pytest.raises(
        GoogLeNetError, match=r"torch\.jit\.trace .* call it under torch\.no_grad\(\)"
    ):
        torch.jit.trace(random_network("paper"), torch.randn(1, 3, 64, 64))
