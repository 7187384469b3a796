"""What several test files share."""

import pytest

TRITON = pytest.param("triton", marks=pytest.mark.triton)
"""Parameter of tests that run every backend: this one needs Triton."""
