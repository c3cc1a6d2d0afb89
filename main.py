"""Train and evaluate image classifiers on CIFAR-sized pictures.

    python main.py --config configs/cnn_scratch.py [--workdir DIR] [--config.key=value ...] [--mode MODE]

This file reads the flags, calls the mode and prints errors as one line; everything else is in `cifar_jax/`.
"""

import gc
import logging
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cifar_jax.errors import CifarJaxError, UsageError
from cifar_jax.memory import use_huge_pages
from cifar_jax.runs.command_line import parse

MODES = ("train", "evaluate", "predict", "report", "export", "inspect", "ledger")

CONFIG = config_flags.DEFINE_config_file("config", None, "the recipe, e.g. configs/cnn_scratch.py")
WORKDIR = flags.DEFINE_string("workdir", None, "the run folder; if not given, runs/NAME of the recipe")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
SPLIT = flags.DEFINE_enum("split", "test", ("test", "validation", "train"), "evaluate: these pictures")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "evaluate, predict: best, latest or the number of a step")
TTA = flags.DEFINE_bool("tta", None, "evaluate, predict: test-time augmentation; if not given, as the recipe says")
IMAGES = flags.DEFINE_multi_string("images", [], "predict: picture files, folders and globs, any number")
OUTPUT = flags.DEFINE_string("output", "", "predict: JSON lines, all probabilities of each picture; export: the file")
FORMAT = flags.DEFINE_enum(
    "format", "safetensors", ("safetensors", "keras", "stablehlo", "onnx"), "export: what to write"
)


def main(argv: list[str]) -> None:
    recipe = parse(argv, help_text=__doc__)
    if MODE.value in ("train", "inspect", "ledger") and not recipe:
        raise UsageError(f"--mode {MODE.value} needs --config, e.g. --config configs/cnn_scratch.py")
    if not recipe and not WORKDIR.value:
        folder = "the folder of a run, or one that holds several" if MODE.value == "report" else "the folder of a run"
        raise UsageError(f"--mode {MODE.value} needs --workdir, {folder}")
    if MODE.value == "predict" and not IMAGES.value:
        raise UsageError("--mode predict needs --images, files or folders of pictures")
    if MODE.value == "export" and not OUTPUT.value:
        raise UsageError("--mode export needs --output, the file to write")
    workdir = WORKDIR.value or str(Path("runs") / Path(recipe).stem)
    command = shlex.join(["python", *argv])
    # Imported here: a typo in a flag is answered at once, not after the two seconds that JAX takes to import.
    from cifar_jax import modes

    if MODE.value == "train":
        modes.train(CONFIG.value, workdir, command=command)
    elif MODE.value == "ledger":
        modes.ledger(CONFIG.value, workdir, command=command)
    elif MODE.value == "evaluate":
        modes.evaluate(workdir, split=SPLIT.value, checkpoint=CHECKPOINT.value, tta=TTA.value)
    elif MODE.value == "predict":
        modes.predict(workdir, images=IMAGES.value, output=OUTPUT.value, checkpoint=CHECKPOINT.value, tta=TTA.value)
    elif MODE.value == "export":
        modes.export(workdir, output=OUTPUT.value, format=FORMAT.value, checkpoint=CHECKPOINT.value)
    elif MODE.value == "report":
        modes.report(workdir)
    else:
        modes.inspect(CONFIG.value)


if __name__ == "__main__":
    use_huge_pages()
    gc.set_threshold(50_000)  # most of what tracing makes stays: to look for garbage rarely saves 0.3 s of a start
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its first start tells of fonts
    try:
        main(sys.argv)
    except CifarJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, say: what was finished before it stays usable
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted before training began: nothing was changed", file=sys.stderr)
        sys.exit(130)
