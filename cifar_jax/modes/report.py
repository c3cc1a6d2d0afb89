"""`--mode report`: the report of a run, or a comparison of all runs in a folder."""

import errno
import os
from pathlib import Path

from cifar_jax.errors import DataError
from cifar_jax.report import comparison, figures, page
from cifar_jax.runs.run_folder import RunFolder


def report(workdir: str | Path) -> list[Path]:
    """Rewrites the report of a run; given a folder of runs, compares all finished runs in it.

    Args:
        workdir: a run folder, or a folder that contains run folders.

    Returns:
        The files written.

    Raises:
        UsageError: there is no finished run.
        DataError: a file of the run is missing or damaged.
    """
    folder = RunFolder(Path(workdir))
    try:
        if folder.path.is_dir() and not os.access(folder.path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder.path)
        if not folder.is_run:
            return comparison.write(folder.path)
        figures.redraw(folder)
        return [page.write(folder)]
    except OSError as error:
        path = Path(error.filename or folder.path)
        path = path.parent if path.name.startswith(".") else path  # the temporary name of a figure
        raise DataError(
            f"{path} cannot be written: {error.strerror}; copy the folder (checkpoints/ is not needed) to where you "
            "can write, and name the copy with --workdir"
        ) from error
