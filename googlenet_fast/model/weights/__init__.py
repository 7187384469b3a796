"""Weights: PyTorch, safetensors, PaddleClas and Caffe files, loaded and saved."""

from googlenet_fast.model.weights.load import LoadReport, ModelInfo, load_model, load_weights
from googlenet_fast.model.weights.save import save_weights

__all__ = ["LoadReport", "ModelInfo", "load_model", "load_weights", "save_weights"]
