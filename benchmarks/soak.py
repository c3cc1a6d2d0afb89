"""Faults at random moments of a small run: nothing may be lost, nothing silent, and no error may be a traceback.

    python benchmarks/soak.py [--only kills signals ...] [--scale 0.1] [--seed 0] [--output NAME.json]

Runs that end after kills, signals, full disks and jumps of the clock must be bit-identical to an uninterrupted run, in
their parameters and their history. Full disks need root (a tmpfs of limited size); otherwise they are
skipped. Results of sections that are not run again are kept in the output file.
"""

import argparse
import collections
import contextlib
import glob
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from training_speed import HERE, surroundings

sys.path.insert(0, str(HERE.parent))

import jax

from cifar_jax.training.restore import restore_run
from cifar_jax.training.results import source_revision

RECIPE = (
    *("--config=cnn_scratch", "--config.data.name=shapes", "--config.data.limit=60", "--noconfig.evaluation.tta"),
    *("--config.model.widths=(8,)", "--config.model.convs_per_block=1", "--config.mesh.cpu_devices=1"),
    *("--config.train.batch_size=10", "--config.train.epochs=6", "--config.checkpoint.every_steps=2"),
)
CLOCK = """
import runpy, sys, time
from pathlib import Path
now, offset = time.time, Path(sys.argv.pop(1))
time.time = lambda: now() + float(offset.read_text() or 0)
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""  # main.py with a clock that a file moves
CLOCKS = ("images_per_second", "seconds")
TIMEOUT_S = 300  # for one start, on a busy machine


class Soak:
    """A folder of runs, a reference run in it, and what was found."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.choose = folder, random.Random(seed)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.run(folder / "reference")  # compiles, and fills the cache
        shutil.rmtree(folder / "reference")
        started = time.monotonic()
        self.run(folder / "reference")
        self.seconds = time.monotonic() - started
        self.reference = bits(folder / "reference")

    def start(
        self, workdir: Path, *, environment: dict[str, str] | None = None, program: tuple[str, ...] = ("main.py",)
    ) -> subprocess.Popen:
        command = [sys.executable, *program, *RECIPE, f"--workdir={workdir}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=HERE.parent, env=os.environ | (environment or {}), **pipes)

    def finish(self, process: subprocess.Popen, *, timeout: float = TIMEOUT_S) -> tuple[int, str]:
        """Exit code and stderr; a process that hangs is killed, and has the code -9."""
        try:
            _, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            err = f"no end within {timeout} s\n" + process.communicate()[1]
        return process.returncode, err

    def run(self, workdir: Path) -> tuple[int, str]:
        return self.finish(self.start(workdir))

    def count(self, outcome: str, *, is_right: bool, details: str = "") -> None:
        self.outcomes[outcome] += 1
        if not is_right:
            self.failures.append(f"{outcome}: {details[-2000:]}")
            print(f"  {outcome}: {details[-2000:]}", file=sys.stderr, flush=True)

    def complete(self, workdir: Path) -> None:
        """Ends the run without faults and compares it with the reference."""
        code, err = self.run(workdir)
        same = code == 0 and bits(workdir) == self.reference
        self.count("runs bit-identical in the end" if same else "runs not identical", is_right=same, details=err)
        left = [str(path) for path in workdir.rglob(".*.*") if path.is_file()]
        if left:
            self.count("temporary files left", is_right=False, details=" ".join(left))


def bits(workdir: Path) -> str:
    """A checksum of the state of the latest checkpoint and of the history without its clocks."""
    state = restore_run(workdir, checkpoint="latest")[1].state
    history = json.loads((workdir / "history.json").read_text())
    assert all(0 <= seconds < 3600 for seconds in history["seconds"]), history
    checksum = hashlib.sha256(json.dumps({k: v for k, v in history.items() if k not in CLOCKS}).encode())
    for leaf in jax.tree.leaves(state):
        checksum.update(np.asarray(leaf).tobytes())
    return checksum.hexdigest()


def errors(text: str) -> list[str]:
    """The lines of stderr that report the end of a run."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def kills(soak: Soak, count: int) -> None:
    """kill -9: half of them at any moment, half while a checkpoint is written; ten in each run, then it may end."""
    killed, is_running = 0, True
    for number in range(count):  # at most as many runs as kills
        workdir = soak.folder / f"killed_{number}"
        for _ in range(min(10, count - killed)):
            process = soak.start(workdir)
            if killed % 2:
                _sleep(soak.choose.uniform(0.3, 0.9 * soak.seconds), process)
            else:
                step = max([0, *_steps(workdir)]) + 2 * soak.choose.randint(1, 3)
                _wait_for(process, lambda workdir=workdir, step=step: glob.glob(f"{workdir}/checkpoints/{step}*"))
                _sleep(soak.choose.uniform(0, 0.03), process)
            is_running = process.poll() is None
            process.kill()
            soak.finish(process)
            killed += is_running
            soak.count("killed" if is_running else "too late", is_right=True)
            if not is_running:
                break
        soak.complete(workdir)
        if killed == count:
            break


def signals(soak: Soak, count: int) -> None:
    """SIGINT, SIGTERM and SIGHUP at any moment, a quarter of them twice; the last line must be true."""
    for number in range(count):
        workdir = soak.folder / f"signaled_{number // 5}"
        process = soak.start(workdir)
        _sleep(soak.choose.uniform(0.2, soak.seconds), process)
        sent = soak.choose.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        is_running = process.poll() is None
        process.send_signal(sent)
        if number % 4 == 0:
            _sleep(soak.choose.uniform(0, 0.5), process)
            process.send_signal(sent)
        started = time.monotonic()
        code, err = soak.finish(process)
        if not is_running or (code in (0, -sent) and (workdir / "report.html").exists()):  # while Python ends
            soak.count("too late", is_right=time.monotonic() - started < 3, details=err)
        else:
            is_right = code == 128 + sent and "Traceback" not in err and _is_true(errors(err), workdir)
            soak.count(f"ended by {sent.name}", is_right=is_right, details=f"exit code {code}\n{err}")
        if number % 5 == 4 or number == count - 1:
            soak.complete(workdir)


def _is_true(lines: list[str], workdir: Path) -> bool:
    """Whether there is one line that names the latest saved step."""
    saved = re.search(r"after step (\d+)", lines[-1]) if lines else None
    return len(lines) == 1 and max([0, *_steps(workdir)]) == (int(saved[1]) if saved else 0)


def full_disks(soak: Soak, count: int) -> None:
    """A disk that is full at any point of a run: one line with the cause, or a warning and a whole run."""
    for number in range(count):
        workdir = soak.folder / f"full_{number}"
        part = ("", "checkpoints", "figures", "tensorboard", "evaluation")[number % 5]
        with _disk(workdir / part, kilobytes=4 * soak.choose.randint(1, 150 if part in ("", "figures") else 40)):
            code, err = soak.run(workdir)
            lines = errors(err)
            is_named = len(lines) == 1 and str(workdir) in lines[0] and re.search(r"full|space", lines[0])
            is_right = "Traceback" not in err and bool(is_named if code == 1 else code == 0)
            outcome = {0: "continued", 1: "stopped with the cause"}.get(code, "other end")
            soak.count(outcome, is_right=is_right, details=f"{part} exit code {code}\n{err}")
            subprocess.run(["mount", "-o", "remount,size=100m", workdir / part], check=True)
            soak.complete(workdir)


@contextlib.contextmanager
def _disk(folder: Path, *, kilobytes: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def clocks(soak: Soak, count: int) -> None:
    """Python's clock jumps in mid-run: an hour back, then a year ahead. (Not that of TensorStore, which is C++.)"""
    for number, jump in zip(range(count), (-3600, 365 * 86400), strict=False):
        workdir, offset = soak.folder / f"clock_{number}", soak.folder / "offset"
        offset.write_text("0")
        process = soak.start(workdir, program=("-c", CLOCK, str(offset)))
        _wait_for(process, (workdir / "history.json").exists)
        offset.write_text(str(jump))
        code, err = soak.finish(process)
        soak.count(f"jump of {jump} s", is_right=code == 0 and "Traceback" not in err, details=err)
        soak.complete(workdir)


def processes(soak: Soak, count: int) -> None:
    """One of two processes is killed: the other ends with one line; started again, they finish the run."""
    _two_processes(soak, soak.folder / "two")
    expected = bits(soak.folder / "two")
    for number in range(count):
        workdir, killed = soak.folder / f"two_{number}", number % 2
        both = _start_two(soak, workdir)
        _wait_for(both[0], (workdir / "history.json").exists)
        both[killed].kill()
        soak.finish(both[killed])
        started = time.monotonic()
        code, err = soak.finish(both[1 - killed], timeout=120)
        seconds = time.monotonic() - started
        is_right = code == 1 and seconds < 30 and len(errors(err)) == 1 and f"process {killed}" in errors(err)[0]
        soak.count(f"process {killed} killed", is_right=is_right, details=f"exit code {code}, {seconds:.0f} s\n{err}")
        err = _two_processes(soak, workdir)
        soak.count("resumed bit-identical", is_right=bits(workdir) == expected, details=err)


def _two_processes(soak: Soak, workdir: Path) -> str:
    return "".join(soak.finish(process)[1] for process in _start_two(soak, workdir))


def _start_two(soak: Soak, workdir: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    two = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "no_proxy": "127.0.0.1"}
    return [soak.start(workdir, environment={**two, "JAX_PROCESS_ID": str(number)}) for number in range(2)]


def json_files(soak: Soak, count: int) -> None:
    """One damaged file of a finished run, and one mode that reads it; see soak_files.py."""
    _damaged(soak, "damaged_json", count)


def checkpoints(soak: Soak, count: int) -> None:
    """One flipped bit in a checkpoint, and one mode that reads it; see soak_files.py."""
    _damaged(soak, "damaged_checkpoints", count)


def _damaged(soak: Soak, name: str, count: int) -> None:
    import soak_files  # here: it imports the whole program

    soak_files.style.DPI = 40  # draws in a quarter of the time
    folder = soak.folder / name
    folder.mkdir()
    soak_files.make_run(folder)
    for outcome, cases in getattr(soak_files, name)(folder, count=count, seed=soak.choose.randrange(1000)).items():
        for _ in range(cases):
            soak.count(outcome, is_right=outcome not in ("silent", "traceback"))


def _steps(workdir: Path) -> list[int]:
    return [int(Path(path).name) for path in glob.glob(f"{workdir}/checkpoints/*") if Path(path).name.isdecimal()]


def _sleep(seconds: float, process: subprocess.Popen) -> None:
    """Sleeps, at most until the process ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _wait_for(process: subprocess.Popen, happened: Callable[[], object]) -> None:
    while not happened() and process.poll() is None:
        time.sleep(0.001)


SECTIONS = {  # name -> function and number of cases
    "kills": (kills, 200),
    "signals": (signals, 40),
    "full disks": (full_disks, 20),
    "clock jumps": (clocks, 2),
    "two processes": (processes, 2),
    "JSON files": (json_files, 390),
    "checkpoints": (checkpoints, 300),
}


def unavailable(section: str) -> str:
    """Why this machine cannot run a section, or ''."""
    if section == "full disks" and os.geteuid():
        return "only root can mount a small disk"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the cases, for a short check")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "soak.json")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):  # the runs would ignore them too, after `nohup` or `command &`
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    report = json.loads(options.output.read_text()) if options.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(JAX_PLATFORMS="cpu", CIFAR_JAX_CACHE=f"{folder}/cache")
        soak = Soak(Path(folder), options.seed)
        print(f"one uninterrupted run takes {soak.seconds:.1f} s", flush=True)
        for name in options.only:
            function, cases = SECTIONS[name]
            if reason := unavailable(name):
                print(f"{name}: skipped, {reason}")
                continue
            section = {**surroundings(), "source_revision": source_revision(), "seed": options.seed}
            soak.outcomes, soak.failures, started = collections.Counter(), [], time.monotonic()
            function(soak, max(1, round(cases * options.scale)))
            minutes = (time.monotonic() - started) / 60
            report[name] = {**section, "minutes": minutes, "outcomes": soak.outcomes, "failures": soak.failures}
            outcomes = ", ".join(f"{outcome} {cases}" for outcome, cases in soak.outcomes.items())
            print(f"{name:14} {minutes:5.1f} min, {len(soak.failures)} failures; {outcomes}", flush=True)
            options.output.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(any(section["failures"] for section in report.values()))


if __name__ == "__main__":
    main()
