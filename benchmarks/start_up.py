"""Seconds from the command to the start and the end of the first training step, with a cold and a warm cache.

    python benchmarks/start_up.py [--output NAME.json] -- --config configs/cnn_scratch.py [--config.key=value ...]

Arguments after `--` go to `main.py`. One untimed run decodes the data beforehand. Each run ends after its first step.
The cold start has an empty compilation cache; the warm starts use the cache that it filled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training_speed import HERE, surroundings


def first_step() -> None:
    """Runs main.py in this process up to the end of the first training step; prints when the step began and ended."""
    sys.argv[0] = str(HERE.parent / "main.py")
    sys.path.insert(0, str(HERE.parent))
    from cifar_jax.memory import use_huge_pages

    use_huge_pages()  # as main.py does
    from cifar_jax import cli

    class FirstStep:  # a `cifar_jax.training.hooks.Hook`, whose import would start JAX before the flags are read
        def before_steps(self, step):
            self.began = time.time()

        def after_steps(self, step, metrics):
            metrics.count.block_until_ready()
            since = float(os.environ["START"])
            print(json.dumps({"to_its_start": self.began - since, "to_its_end": time.time() - since}), flush=True)
            os._exit(0)

        def __getattr__(self, event):
            return lambda *arguments, **keywords: None

    cli.main(hooks=[FirstStep()])


def seconds(arguments: list[str], cache: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, *arguments, "--workdir", f"{workdir}/run"]
        environment = {**os.environ, "START": str(time.time()), "JAX_COMPILATION_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="warm starts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "start_up.json")
    parser.add_argument("arguments", nargs="+", help="of main.py, after --")
    options = parser.parse_args()
    before = surroundings()
    with tempfile.TemporaryDirectory() as cache:
        seconds(options.arguments, cache)  # decodes the data and reads the libraries from disk
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(options.arguments, cache)
        warm = [seconds(options.arguments, cache) for _ in range(options.rounds)]
    medians = {moment: statistics.median(start[moment] for start in warm) for moment in cold}
    report = {**before, "arguments": options.arguments, "cold": cold, "warm": warm, "median_warm": medians}
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    for moment in cold:
        print(f"{moment.replace('_', ' ')}: cold {cold[moment]:.1f} s, warm {medians[moment]:.1f} s")
    print(f"written to {options.output}")


if __name__ == "__main__":
    first_step() if "START" in os.environ else main()
