"""`--mode report`: the report of a run, or a comparison of all runs in a folder."""

from pathlib import Path

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
    if not folder.config_json.exists():
        return comparison.write(folder.path)
    figures.redraw(folder)
    return [page.write(folder)]
