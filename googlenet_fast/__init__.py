"""GoogLeNet (Inception v1) trained and run as fast as the hardware allows."""

__version__ = "0.1.0"
