"""The result of a sweep: the accuracy of each combination of values on validation, and which of them is the best."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_jax.report.finished_runs import Group, Run
from cifar_jax.runs.json_files import write_json
from cifar_jax.runs.run_folder import RunFolder


def write(directory: Path, points: Sequence[Mapping], *, seeds: Sequence[int]) -> dict:
    """Writes sweep.json to `directory` from the finished runs; returns its content, see `modes.sweep.sweep`.

    Args:
        points: 'folder', relative to `directory`, 'changes', the values by key, and 'failure', '' for finished runs.

    Raises:
        DataError: a file of a run is missing or damaged.
    """
    groups = {point["folder"]: _runs(directory / point["folder"], seeds) for point in points if not point["failure"]}
    rows = [dict(point) for point in points]
    for row in rows:
        if group := groups.get(row["folder"]):
            row["validation"] = group.accuracy("validation")
    best = max((row for row in rows if not row["failure"]), key=lambda row: row["validation"]["accuracy"])
    chosen = groups[best["folder"]]
    summary = {
        "data": chosen.data,
        "seeds": list(seeds),
        "points": rows,
        "best": best["folder"],
        "test": chosen.accuracy("test") | {"tta": chosen.runs[0].results["test"]["tta"]},
    }
    write_json(directory / "sweep.json", summary)
    return summary


def _runs(folder: Path, seeds: Sequence[int]) -> Group:
    folders = [folder] if len(seeds) == 1 else [folder / f"seed_{seed}" for seed in seeds]
    return Group([Run.read(path.name, RunFolder(path)) for path in folders])


def describe(summary: Mapping) -> str:
    """The content of sweep.json for the terminal: one line for each combination, and the test accuracy of the best."""
    best = next(point for point in summary["points"] if point["folder"] == summary["best"])
    names = [_values(point) for point in summary["points"]]
    of_seeds = f", mean of {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else ""
    views = ", with test-time augmentation" if summary["test"]["tta"] else ""
    lines = [f"{summary['data']}, validation, n = {best['validation']['n']:,}{of_seeds}{views}"]
    for name, point in zip(names, summary["points"], strict=True):
        outcome = point["failure"] or _accuracy(point["validation"]) + ("  best" if point is best else "")
        lines.append(f"  {name:{max(map(len, names))}}  {outcome}")
    lines.append(f"{summary['data']}, test, n = {summary['test']['n']:,}{of_seeds}{views}")
    return "\n".join([*lines, f"  {_values(best)}  {_accuracy(summary['test'])}"])


def _values(point: Mapping) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in point["changes"].items())


def _accuracy(of_split: Mapping) -> str:
    low, high = of_split["interval"]
    return f"{of_split['accuracy']:.2%} [{low:.2%}, {high:.2%}]"
