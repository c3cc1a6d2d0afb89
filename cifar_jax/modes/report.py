"""`--mode report`: the report of a run, or a comparison of all runs in a folder."""

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
        if not folder.is_run:
            return comparison.write(folder.path)
        figures.redraw(folder)
        return [page.write(folder)]
    except OSError as error:
        raise DataError(
            f"{error.filename2 or error.filename or folder.path} cannot be written: {error.strerror}; copy the folder "
            "(checkpoints/ is not needed) to where you can write, and name the copy with --workdir"
        ) from error
