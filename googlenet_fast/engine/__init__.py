"""Configuration, training loop, distributed setup, checkpoints, logging and evaluation."""
