"""What `python -m googlenet_fast.doctor` finds out about a machine."""
