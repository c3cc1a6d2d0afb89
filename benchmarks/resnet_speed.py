"""Speed of ResNet-50 on the CPU in images/s, compared with Keras 3 (JAX backend) and PyTorch.

    python benchmarks/resnet_speed.py [--peer-python PATH] [--rounds 5] [--seconds 1] [--cases train_64 ...]

Forward passes and training steps (SGD with Nesterov momentum) at several image sizes, float32. Each variant has its
own process, which compiles and warms up once. For each case the processes then take turns (A B C, C B A, ...): only
one runs at a time, and slow phases of the machine affect all variants. See benchmarks/README.md.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from training_speed import HERE, VARIANTS, positive, surroundings

CASES = {  # (image size, batch size)
    "forward_32": (32, 64),
    "forward_64": (64, 32),
    "forward_224": (224, 16),
    "train_32": (32, 64),
    "train_64": (64, 32),
}


class Worker:
    """A process that runs one case of one variant per call of `round`.

    Attributes:
        description: versions and number of parameters, or {'absent': reason}.
        speeds: case -> images/s of every round.
    """

    def __init__(self, name: str, python: str, settings: dict):
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        self.name, self.speeds = name, {case: [] for case in settings["cases"]}
        self.process = subprocess.Popen(
            [python, str(HERE / "resnet_speed_worker.py"), name, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description = self._answer()

    def round(self, case: str) -> None:
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        answer = self._answer()
        if not math.isfinite(answer["result"]):
            sys.exit(f"error: {case} of {self.name} returned {answer['result']}, so its speed is not comparable")
        self.speeds[case].append(answer["images_per_second"])

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: the process of {self.name} exited; see its message above")
        return json.loads(line)


def measure(arguments: argparse.Namespace) -> list[Worker]:
    """Runs all rounds. Workers whose library is not installed have no speeds."""
    settings = {"cases": {case: CASES[case] for case in arguments.cases}, "seconds": arguments.seconds}
    workers: list[Worker] = []
    try:
        for name, title in VARIANTS.items():
            print(f"{title}: compiling and warming up", file=sys.stderr)
            python = sys.executable if name == "ours" else arguments.peer_python
            workers.append(Worker(name, python, settings))
        present = [worker for worker in workers if "absent" not in worker.description]
        if len({worker.description["kernel_parameters"] for worker in present}) > 1:
            sys.exit(f"error: the networks differ: {[worker.description for worker in present]}")
        for number in range(arguments.rounds):
            for case in arguments.cases:
                for worker in present if number % 2 == 0 else reversed(present):
                    worker.round(case)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    return workers


def summary(workers: list[Worker]) -> dict[str, dict]:
    """Case -> median images/s of each variant, and ours divided by each."""
    present = [worker for worker in workers if "absent" not in worker.description]
    cases = {}
    for case in present[0].speeds:
        medians = {worker.name: statistics.median(worker.speeds[case]) for worker in present}
        ratios = {name: medians["ours"] / median for name, median in medians.items() if name != "ours"}
        cases[case] = {"median": medians, "ours_divided_by": ratios}
    return cases


def table(cases: dict[str, dict]) -> str:
    rows = [f"{'images/s (ratio)':20}" + "".join(f"{VARIANTS[name]:>22}" for name in VARIANTS)]
    for case, values in cases.items():
        cells = [
            f"{median:,.1f}" + (f" ({values['ours_divided_by'][name]:.2f})" if name != "ours" else "")
            for name, median in values["median"].items()
        ]
        rows.append(f"{case:20}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=positive, default=5, help="timed rounds of each variant")
    parser.add_argument("--seconds", type=float, default=1.0, help="minimum seconds of one round")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has Keras and PyTorch")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "resnet_speed.json")
    arguments = parser.parse_args()
    if not shutil.which(arguments.peer_python):
        parser.error(f"--peer-python {arguments.peer_python}: no such interpreter")
    return arguments


def main() -> None:
    arguments = parse()
    before = surroundings()
    workers = measure(arguments)
    if "absent" in workers[0].description:
        sys.exit(f"error: cifar_jax cannot be imported ({workers[0].description['absent']}): pip install . first")
    report = {
        **before,
        "settings": {name: getattr(arguments, name) for name in ("rounds", "seconds")},
        "cases": summary(workers),
        "variants": {worker.name: {**worker.description, "images_per_second": worker.speeds} for worker in workers},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{table(report['cases'])}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
