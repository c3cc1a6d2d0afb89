"""The command line: reads the flags, calls the mode, prints its result, and prints errors as one line."""

import gc
import logging
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cifar_jax.config.command_line import parse
from cifar_jax.errors import CifarJaxError, DataError, UsageError
from cifar_jax.memory import use_huge_pages

HELP = """Train and evaluate image classifiers on CIFAR-sized images.

    python main.py --config configs/cnn_scratch.py [--workdir DIR] [--config.key=value ...] [--mode MODE]
"""
MODES = ("train", "evaluate", "predict", "report", "export", "inspect", "ablation", "ledger")

CONFIG = config_flags.DEFINE_config_file("config", None, "the recipe, e.g. configs/cnn_scratch.py")
WORKDIR = flags.DEFINE_string("workdir", None, "the run folder; if not given, runs/NAME of the recipe")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do; ledger is an alias of ablation")
SPLIT = flags.DEFINE_enum("split", "test", ("test", "validation", "train"), "evaluate: these images")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "evaluate, predict: best, latest or the number of a step")
TTA = flags.DEFINE_bool("tta", None, "evaluate, predict: test-time augmentation; if not given, as the recipe says")
IMAGES = flags.DEFINE_multi_string("images", [], "predict: image files, folders and globs, any number")
OUTPUT = flags.DEFINE_string("output", "", "predict: JSON lines, all probabilities of each image; export: the file")
FORMAT = flags.DEFINE_enum(
    "format", "safetensors", ("safetensors", "keras", "stablehlo", "onnx"), "export: what to write"
)


def main() -> None:
    """Runs `sys.argv` and exits: 0, 1 (data), 2 (usage), 130 or 143 (interrupted)."""
    use_huge_pages()
    gc.set_threshold(50_000)  # most of what tracing allocates stays: collecting more often costs 0.3 s of a start
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its first start logs about fonts
    try:
        run(sys.argv)
    except CifarJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # such as a full disk: what was finished before stays usable
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted before training began: nothing was changed", file=sys.stderr)
        sys.exit(130)


def run(argv: list[str]) -> None:
    """Parses the flags and runs one mode. JAX is imported only then: it takes two seconds, a typo is answered at once.

    Raises:
        CifarJaxError: see `cifar_jax.errors`.
    """
    recipe = parse(argv, help_text=HELP)
    mode = "ablation" if MODE.value == "ledger" else MODE.value
    _require_flags(mode, recipe)
    workdir = WORKDIR.value or str(Path("runs") / Path(recipe).stem)
    command = shlex.join(["python", *argv])
    if mode == "train":
        from cifar_jax.modes.train import train
        from cifar_jax.training import results

        print(results.describe_results(train(CONFIG.value, workdir, command=command)))
    elif mode == "ablation":
        from cifar_jax.modes.ablation import ablation

        print(*ablation(CONFIG.value, workdir, command=command), sep="\n")
    elif mode == "evaluate":
        from cifar_jax.modes.evaluate import evaluate
        from cifar_jax.training import results

        found = evaluate(workdir, split=SPLIT.value, checkpoint=CHECKPOINT.value, tta=TTA.value)
        print(results.describe_metrics(found))
    elif mode == "predict":
        _predict(workdir)
    elif mode == "export":
        from cifar_jax.modes.export import export

        print(*export(workdir, output=OUTPUT.value, format=FORMAT.value, checkpoint=CHECKPOINT.value), sep="\n")
    elif mode == "report":
        from cifar_jax.modes.report import report

        print(*report(workdir), sep="\n")
    else:
        from cifar_jax.modes.inspect import inspect

        inspect(CONFIG.value)


def _predict(workdir: str) -> None:
    from rich.console import Console

    from cifar_jax.data import decode
    from cifar_jax.modes import predict

    files = decode.find(IMAGES.value)
    table, unreadable = predict.predict_table(
        workdir, files, checkpoint=CHECKPOINT.value, tta=TTA.value, output=OUTPUT.value
    )
    Console(width=None if sys.stdout.isatty() else 1000).print(table)  # a pipe has no width: nothing is folded
    if unreadable:
        raise DataError(f"{unreadable} of {len(files)} files could not be read, see above; the others are done")


def _require_flags(mode: str, recipe: str) -> None:
    if mode in ("train", "inspect", "ablation") and not recipe:
        raise UsageError(f"--mode {mode} needs --config, e.g. --config configs/cnn_scratch.py")
    if not recipe and not WORKDIR.value:
        folder = "the folder of a run, or one that holds several" if mode == "report" else "the folder of a run"
        raise UsageError(f"--mode {mode} needs --workdir, {folder}")
    if mode == "predict" and not IMAGES.value:
        raise UsageError("--mode predict needs --images, image files or folders")
    if mode == "export" and not OUTPUT.value:
        raise UsageError("--mode export needs --output, the file to write")
