"""GoogLeNet (Inception v1) trained and run as fast as the hardware allows."""

from googlenet_fast.model import GoogLeNet, GoogLeNetOutputs
from googlenet_fast.model.weights import load_model, load_weights, save_weights

__version__ = "0.1.0"

__all__ = ["GoogLeNet", "GoogLeNetOutputs", "load_model", "load_weights", "save_weights"]
