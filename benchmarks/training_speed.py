"""Training speed on the CPU in images/s, compared with Keras 3 (JAX backend) and PyTorch.

    python benchmarks/training_speed.py [--peer-python PATH] [--norm batch|none] [--rounds 5] [--steps 4]

Each variant has its own process, which compiles and warms up once. The processes then take turns (A B C, C B A, ...):
only one runs at a time, and slow phases of the machine affect all variants. See benchmarks/README.md.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VARIANTS = {"ours": "cifar_jax", "keras": "Keras 3 (JAX)", "torch": "PyTorch (eager)"}


class Worker:
    """A process that trains one variant for some steps per call of `round`.

    Attributes:
        description: versions and number of parameters, or {'absent': reason}.
        answers: the result of every round, in order.
    """

    def __init__(self, name: str, python: str, settings: dict, script: Path = HERE / "training_speed_worker.py"):
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        self.name, self.answers = name, []
        self.process = subprocess.Popen(
            [python, str(script), name, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description = self._answer()

    @property
    def is_absent(self) -> bool:
        return "absent" in self.description

    def round(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(self._answer())
        if not math.isfinite(self.answers[-1]["loss"]):
            sys.exit(f"error: the loss of {self.name} is not finite, so its speed is not comparable")

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: the process of {self.name} exited; see its message above")
        return json.loads(line)

    def result(self) -> dict:
        if self.is_absent:
            return self.description
        speeds = [answer["images_per_second"] for answer in self.answers]
        return {
            **self.description,
            "images_per_second": speeds,
            "median": statistics.median(speeds),
            "best": max(speeds),
            "losses": [answer["loss"] for answer in self.answers],
        }


def start(arguments: argparse.Namespace, workers: dict[str, Worker]) -> None:
    """Starts the variants one after the other. The peers build their network from the widths that ours reports."""
    settings = {name: getattr(arguments, name) for name in ("norm", "steps", "batch_size")}
    settings |= {"images": max(5000, arguments.steps * arguments.batch_size), "changes": {}}
    for name, title in VARIANTS.items():
        print(f"{title}: compiling and warming up", file=sys.stderr)
        python = sys.executable if name == "ours" else arguments.peer_python
        worker = workers[name] = Worker(name, python, settings)
        ours = workers["ours"].description
        if "absent" in ours:
            sys.exit(f"error: cifar_jax cannot be imported ({ours['absent']}): pip install . first")
        settings["widths"] = ours["widths"]
        if not worker.is_absent and worker.description["trained_parameters"] != ours["trained_parameters"]:
            sys.exit(f"error: {name} trains a different network: {worker.description}, ours: {ours}")


def measure(arguments: argparse.Namespace) -> dict[str, dict]:
    """The result of each variant."""
    workers: dict[str, Worker] = {}
    try:
        start(arguments, workers)
        present = [worker for worker in workers.values() if not worker.is_absent]
        for number in range(arguments.rounds):
            for worker in present if number % 2 == 0 else reversed(present):
                worker.round()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    return {name: worker.result() for name, worker in workers.items()}


def surroundings() -> dict:
    """Date, machine and load. Call it before the measurement, which raises the load."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "load_before": os.getloadavg()[0],  # near 0 on an idle machine
        },
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    """The processor model: from /proc/cpuinfo on Linux, else from `platform`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def table(variants: dict[str, dict]) -> str:
    rows = [f"{'':18}{'median':>10}{'best':>10}{'ratio':>12}   images/s; ratio = ours / variant, of medians"]
    for name, result in variants.items():
        if "absent" in result:
            rows.append(f"{VARIANTS[name]:18}{'absent':>10}   {result['absent']}")
        else:
            ratio = variants["ours"]["median"] / result["median"]
            rows.append(f"{VARIANTS[name]:18}{result['median']:10,.0f}{result['best']:10,.0f}{ratio:12.2f}")
    return "\n".join(rows)


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: must be an integer above 0")
    return int(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--norm", choices=("batch", "none"), default="batch")
    parser.add_argument("--rounds", type=positive, default=5, help="timed rounds of each variant")
    parser.add_argument("--steps", type=positive, default=4, help="training steps per round")
    parser.add_argument("--batch-size", type=positive, default=512)
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has Keras and PyTorch")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/training_speed_NORM.json")
    arguments = parser.parse_args()
    arguments.output = arguments.output or HERE / "results" / f"training_speed_{arguments.norm}.json"
    if not shutil.which(arguments.peer_python):
        parser.error(f"--peer-python {arguments.peer_python}: no such interpreter")
    return arguments


def main() -> None:
    arguments = parse()
    before = surroundings()
    variants = measure(arguments)
    ours = variants["ours"]
    report = {
        **before,
        "settings": {name: getattr(arguments, name) for name in ("norm", "rounds", "steps", "batch_size")},
        "glibc_tunables_of_all": os.environ.get("GLIBC_TUNABLES", ""),  # ours sets its own where this is empty
        "variants": variants,
        "ours_divided_by": {
            name: {kind: ours[kind] / peer[kind] for kind in ("median", "best")}
            for name, peer in variants.items()
            if name != "ours" and "absent" not in peer
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{table(variants)}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
