"""The table of accuracies in docs/results.md: collects finished runs into a JSON file, prints table and commands.

    python benchmarks/accuracy.py --add RUN_FOLDER --model "ResNet-50, frozen" [--weights "..."] [--machine Xeon]
    python benchmarks/accuracy.py

RUN_FOLDER holds one run or, with `train.seeds`, one run per seed; unfinished ones are left out. A folder whose name is
already in the file replaces that entry. Figures are copied from results.json and history.json; nothing is computed but
mean and interval.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import fmean

from cifar_jax.metrics.classification import mean_interval
from cifar_jax.report.finished_runs import comparable_accuracy
from cifar_jax.run import load_run
from cifar_jax.runs.run_folder import RunFolder

PATH = Path(__file__).resolve().parent / "results" / "accuracy.json"
HEADER = """\
| # | model | weights | pixels | machine | seeds | n | test accuracy [95 %] | without TTA | minutes |
| ---: | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def entry(folder: Path, *, model: str, weights: str, data: str, machine: str, minutes_of: str) -> dict:
    """What the table and its readers need of one finished run, or of several that differ in the seed only."""
    folders = [path.parent for path in sorted(folder.glob("seed_*/results.json"))] or [folder]
    runs = [load_run(run) for run in folders]
    config, results = runs[0].config, [run.results for run in runs]
    tests = [result["test"] for result in results]
    accuracies = [test["accuracy"] for test in tests]
    if len(runs) > 1:
        accuracy, *interval = mean_interval(accuracies, bounds=(0, 1))
    else:
        accuracy, interval = accuracies[0], tests[0]["accuracy_interval"]
    validation = [result["validation"] for result in results if "validation" in result]
    return {
        "model": model,
        "weights": weights,
        "data": data,
        "machine": machine,
        "pixels": list(config.train.image_sizes) or config.model.image_size or 32,
        "epochs": config.train.epochs,
        "n": tests[0]["n"],
        "seeds": [result["seed"] for result in results],
        "accuracies": accuracies,
        "accuracy": accuracy,
        "interval": list(interval),
        "validation_accuracies": [comparable_accuracy(split) for split in validation],
        "without_tta": [test["without_tta"]["accuracy"] for test in tests if test["tta"]],
        "minutes": [result["seconds"]["run"] / 60 for result in results],
        "minutes_of": minutes_of,
        "images_per_second": [result["images_per_second"] for result in results],
        "parameters": results[0]["parameters"],
        "command": portable(RunFolder(folders[0]).recorded()["command"]),
        "environment": results[0]["environment"],
        "history": [{name: run.history.get(name, []) for name in ("val_accuracy", "seconds")} for run in runs],
    }


def portable(command: str) -> str:
    """A recorded command without the paths of the machine on which it ran, and without the seeds."""
    command = re.sub(r" '?--(workdir[= ]|config.train.seeds?=)\S+", "", command)
    return re.sub(r"=/\S*/", "=", command)


def row(number: int, values: dict) -> str:
    low, high = (100 * bound for bound in values["interval"])
    pixels = values["pixels"]
    shown = ", ".join(map(str, pixels)) if isinstance(pixels, list) else str(pixels)
    without_tta = f"{100 * fmean(values['without_tta']):.1f} %" if values["without_tta"] else ""
    cells = (
        *(str(number), values["model"], values["weights"], shown, values["machine"]),
        *(str(len(values["seeds"])), f"{values['n']:,}", f"{100 * values['accuracy']:.1f} % [{low:.1f}, {high:.1f}]"),
        *(without_tta, f"{fmean(values['minutes']):.0f}"),
    )
    return f"| {' | '.join(cells)} |"


def page(entries: dict[str, dict]) -> str:
    """The table, and the command of each row."""
    rows = [row(number, values) for number, values in enumerate(entries.values(), start=1)]
    numbers: dict[str, list[str]] = {}
    for number, values in enumerate(entries.values(), start=1):
        numbers.setdefault(values["command"], []).append(str(number))
    commands = [f"# {', '.join(of_rows)}\n{command}" for command, of_rows in numbers.items()]
    return "\n".join([HEADER, *rows, "", "```", *commands, "```"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--add", type=Path, help="run folder")
    parser.add_argument("--model", default="")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--data", default="CIFAR-10 (JPEG q75)")
    parser.add_argument("--machine", default="Xeon", help="its short name in docs/results.md")
    parser.add_argument(
        "--minutes-of", default="training and validation", help="what the minutes measure, and the load"
    )
    arguments = parser.parse_args()
    entries = json.loads(PATH.read_text()) if PATH.exists() else {}
    if arguments.add:
        settings = {"model": arguments.model, "weights": arguments.weights, "data": arguments.data}
        settings |= {"machine": arguments.machine, "minutes_of": arguments.minutes_of}
        entries[arguments.add.name] = entry(arguments.add, **settings)
        PATH.write_text(json.dumps(entries, indent=1) + "\n")
    print(page(entries))


if __name__ == "__main__":
    main()
