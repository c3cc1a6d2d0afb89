"""history.json: one list per column, one element per finished epoch.

Without a validation split, there are no columns val_loss and val_accuracy.
It has no checksum, so that programs find only columns in it: results.json has its checksum, and checkpoints its rows.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from cifar_jax.errors import DataError
from cifar_jax.runs import forms
from cifar_jax.runs.json_files import plain, problems, read_json, write_json

log = logging.getLogger(__name__)


def read_history(path: Path) -> dict[str, list]:
    """The columns in a history.json.

    Raises:
        DataError: the file is missing or damaged.
    """
    columns = read_json(path, forms.HISTORY, with_checksum=False)
    if forms.VALIDATION_HISTORY.keys() & columns.keys() and (
        found := list(problems(columns, forms.VALIDATION_HISTORY))
    ):
        raise DataError(f"{path} is damaged: {'; '.join(found[:3])}")
    if len({len(values) for values in columns.values() if isinstance(values, list)}) > 1:
        raise DataError(f"{path} is damaged: its columns differ in length")
    return columns


def until(columns: Mapping[str, list], epoch: float) -> dict[str, list]:
    """The rows up to `epoch`."""
    kept = [i for i, known in enumerate(columns["epoch"]) if known <= epoch]
    return {name: [values[i] for i in kept] for name, values in columns.items()}


class History:
    """The rows of a run that trains. Only one process `writes` the file."""

    def __init__(self, path: Path, *, with_validation: bool = True, writes: bool = True):
        """Starts an empty history; the file appears with its first row."""
        self._path, self._writes = path, writes
        names = forms.COLUMNS if with_validation else forms.HISTORY
        self.columns: dict[str, list] = {name: [] for name in names}

    def resume(self, metadata: Mapping, *, epoch: int) -> None:
        """Continues after `epoch` with the rows in the metadata of its checkpoint; the file is made to agree with them.

        Raises:
            DataError: the file is damaged and the checkpoint, of an older version, has no rows.
        """
        found, problem = None, f"{self._path} differs from the checkpoint"
        try:
            found = until(read_history(self._path), epoch)
        except DataError as error:
            problem = str(error)
        columns = metadata.get("history", found)
        if columns is None:
            raise DataError(f"{problem}, and the checkpoints, of an older version, have no copy of it: train again")
        if found != columns and self._writes:
            log.warning("%s: written again from the rows in the checkpoint", problem)
        self._replace(columns)

    def __len__(self) -> int:
        return len(self.columns["epoch"])

    def append(self, row: Mapping[str, float | None]) -> None:
        """Adds an epoch and writes the file.

        Raises:
            ValueError: `row` has other columns.
            DataError: the file cannot be written.
        """
        if row.keys() != self.columns.keys():
            raise ValueError(f"a row of the history has the columns {list(self.columns)}, not {list(row)}")
        self._replace({name: [*values, row[name]] for name, values in self.columns.items()})

    def _replace(self, columns: Mapping[str, list]) -> None:
        columns = plain(columns)
        if self._writes:
            try:
                write_json(self._path, columns, with_checksum=False)
            except DataError as error:
                hint = "earlier checkpoints stay usable, the same command continues from the newest"
                raise DataError(f"{error}; {hint}") from error
        self.columns = columns
