"""Find the weights and checkpoints of a PaddleClas configuration, which omits suffixes."""

from pathlib import Path

from googlenet_fast.paddleclas.document import Section
from googlenet_fast.paddleclas.values import path_or_url

RENAMED = {"best_model": "best.pt", "latest": "last.pt"}
"""Name of a file of PaddleClas -> the same file of a googlenet_fast run."""


def find_weights(section: Section, key: str) -> Path | str | None:
    """Return the file of weights of a key, of PaddleClas or googlenet_fast, or its URL."""
    return _find(section, key, (".pdparams", ".pt"))


def find_checkpoint(section: Section, key: str) -> Path | None:
    """Return the googlenet_fast checkpoint of a key."""
    found = _find(section, key, (".pt", ".pdparams"))
    if isinstance(found, str):
        section.refuse(key, f"{found}: runs continue from files; name one")
    if found is not None and found.suffix == ".pdparams":
        section.refuse(
            key,
            f"{found} is PaddleClas's, whose optimizer state is not supported; start from its "
            "weights with Global.pretrained_model",
        )
    return found


def _find(section: Section, key: str, suffixes: tuple[str, ...]) -> Path | str | None:
    named = section.take(key, path_or_url, None)
    if named is None or isinstance(named, str):
        return named
    candidates = [named, *(Path(f"{named}{suffix}") for suffix in suffixes)]
    if named.name in RENAMED:
        candidates.append(named.with_name(RENAMED[named.name]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    return section.refuse(
        key, f"no such file; looked for {', '.join(str(candidate) for candidate in candidates)}"
    )
