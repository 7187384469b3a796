"""The weights and checkpoints that a PaddleClas configuration names, which have no suffix there."""

from pathlib import Path

from googlenet_fast.paddleclas.document import Section
from googlenet_fast.paddleclas.values import path

OURS = {"best_model": "best.pt", "latest": "last.pt"}
"""What PaddleClas calls the files that a run of ours leaves."""


def find_weights(section: Section, key: str) -> Path | None:
    """The file of weights that a key names: PaddleClas's or ours."""
    return _find(section, key, (".pdparams", ".pt"))


def find_checkpoint(section: Section, key: str) -> Path | None:
    """The checkpoint of ours that a key names."""
    found = _find(section, key, (".pt", ".pdparams"))
    if found is not None and found.suffix == ".pdparams":
        section.refuse(
            key,
            f"{found} is PaddleClas's, whose optimizer cannot be taken over; start from its "
            "weights with Global.pretrained_model",
        )
    return found


def _find(section: Section, key: str, suffixes: tuple[str, ...]) -> Path | None:
    named = section.take(key, path, None)
    if named is None:
        return None
    candidates = [named, *(Path(f"{named}{suffix}") for suffix in suffixes)]
    if named.name in OURS:
        candidates.append(named.with_name(OURS[named.name]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if str(named).startswith(("http:", "https:")):
        section.refuse(key, f"{named}: nothing is downloaded; name a file")
    return section.refuse(
        key, f"no such file; looked for {', '.join(str(candidate) for candidate in candidates)}"
    )
