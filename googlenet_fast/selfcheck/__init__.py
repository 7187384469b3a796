"""Is a backend right on this machine, and is it fast here?

`googlenet_fast.ops` installs the two hooks below in the registry. They import the rest on the
first call on a GPU. Nothing here imports ops or networks: it runs what is registered.
"""

from googlenet_fast.registry import Call, constant


@constant
def order(
    op: str, names: tuple[str, ...], device: str, layer: Call, batch: int | None
) -> tuple[str, ...]:
    """Return names of backends, the fastest first; see `registry.install_policy`."""
    from googlenet_fast.selfcheck import autotune

    return autotune.order(op, names, device, layer, batch)


@constant
def distrust(op: str, backend: str, device: str, layer: Call) -> str | None:
    """Return None if a backend is right on this GPU, else why it is not used."""
    from googlenet_fast.selfcheck import accuracy

    return accuracy.distrust(op, backend, device, layer)
