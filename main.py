"""Train and evaluate image classifiers on CIFAR-sized pictures.

    python main.py --config configs/cnn_scratch.py [--workdir DIR] [--config.key=value ...] [--mode MODE]

This file reads the flags, calls the mode and prints errors as one line; everything else is in `cifar_jax/`.
"""

import logging
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cifar_jax.errors import CifarJaxError, UsageError
from cifar_jax.runs.command_line import parse

MODES = ("train", "evaluate", "inspect")

CONFIG = config_flags.DEFINE_config_file("config", None, "the recipe, e.g. configs/cnn_scratch.py")
WORKDIR = flags.DEFINE_string("workdir", None, "the run folder; if not given, runs/NAME of the recipe")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
SPLIT = flags.DEFINE_enum("split", "test", ("test", "validation", "train"), "evaluate: these pictures")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "evaluate: best, latest or the number of a step")
TTA = flags.DEFINE_bool("tta", None, "evaluate: test-time augmentation; if not given, as the recipe says")


def main(argv: list[str]) -> None:
    recipe = parse(argv, help_text=__doc__)
    if MODE.value in ("train", "inspect") and not recipe:
        raise UsageError(f"--mode {MODE.value} needs --config, e.g. --config configs/cnn_scratch.py")
    if not recipe and not WORKDIR.value:
        raise UsageError(f"--mode {MODE.value} needs --workdir, the folder of a run")
    workdir = WORKDIR.value or str(Path("runs") / Path(recipe).stem)
    command = shlex.join(["python", *argv])
    # Imported here: a typo in a flag is answered at once, not after the two seconds that JAX takes to import.
    from cifar_jax import modes

    if MODE.value == "train":
        modes.train(CONFIG.value, workdir, command=command)
    elif MODE.value == "evaluate":
        modes.evaluate(workdir, split=SPLIT.value, checkpoint=CHECKPOINT.value, tta=TTA.value)
    else:
        modes.inspect(CONFIG.value)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
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
