"""`--mode report`: the page of one run, or the comparison of all runs below a folder."""

from pathlib import Path

from cifar_jax.report import comparison, figures, page
from cifar_jax.runs.run_folder import RunFolder


def report(workdir: str | Path) -> list[Path]:
    """Writes the page of one run again, or compares all finished runs below a folder.

    Returns:
        The files written.
    """
    folder = RunFolder(Path(workdir))
    if not folder.config_json.exists():
        return comparison.write(folder.path)
    figures.redraw(folder)
    return [page.write(folder)]
