"""The metadata of checkpoints, read without JAX: preprocessing, classes, history, configuration, and checksums."""

from pathlib import Path

from cifar_jax.errors import DataError
from cifar_jax.runs.json_files import json_checksum, load_object


def steps(directory: Path) -> list[int]:
    """All steps in a directory of checkpoints, in ascending order, including damaged ones."""
    if not directory.is_dir():
        return []
    numbered = (path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())
    return sorted(int(path.name) for path in numbered if not is_empty(path))


def is_empty(directory: Path) -> bool:
    try:
        return not any(directory.iterdir())
    except FileNotFoundError:  # removed by a run that trains at the same time
        return True


def read_meta(checkpoint: Path) -> dict:
    """'metadata', 'leaves' (their checksums) and 'val_accuracy' of one checkpoint.

    Raises:
        DataError: damaged or missing.
    """
    try:
        meta = load_object(checkpoint / "meta" / "metadata")
    except DataError as error:
        raise DataError(f"its metadata cannot be read ({error})") from error
    if meta.pop("sha256", None) != json_checksum(meta):
        raise DataError("wrong checksum of its metadata")
    return meta


def newest_metadata(directory: Path) -> tuple[int, dict] | None:
    """Step and metadata of the newest checkpoint whose metadata are intact."""
    for step in reversed(steps(directory)):
        try:
            return step, read_meta(directory / str(step))["metadata"]
        except (DataError, OSError):  # reported when this checkpoint is restored
            continue
    return None
