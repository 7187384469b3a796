"""The network: GoogLeNet in three presets, and its weights in every format they come in."""
