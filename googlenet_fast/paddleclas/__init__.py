"""PaddleClas configurations, translated into the options of this package."""

from googlenet_fast.paddleclas.reading import read_document
from googlenet_fast.paddleclas.translation import PaddleClasConfig, read_config, translate

__all__ = ["PaddleClasConfig", "read_config", "read_document", "translate"]
