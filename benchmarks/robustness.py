"""The table in docs/robustness.md: the accuracy of two recipes on corrupted test images, several seeds each.

    python benchmarks/robustness.py --recipe plain --run RUN_FOLDER [--images 2000]
    python benchmarks/robustness.py

The first evaluates a finished run on the corruptions of some test images, evenly spaced, and adds it to the JSON file.
The second prints the table from this file.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from statistics import fmean

import numpy as np
from accuracy import portable
from training_speed import positive

from cifar_jax.evaluation import suites
from cifar_jax.metrics.classification import mean_interval
from cifar_jax.run import load_run
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run, start_devices

PATH = Path(__file__).resolve().parent / "results" / "robustness.json"
RECIPES = ("plain", "robust")
TITLES = {"clean": "test images as they are", "mean": "mean of the 75 corrupted sets", "ece": "mean ECE of these sets"}


def evaluated(folder: Path, images: int) -> dict:
    """Accuracies of one run on some test images, 0 to 1; `corruptions` are means over the five severities."""
    start_devices(folder)
    experiment, restored = restore_run(folder, checkpoint="best")
    test = experiment.dataset.test
    some = test.take(np.linspace(0, len(test) - 1, images).astype(int))
    experiment = dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, test=some))
    result = suites.evaluate_suite(experiment, restored.state.variables, suites.computed(experiment), tta=False)
    return {
        "seed": experiment.config.train.seed,
        "clean": result["clean"]["accuracy"],
        "mean": result["mean"]["accuracy"],
        "ece": result["mean"]["ece"],
        "severities": [severity["accuracy"] for severity in result["severities"]],
        "corruptions": {name: fmean(each["accuracy"] for each in sets) for name, sets in result["sets"].items()},
    }


def page(results: dict) -> str:
    """The table, in percent, and the command of each recipe."""
    plain, robust = (results[recipe]["runs"] for recipe in RECIPES)
    lines = ["| % | plain | robust | difference |", "| --- | ---: | ---: | ---: |"]

    def row(title: str, value) -> None:
        before, after = ([100 * value(run) for run in runs] for runs in (plain, robust))
        gains = [b - a for a, b in zip(before, after, strict=True)]  # of the same seed
        lines.append(f"| {title} | {_interval(before)} | {_interval(after)} | {_interval(gains, sign='+')} |")

    for name, title in TITLES.items():
        row(title, lambda run, name=name: run[name])
    for number in range(len(plain[0]["severities"])):
        row(f"severity {number + 1}", lambda run, number=number: run["severities"][number])
    for name in plain[0]["corruptions"]:
        row(f"`{name}`", lambda run, name=name: run["corruptions"][name])
    commands = [f"# {recipe}\n{results[recipe]['command']}" for recipe in RECIPES]
    return "\n".join([*lines, "", "```", *commands, "```"])


def _interval(values: list[float], sign: str = "") -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--run", type=Path, help="run folder")
    parser.add_argument("--images", type=positive, default=2000, help="test images")
    parser.add_argument("--data", default="CIFAR-10 (JPEG q75)")
    arguments = parser.parse_args()
    results = json.loads(PATH.read_text()) if PATH.exists() else {}
    if arguments.run:
        run = evaluated(arguments.run, arguments.images)
        finished = load_run(arguments.run).results
        results |= {"data": arguments.data, "n": arguments.images, "train_images": finished["train"]["n"]}
        results["environment"] = finished["environment"]
        command = portable(RunFolder(arguments.run).recorded()["command"])
        others = [each for each in results.get(arguments.recipe, {}).get("runs", []) if each["seed"] != run["seed"]]
        runs = sorted([*others, run], key=lambda each: each["seed"])
        results[arguments.recipe] = {"command": command, "runs": runs}
        PATH.write_text(json.dumps(results, indent=1) + "\n")
    if all(recipe in results for recipe in RECIPES):
        print(page(results))


if __name__ == "__main__":
    main()
