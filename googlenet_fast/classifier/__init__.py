"""A trained network that names what images show."""

from googlenet_fast.classifier.classifier import Classifier, load

__all__ = ["Classifier", "load"]
