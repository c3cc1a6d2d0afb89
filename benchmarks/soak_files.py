"""Damaged files of a run folder: every mode must report the damage, or give the result of the whole run.

`damaged_json` and `damaged_checkpoints` damage one file of a copy of a finished run, run one mode in this process, and
compare its output with that for the whole run. `soak.py` calls them; alone:

    python benchmarks/soak_files.py --json 390 --checkpoints 300
"""

import argparse
import collections
import contextlib
import io
import itertools
import json
import logging
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import cifar_jax
from cifar_jax import cli
from cifar_jax.errors import CifarJaxError
from cifar_jax.report import style
from cifar_jax.runs.json_files import write_json

RECIPE = (
    *("--config=cnn_scratch", "--config.data.name=shapes", "--config.data.limit=300", "--config.model.widths=(8,8)"),
    *(
        "--config.train.batch_size=40",
        "--config.train.epochs=2",
        "--config.mesh.devices=1",
        "--noconfig.evaluation.tta",
    ),
)
JSON_FILES = (
    *("config.json", "architecture.json", "history.json", "results.json"),
    *("evaluation/test/metrics.json", "evaluation/test/predictions.npz"),
)
WRONG = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"0",
    b'"text"',
    b"\xff\xfe{\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{",
    b"\x00" * 99,
)
WRONG_VALUES = (None, -5, 1e308, 10**400, "text", [], {}, True, [[]], float("nan"))


def make_run(folder: Path) -> Path:
    """A finished run in `folder`/run, an image in `folder`/image.png."""
    cli.run(["soak", *RECIPE, f"--workdir={folder / 'run'}"])
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels_HWC).save(folder / "image.png")
    return folder / "run"


def damaged_json(folder: Path, *, count: int, seed: int = 0) -> collections.Counter:
    """Outcomes of damaged JSON files and predictions, see `_soak`."""
    return _soak(folder, itertools.cycle(JSON_FILES), count=count, seed=seed, damages=(*DAMAGES, _sealed_wrong_value))


def damaged_checkpoints(folder: Path, *, count: int, seed: int = 0) -> collections.Counter:
    """Outcomes of flipped bits in checkpoints, see `_soak`."""
    choose = random.Random(seed)
    files = sorted(path for path in (folder / "run" / "checkpoints").rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    names = (str(path.relative_to(folder / "run")) for path in iter(lambda: choose.choices(files, sizes)[0], None))
    return _soak(folder, names, count=count, seed=seed, damages=(_flip,))


def _soak(
    folder: Path, names: Iterator[str], *, count: int, seed: int, damages: tuple[Callable, ...]
) -> collections.Counter:
    """Damages one file per case and runs one mode on it.

    Returns:
        The number of cases by outcome: 'same', the output of the whole run; 'refused', an error in one line; 'warned',
        another output and a line that names the damage; 'silent', another output without it; 'traceback'.
    """
    choose, outcomes = random.Random(seed), collections.Counter()
    expected = {mode: run(folder, _copy(folder, 0)) for mode, run in MODES.items()}
    for case, (name, damage, (mode, run)) in zip(
        range(1, count + 1), zip(names, itertools.cycle(damages), _cycled(MODES), strict=False), strict=False
    ):
        place = _copy(folder, case)
        damage(place / "run" / name, choose)
        with _captured() as lines:
            try:
                output = run(folder, place)
                same = output == expected[mode] or damage is _sealed_wrong_value  # a valid checksum: nothing to detect
                outcome = "same" if same else "warned" if lines else "silent"
            except (CifarJaxError, OSError) as error:  # the command line prints both as one line
                outcome, output = ("refused" if "\n" not in str(error) else "traceback"), str(error)
            except Exception:
                outcome, output = "traceback", traceback.format_exc()
        outcomes[outcome] += 1
        if outcome in ("silent", "traceback"):
            print(f"case {case}: {mode} with {name} {damage.__name__}: {outcome}\n{output}"[:3000], file=sys.stderr)
        else:
            shutil.rmtree(place)
            said = "; ".join(lines) or (output if outcome == "refused" else "")
            print(f"{outcome}: {mode}, {name} {damage.__name__}: {said}".replace(str(place), ""), flush=True)
    return outcomes


def _cycled(modes: dict) -> Iterator[tuple[str, Callable]]:
    """Modes in an order in which, over time, each meets every kind of damage and every file."""
    for shift in itertools.count():
        items = list(modes.items())
        yield from items[shift % len(items) :] + items[: shift % len(items)]


def _copy(folder: Path, case: int) -> Path:
    place = folder / f"case_{case}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "run", place / "run")
    return place


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Yields the list of warnings that are logged in the block."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    try:
        yield lines
    finally:
        root.removeHandler(handler)


def _printed(*arguments: object) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        cli.run(["soak", *map(str, arguments)])
    return out.getvalue()


def _train(folder: Path, place: Path) -> str:
    _printed(*RECIPE, f"--workdir={place / 'run'}")
    results = cifar_jax.load_run(place / "run").results
    del results["environment"]["source_revision"]  # the checkout may change meanwhile
    return json.dumps([results, json.loads((place / "run" / "history.json").read_text())])


def _evaluate(folder: Path, place: Path) -> str:
    return _printed("--mode=evaluate", f"--workdir={place / 'run'}")


def _predict(folder: Path, place: Path) -> str:
    output = place / "out.jsonl"
    return (
        _printed(
            "--mode=predict", f"--workdir={place / 'run'}", f"--images={folder / 'image.png'}", f"--output={output}"
        )
        + output.read_text()
    )


def _report(folder: Path, place: Path) -> str:
    _printed("--mode=report", f"--workdir={place / 'run'}")
    return (place / "run" / "report.html").read_text()


def _compare(folder: Path, place: Path) -> str:
    """The rows of the other run, and of the damaged run where it is not skipped."""
    shutil.copytree(folder / "run", place / "other")
    config = json.loads((place / "other" / "config.json").read_text())
    config.pop("checksum")
    config["config"]["optimizer"]["momentum"] = 0.5
    write_json(place / "other" / "config.json", config)
    _printed("--mode=report", f"--workdir={place}")
    report = json.loads((place / "report.json").read_text())
    for reason in report.pop("skipped"):
        logging.warning("%s", reason)
    assert "other" in str(report["groups"]), "a damaged run broke the comparison"
    return json.dumps(report)


def _export(folder: Path, place: Path) -> str:
    _printed("--mode=export", f"--workdir={place / 'run'}", f"--output={place / 'out.safetensors'}")
    return (place / "out.safetensors.json").read_text()


MODES = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "report": _report,
    "compare": _compare,
    "export": _export,
}


def _flip(path: Path, choose: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, choose: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: choose.randrange(path.stat().st_size)])


def _replace(path: Path, choose: random.Random) -> None:
    path.write_bytes(choose.choice(WRONG))


def _replace_number(path: Path, choose: random.Random) -> None:
    content = path.read_bytes()
    numbers = list(re.finditer(rb"(?<=[\s:\[])-?\d+(\.\d+)?", content))
    if numbers:
        start, end = choose.choice(numbers).span()
        number = choose.choice((b"-5", b"NaN", b"1e999", b"0.123", b"9" * 5000))
        path.write_bytes(content[:start] + number + content[end:])


def _misspell(path: Path, choose: random.Random) -> None:
    content = path.read_bytes()
    keys = list(re.finditer(rb'"\w+":', content))
    if keys:
        start = choose.choice(keys).start() + 1
        path.write_bytes(content[:start] + b"x" + content[start:])


def _wrong_value(path: Path, choose: random.Random) -> None:
    """One value, at any depth, is removed or replaced; the checksum remains as it was."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return _cut(path, choose)
    _change(content, choose)
    path.write_text(json.dumps(content))


def _sealed_wrong_value(path: Path, choose: random.Random) -> None:
    """As `_wrong_value`, with the checksum of the new content: it must end in no traceback."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return _cut(path, choose)
    content.pop("checksum", None)
    _change(content, choose)
    with contextlib.suppress(ValueError):  # NaN is never written
        write_json(path, content, with_checksum=path.name != "history.json")


def _change(content: dict | list, choose: random.Random) -> None:
    key = choose.choice(list(content) if isinstance(content, dict) else range(len(content)))
    if isinstance(content[key], dict | list) and content[key] and choose.random() < 0.8:
        return _change(content[key], choose)
    if choose.random() < 0.3:
        del content[key]
    else:
        content[key] = choose.choice(WRONG_VALUES)


def _remove(path: Path, choose: random.Random) -> None:
    path.unlink()


def _make_folder(path: Path, choose: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _take_another(path: Path, choose: random.Random) -> None:
    others = [path.parents[path.parts[::-1].index("run") - 1] / name for name in JSON_FILES]
    shutil.copy(choose.choice([other for other in others if other != path]), path)


DAMAGES = (
    *(_flip, _cut, _replace, _replace_number, _misspell, _wrong_value, _flip, _replace, _remove, _make_folder),
    *(_take_another, _flip, _replace_number),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=int, default=390)
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    style.DPI = 40  # draws in a quarter of the time
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        for name, soak, count in (
            ("JSON files", damaged_json, options.json),
            ("checkpoints", damaged_checkpoints, options.checkpoints),
        ):
            started = time.perf_counter()
            outcomes = soak(Path(folder), count=count, seed=options.seed)
            print(f"{count} damaged {name}: {dict(outcomes)}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
