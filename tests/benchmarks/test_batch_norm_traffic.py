"""Training with batch norm moves less than eager PyTorch does."""

import pytest

from googlenet_fast import extension

pytest.importorskip("torchvision")

from benchmarks.tools.batch_norm_traffic import REPORT, rows, table


@pytest.mark.skipif(extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE))
@pytest.mark.parametrize("name", ["3b", "4d", "5a", "all"])
def test_it_moves_about_half_of_eager_bytes(name: str) -> None:
    found = rows(name)
    eager, ours = found[name]
    assert ours.megabytes <= (0.5 if name == "all" else 0.58) * eager.megabytes
    assert 2 * ours.launches < eager.launches
    assert table(found) in REPORT.read_text()
