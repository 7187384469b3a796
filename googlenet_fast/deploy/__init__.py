"""Files that run a trained network without this package."""
