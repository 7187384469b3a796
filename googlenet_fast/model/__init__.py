"""The network: GoogLeNet in three presets, and its weights in every format they come in."""

from googlenet_fast.model.feature_maps import FeatureMaps
from googlenet_fast.model.googlenet import GoogLeNet, GoogLeNetOutputs
from googlenet_fast.model.presets import PRESETS, Normalization, Preset

__all__ = ["PRESETS", "FeatureMaps", "GoogLeNet", "GoogLeNetOutputs", "Normalization", "Preset"]
