"""Reads damaged and hostile files with each reader, and reports what it accepts, refuses and cannot cope with.

    python benchmarks/fuzz.py [--reader torch_zip ...] [--minutes 10] [--seed 0] [--output results/fuzz.json]

Each case is a small valid file, changed in one to four places: bits, numbers, lengths, parts cut, doubled or taken from
another file; in archives, the content of a member as well. Right is a result, or a one-line error of the project
(`CifarJaxError`). Findings are all other exceptions, ends of the process, more than 30 s, and more than 1 GB of memory;
their files are kept in --findings. The cases run in child processes, so a crash ends one of them only. The seeds of
torch_zip and torch_legacy need PyTorch. Results of other readers in the output file are kept.
"""

import argparse
import collections
import hashlib
import importlib.metadata
import json
import logging
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from fuzz_seeds import READERS, Case  # noqa: E402

MEMORY = 1 << 30  # bytes above what the imports take
SECONDS = 30  # per case
BATCH_SECONDS = 120.0  # per child process
LIBRARIES = ("h5py", "numpy", "pillow", "safetensors", "tensorflow-datasets", "array_record", "torch")
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1)


def mutate(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """`data` changed in one to four places; `other` is a second valid file."""
    result = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        size = len(result)
        start = generator.randrange(size + 1)
        # headers and tables of contents are at the two ends
        start = generator.choice((start, min(start, 64), max(size - 64, 0) + start % 64, start))
        length = min(generator.choice((1, 2, 4, 8, 16, 64, size)), size - start) if size else 0
        change = generator.randrange(8)
        if change <= 1 and start < size:
            result[start] ^= 1 << generator.randrange(8)
        elif change == 2 and start < size:
            result[start] = generator.randrange(256)
        elif change == 3:
            width, order = generator.choice((1, 2, 4, 8)), generator.choice(("little", "big"))
            number = (generator.choice(NUMBERS) + generator.choice((0, 0, 1, -1))) % (1 << 8 * width)
            result[start : start + width] = number.to_bytes(width, order)
        elif change == 4:
            del result[start : start + generator.randrange(length + 1)]
        elif change == 5:
            result[start:start] = result[start : start + length] * generator.choice((1, 1, 2, 100))
        elif change == 6 and other:
            source = generator.randrange(len(other))
            result[start : start + length] = other[source : source + max(length, 1)]
        elif change == 7 and generator.random() < 0.3:
            del result[start:]
        if len(result) > 1_000_000:
            del result[1_000_000:]
    return bytes(result)


def batch(reader: str, seed: int, seconds: float, folder: Path) -> None:
    """Runs cases for some seconds; the files `current` and `counts.json` in the folder survive a crash."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from cifar_jax.errors import CifarJaxError

    cases = READERS[reader](folder)
    next(iter(cases(random.Random(seed), lambda data, *_: data))).read()  # imports, and the memory they take
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: collections.Counter[str] = collections.Counter()
    generator, end, slowest = random.Random(seed), time.monotonic() + seconds, 0.0
    for case in cases(generator, lambda data, other=b"": mutate(data, generator, other)):
        (folder / "current").write_text(str(case.path))
        signal.alarm(SECONDS)
        began = time.monotonic()
        outcome = run_case(case, CifarJaxError, folder)
        signal.alarm(0)
        counts["cases"] += 1
        counts[outcome] += 1
        slowest = max(slowest, time.monotonic() - began)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024
        (folder / "counts.json").write_text(
            json.dumps({**counts, "peak_MB": peak, "slowest_seconds": round(slowest, 2)})
        )
        if time.monotonic() > end:
            break


def run_case(case: Case, refusal: type[Exception], folder: Path) -> str:
    try:
        case.read()
    except refusal as error:
        if isinstance(error.__cause__, MemoryError):
            return keep(case, folder, "out of memory", error)
        return "refused" if "\n" not in str(error) else keep(case, folder, "foreign", error)
    except BaseException as error:
        return keep(case, folder, "foreign", error)
    return "accepted"


def keep(case: Case, folder: Path, outcome: str, error: BaseException) -> str:
    where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
    text = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
    with open(folder / "findings.jsonl", "a") as file:
        file.write(json.dumps({"outcome": outcome, "text": text, "data": case.path.read_bytes().hex()}) + "\n")
    return outcome


def fuzz(reader: str, minutes: float, seed: int, findings: Path) -> dict:
    """Child processes one after the other until the time is over."""
    total: collections.Counter[str] = collections.Counter()
    peak, slowest, kinds, began = 0, 0.0, set(), time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            seconds = min(BATCH_SECONDS, 60 * minutes)
            command = [sys.executable, __file__, "--batch", reader, str(seed), str(seconds), name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            seed += 1
            counts = folder / "counts.json"
            part = json.loads(counts.read_text()) if counts.exists() and counts.read_text() else {}
            peak, slowest = max(peak, part.pop("peak_MB", 0)), max(slowest, part.pop("slowest_seconds", 0.0))
            total.update(part)
            lines = (folder / "findings.jsonl").read_text().splitlines() if (folder / "findings.jsonl").exists() else []
            found = [json.loads(line) for line in lines]
            if done.returncode:
                outcome = "timeouts" if done.returncode == -signal.SIGALRM else "crashes"
                total.update([outcome, "cases"])
                current = folder / "current"
                data = Path(current.read_text()).read_bytes().hex() if current.exists() else ""
                text = f"exit {done.returncode}: {done.stderr[-300:]}"
                found.append({"outcome": outcome, "text": text, "data": data})
            for finding in found:
                if finding["text"] not in kinds:
                    kinds.add(finding["text"])
                    print(f"{reader}: {finding['outcome']}: {finding['text']}", flush=True)
                    data = bytes.fromhex(finding["data"])
                    findings.mkdir(parents=True, exist_ok=True)
                    (findings / f"{reader}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "cases": total["cases"],
        "accepted": total["accepted"],
        "refused": total["refused"],
        "foreign_exceptions": total["foreign"],
        "out_of_memory": total["out of memory"],
        "crashes": total["crashes"],
        "timeouts": total["timeouts"],
        "peak_MB": peak,
        "slowest_seconds": slowest,
        "findings": sorted(kinds),
    }


def main() -> None:
    if sys.argv[1:2] == ["--batch"]:
        batch(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fuzz.json")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "cifar_jax_fuzz")
    arguments = parser.parse_args()
    for reader in arguments.reader:
        result = fuzz(reader, arguments.minutes, arguments.seed, arguments.findings)
        report = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        report["command"] = "python benchmarks/fuzz.py"
        report["versions"] = {"python": platform.python_version()} | {
            library: importlib.metadata.version(library) for library in LIBRARIES
        }
        report.setdefault("readers", {})[reader] = result
        report["readers"] = dict(sorted(report["readers"].items()))
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
        print(reader, json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
