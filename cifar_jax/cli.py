"""The command line: parses the flags, calls the mode, prints its result, and prints errors as one line."""

import argparse
import contextlib
import difflib
import functools
import gc
import importlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cifar_jax import processes, signals
from cifar_jax.config import load_config, recipes, sweeps
from cifar_jax.config.command_line import add_keys, overrides
from cifar_jax.config.validate import require_known, validate
from cifar_jax.errors import CifarJaxError, DataError, UsageError, is_out_of_memory, one_line
from cifar_jax.files.atomic import remove_temporary_files
from cifar_jax.files.cache import expanded
from cifar_jax.targets.catalog import NAMES

if TYPE_CHECKING:
    from cifar_jax.training.hooks import Hook

MODES = {
    "train": "trains, resumes an interrupted run, evaluates, writes report.html",
    "evaluate": "accuracy, loss and figures of a checkpoint on one split",
    "predict": "class and probability of image files",
    "report": "the report of a run, or a comparison of all runs in a folder",
    "export": "a run as a file for other programs",
    "inspect": "layers, FLOPs, learning rates and memory, without data",
    "ablation": "fixes the mistakes of a recipe one at a time, with several seeds",
}
MODES_WITH_CONFIG = ("train", "inspect", "ablation")
OUT_OF_MEMORY = (
    "out of memory: lower --config.train.batch_size, --config.evaluation.batch_size or --config.model.image_size, or "
    "use fewer images, with --config.data.limit=N"
)


def main(hooks: Sequence["Hook"] = ()) -> None:
    """Runs `sys.argv` and exits: 0, 1 (data), 2 (usage), 128 + the number of the signal that ended it."""
    gc.set_threshold(50_000)  # tracing keeps most of what it allocates: frequent collection costs 0.3 s per start
    _open_standard_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.raiseExceptions = False  # a closed terminal does not end a run
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(message)}\n"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its first start logs about fonts
    try:
        run(sys.argv, hooks)
    except CifarJaxError as error:
        _exit(str(error), error.exit_code)
    except OSError as error:  # such as a full disk: what was finished before stays usable
        _exit(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 1)
    except (MemoryError, RuntimeError) as error:  # JAX raises a RuntimeError
        if is_out_of_memory(error):
            _exit(f"{one_line(error)}: {OUT_OF_MEMORY}", 1)
        if lost_contact := processes.explains(error):
            _exit(lost_contact, 1)
        processes.wait_for_watch()
        raise
    except KeyboardInterrupt:  # where `signals.watch` cannot
        _exit("stopped by SIGINT; repeat the command to continue", 130)


def _exit(message: str, code: int) -> NoReturn:
    if code in (1, 2):
        processes.end_with_error(code, functools.partial(_print_error, message))
    _print_error(message)
    signals.before_end(str)  # a signal while Python ends has nothing to add
    sys.exit(code)


def _print_error(message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed
        print(f"error: {message}", file=sys.stderr, flush=True)


def _open_standard_streams() -> None:
    """Opens those that the parent process has closed on /dev/null; output that cannot be encoded becomes escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    """Flushes what the block prints; DataError if it cannot be written, for example with `| head` or on a full disk."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end
        raise DataError(f"standard output cannot be written: {error.strerror}; all files are complete") from error


def run(argv: list[str], hooks: Sequence["Hook"] = ()) -> None:
    """Parses the flags, runs one mode and prints its result. The flags are checked before JAX is imported (2 s).

    Raises:
        CifarJaxError: see `cifar_jax.errors`.
    """
    flags = _parse(argv[1:])
    changes = overrides(flags)
    swept = {key: values for key, values in changes.items() if isinstance(values, list)}
    changes |= {key: values[0] for key, values in swept.items()}
    workdir = flags.workdir or str(Path("runs") / recipes.find(flags.config).stem)
    command = shlex.join([*_program(argv[0]), *argv[1:]])
    signals.before_end(functools.partial(_clean_up, flags.mode, workdir, command))
    if flags.mode in MODES_WITH_CONFIG:
        config = load_config(flags.config, **changes)
        validate(config, for_training=flags.mode == "train")
        if swept and flags.mode != "train":
            raise UsageError(f"--config.{min(swept)} with a list of values is for --mode train: give it one value")
        if swept:
            sweeps.combinations(config, swept)  # checks all values
    elif changes:
        hint = "--data names data that moved" if flags.mode == "evaluate" else "train another run to change it"
        raise UsageError(f"--mode {flags.mode} uses the configuration of the run, no --config.{min(changes)}: {hint}")
    if flags.mode == "predict":
        return _predict(workdir, flags)
    function = getattr(importlib.import_module(f"cifar_jax.modes.{flags.mode}"), flags.mode)  # modes/X.py: --mode X
    if swept:
        from cifar_jax.modes.sweep import sweep
        from cifar_jax.report.sweep import describe

        summary = sweep(config, workdir, values=swept, command=command, hooks=hooks)
        _print(*([describe(summary)] if summary else []), f"one folder per value: {workdir}")
    elif flags.mode == "train":
        from cifar_jax.training.results import describe_results

        results = function(config, workdir, command=command, hooks=hooks)
        _print(describe_results(results), f"run folder: {workdir}", f"report: {Path(workdir) / 'report.html'}")
    elif flags.mode == "evaluate":
        from cifar_jax.evaluation import suites
        from cifar_jax.training.results import describe_metrics

        selection = {"split": flags.split, "checkpoint": flags.checkpoint, "tta": flags.tta, "data": flags.data}
        metrics = function(workdir, **selection, suite=flags.suite)
        _print(suites.describe(metrics) if flags.suite else describe_metrics(metrics))
    elif flags.mode == "inspect":
        from rich.console import Console

        output = flags.output or f"inspect_{recipes.find(flags.config).stem}_{flags.target}.json"
        tables = function(config, target=flags.target, output=output, command=command)
        with _standard_output():
            Console().print(*tables, *([f"written: {output}"] if flags.target else []))
    elif flags.mode == "ablation":
        _print(*function(config, workdir, command=command))
    elif flags.mode == "export":
        _print(*function(workdir, output=flags.output, format=flags.format, checkpoint=flags.checkpoint))
    else:
        _print(*function(workdir))


def _print(*lines: object) -> None:
    with _standard_output():
        print(*lines, sep="\n")


def _predict(workdir: str, flags: argparse.Namespace) -> None:
    from rich.console import Console

    from cifar_jax.data import decode
    from cifar_jax.modes import predict

    files = decode.find_image_files(flags.images)
    options = {"checkpoint": flags.checkpoint, "tta": flags.tta, "output": flags.output}
    table, unreadable = predict.predict_table(workdir, files, **options)
    with _standard_output():
        Console(width=None if sys.stdout.isatty() else 1000).print(table)  # do not wrap lines in a pipe
    if unreadable:
        raise DataError(f"{unreadable} of {len(files)} files could not be read, see above; the others are done")


def _clean_up(mode: str, workdir: str, command: str) -> str:
    """Before a signal ends the program at once; returns what is saved and the command that continues."""
    remove_temporary_files()
    if mode not in ("train", "ablation"):
        return f" before --mode {mode} was done; start again with: {command}"
    runs = ("", "*/", "*/seed_*/")  # of one seed; of several, or of a sweep; of an ablation, or of a sweep with seeds
    steps = [path for run in runs for path in Path(workdir).glob(f"{run}checkpoints/*") if path.name.isdecimal()]
    if not steps:
        return f" before anything was saved; start again with: {command}"
    folder = max((path.parent for path in steps), key=lambda folder: folder.stat().st_mtime)
    step = max(int(path.name) for path in steps if path.parent == folder)
    return f"; saved: the state after step {step} in {folder.parent}; resume with: {command}"


def _program(path: str) -> list[str]:
    """The program as the user typed it."""
    name = Path(path).name
    if name == "__main__.py":
        return ["python", "-m", "cifar_jax"]
    return ["python", path] if name.endswith(".py") else [name]


class _Parser(argparse.ArgumentParser):
    """Raises errors as UsageError, and adds modes and recipes to --help."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def print_help(self, file=None) -> None:
        _print(self.format_help())

    def format_help(self) -> str:
        modes = (f"  {name:10} {summary}" for name, summary in MODES.items())
        known = (f"  {name:28} {recipes.summary(name)}" for name in recipes.names())
        self.description = "\n".join(("modes:", *modes, "", "recipes:", *known))
        return super().format_help()


def _mode(text: str) -> str:
    return "ablation" if text == "ledger" else text


def _folder(text: str) -> str:
    """The value of --workdir, with `~` expanded; URLs are rejected."""
    if "://" in text:
        raise UsageError(f"--workdir={text}: must be a folder of a mounted file system")
    return str(expanded(text))


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, including those of configuration keys.

    Raises:
        UsageError: an unknown flag or mode, a stray argument, or a flag that is missing.
    """
    parser = _Parser(
        usage="cifar-jax --config RECIPE [--config.KEY=VALUE ...] [--mode MODE] [flags]",
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=10, width=80),
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--help", "--helpfull", "-h", action="help", help="this text")
    add("--config", default="", metavar="RECIPE", help="name of a recipe, or a Python file that defines get_config()")
    add("--mode", default="train", choices=MODES, type=_mode, metavar="MODE", help="see above; default: train")
    add("--workdir", type=_folder, metavar="DIR", help="the run folder; default: runs/RECIPE")
    add("--split", default="test", choices=("test", "validation", "train"), help="evaluate; default: test")
    add(
        "--suite",
        default="",
        metavar="SUITE",
        help="evaluate: corruptions (of the test images), or a folder with the files of CIFAR-10-C or CIFAR-10.1",
    )
    add("--checkpoint", default="best", metavar="C", help="evaluate, predict, export: best (default), latest or a step")
    add(
        "--tta", action="store_true", default=None, help="evaluate, predict: augment the images; default: as configured"
    )
    add("--notta", dest="tta", action="store_false", default=None, help="evaluate, predict: do not augment them")
    add("--data", default="", metavar="DIR", help="evaluate: the path of the run's data, if it was moved")
    add("--images", default=[], nargs="+", action="extend", metavar="FILE", help="predict: files, folders and globs")
    add("--output", default="", metavar="FILE", help="predict, inspect --target: JSON; export: the file to write")
    add("--target", default="", choices=NAMES, metavar="DEVICE", help=f"inspect: compile for {', '.join(NAMES)}")
    add("--format", default="safetensors", choices=("safetensors", "keras", "stablehlo", "onnx"), help="export")
    add_keys(parser)
    flags, rest = parser.parse_known_args(arguments)
    for argument in rest:
        name = argument.removeprefix("--").partition("=")[0]
        if name == argument:
            raise UsageError(f"stray argument {argument!r}: flags begin with --")
        if name.startswith(("config.", "noconfig.")):
            require_known(name.partition(".")[2])
        near = difflib.get_close_matches(name, vars(flags), n=1)
        raise UsageError(f"unknown flag --{name}; {f'the nearest is --{near[0]}' if near else '--help lists them'}")
    if flags.target and flags.mode != "inspect":
        raise UsageError(f"--target={flags.target} is for --mode inspect: add it, or remove --target")
    if flags.suite and flags.mode != "evaluate":
        raise UsageError(f"--suite={flags.suite} is for --mode evaluate: add it, or remove --suite")
    if flags.output and flags.mode not in ("predict", "export") and not flags.target:
        raise UsageError(f"--output={flags.output}: only predict, export and inspect --target write it; remove it")
    required = {"train": "config", "inspect": "config", "ablation": "config", "predict": "images", "export": "output"}
    hints = {"config": "such as --config cnn_scratch", "workdir": "the run folder", "output": "the file to write"}
    folder = "config" if flags.config else "workdir"
    for name in (required.get(flags.mode, folder), folder):
        if not getattr(flags, name):
            raise UsageError(f"--mode {flags.mode} requires --{name}, {hints.get(name, 'files or folders')}")
    return flags
