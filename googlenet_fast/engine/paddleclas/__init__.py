"""Configurations of PaddleClas: read as they are, translated into ours."""

from googlenet_fast.engine.paddleclas.reading import read_document
from googlenet_fast.engine.paddleclas.translation import PaddleClasConfig, translate

__all__ = ["PaddleClasConfig", "read_document", "translate"]
