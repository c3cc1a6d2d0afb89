"""Hundreds of bad values and combinations: each is one line, found before JAX is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_jax.config.keys import KEYS

ROOT = Path(__file__).parents[2]
OF_TYPE = {
    bool: ("perhaps", "2", "None", "１"),
    int: ("-1", "1.5", "1e1", "nan", "inf", "", "true", "0x10", "１", "1,2", "100000000000000000000", "9" * 5000),
    float: ("-0.5", "nan", "inf", "-inf", "1e400", "", "false", "0x10", "１.５", "0,1", "9" * 400),
    tuple: ("abc", "", "(1, a", "{1: 2}", "None", "(1,2))", "(１,)", "f(1)", "((1,),)", "(-1,)", "(nan,)", "(1e400,)"),
}
NESTED = ("[" * 50 + "]" * 50, "(" * 5000, "-" * 5000 + "1", f"({'1,' * 10_000})")
VALUES = (
    # (key, value)
    ("data.name", "cifar-10"),
    ("data.name", "Cifar10"),
    ("data.fallback", "cifar100"),
    ("data.pipeline", "host"),
    ("data.dir", "a\nb"),
    ("data.dir", "x" * 5000),
    ("data.limit", "1000000000000000000"),
    ("data.image_size", "100000"),
    ("data.validation_fraction", "1"),
    ("data.split_seed", "2147483648"),
    ("augment.flip", "vertical"),
    ("augment.mixup", "1e9"),
    ("augment.random_resized_crop", "1.1"),
    ("model.image_size", "100000"),
    ("model.dtype", "float16"),
    ("model.dropout", "1"),
    ("model.widths", "()"),
    ("model.widths", "(1000000000,)"),
    ("model.widths", "(64,0)"),
    ("model.widths", "(64,True)"),
    ("model.widths", "('64',)"),
    ("model.widths", f"({'1,' * 17})"),
    ("model.widths", "(64,128.0)"),
    ("model.convs_per_block", "0"),
    ("model.norm", "layer"),
    ("model.input_mean", "(0.5,)"),
    ("model.input_mean", "(0.5,0.5,nan)"),
    ("model.input_mean", "('r','g','b')"),
    ("model.input_std", "(1,0,1)"),
    ("model.input_std", "(1,-1,1)"),
    ("optimizer.name", "adam"),
    ("optimizer.learning_rate", "0"),
    ("optimizer.learning_rate", "1e-50"),
    ("optimizer.learning_rate", "1e30"),
    ("optimizer.momentum", "1"),
    ("optimizer.weight_decay", "1e9"),
    ("optimizer.layer_decay", "0"),
    ("optimizer.layer_decay", "1.5"),
    ("optimizer.rules", "()"),
    ("optimizer.rules", "('.*', 0.0)"),
    ("optimizer.rules", "(('(', 1.0),)"),
    ("optimizer.rules", "(('.*', -1.0),)"),
    ("optimizer.rules", "(('.*', 'all'),)"),
    ("optimizer.rules", "((1, 1.0),)"),
    ("optimizer.rules", "[['.*', 1.0]]"),
    ("optimizer.accumulate_steps", "0"),
    ("schedule.name", "cosin"),
    ("schedule.final_fraction", "1.5"),
    ("schedule.warmup_percent", "100.5"),
    ("train.epochs", "0"),
    ("train.batch_size", "0"),
    ("train.batch_size", "10000000"),
    ("train.seed", "4294967296"),
    ("train.seeds", "0"),
    ("train.seeds", "1000000000"),
    ("train.label_smoothing", "1"),
    ("train.ema_decay", "1"),
    ("evaluation.batch_size", "0"),
    ("evaluation.batch_size", "1000000000"),
    ("checkpoint.keep", "0"),
    ("mesh.devices", "1000000"),
    ("mesh.cpu_devices", "100000"),
    ("ablation", "('name',)"),
    ("ablation", "(('name', 'model.norm'),)"),
    ("ablation", "(('name', (('model.nrom', 'batch'),)),)"),
    ("ablation", "(('name', (('model.norm', 'btach'),)),)"),
    ("ablation", "(('name', (('model.widths', 8),)),)"),
    ("ablation", "(('name', (('train.seeds', 3),)),)"),
    ("ablation", "(('name', (('train.epochs', -1),)),)"),
    ("ablation", "(('name', (('ablation', ()),)),)"),
    ("ablation", "(('name', (('schedule.decay_steps', (1,)),)),)"),
    ("ablation", f"(('{'x' * 300}', ()),)"),
    # unknown keys
    ("optimizer.lr", "0.1"),
    ("optimizer", "sgd"),
    ("train.epoch", "1"),
    ("", "1"),
    (".", "1"),
    ("x" * 2000, "1"),
)
COMBINATIONS = (
    "schedule.warmup_steps=5 schedule.warmup_epochs=1",
    "schedule.name=step",
    "schedule.name=step schedule.decay_steps=(5,) schedule.decay_percent=(50,)",
    "schedule.name=step schedule.decay_steps=(30,20)",
    "train.batch_size=500 mesh.devices=8",
    "train.seed=2147483647 train.seeds=2",
    "train.cached_features=True",
    "optimizer.name=lbfgs",
    "model.pretrained=keras/resnet50 model.stem=small model.name=resnet",
    # longer than the run
    "train.epochs=2 schedule.warmup_epochs=3",
    "train.epochs=2 schedule.head_epochs=2",
    "train.epochs=2 schedule.name=step schedule.decay_epochs=(1,2)",
    "schedule.name=step schedule.decay_percent=(50,100)",
    # without effect
    "schedule.name=linear schedule.decay_steps=(5,)",
    "schedule.name=cosine schedule.decay_epochs=(5,)",
    "schedule.name=constant schedule.decay_percent=(5,)",
    "schedule.name=constant schedule.final_fraction=0.1",
    "schedule.decay_factor=0.5",
    "schedule.initial_fraction=0.5",
    "optimizer.name=sgd optimizer.adam_learning_rate=0.1",
    "optimizer.name=adamw optimizer.adam_learning_rate=0.1",
    "optimizer.name=muon_sgd optimizer.adam_learning_rate=0.1",
    "optimizer.name=muon optimizer.sgd_learning_rate=0.2",
    "optimizer.name=sgd optimizer.sgd_momentum=0.5",
    "optimizer.name=adamw optimizer.uniform_decay=True",
)
OF_PROBE = (
    *("optimizer.learning_rate=0.3", "optimizer.momentum=0.5", "optimizer.weight_decay=0.1", "optimizer.clip_norm=1"),
    *("optimizer.layer_decay=0.5", "optimizer.accumulate_steps=2", "schedule.name=linear", "schedule.head_epochs=1"),
    *("optimizer.uniform_decay=True", "schedule.whiten_bias_epochs=1", "train.lookahead_steps=5"),
    *("schedule.warmup_percent=5", "train.ema_decay=0.9", "train.label_smoothing=0.1", "train.epochs=2"),
    *("augment.flip=random", "augment.mixup=0.1"),
    *("model.dropout=0.1", "model.remat=True", "model.freeze_statistics=False", "evaluation.tta=True"),
)
RECIPES = {
    "syntax": "def get_config(:\n",
    "null_byte": "\0",
    "import": "import no_such_module\n",
    "nothing": "",
    "none": "def get_config():\n    pass\n",
    "dictionary": "def get_config():\n    return {}\n",
    "argument": "def get_config(x):\n    return x\n",
    "exit": "import sys\nsys.exit(3)\n",
    "raises": "def get_config():\n    raise ValueError('a\\nb' * 10**6)\n",
    "recursion": "def get_config():\n    return get_config()\n",
    "itself": "from cifar_jax.config import load_config\ndef get_config():\n    return load_config(__file__)\n",
    **{
        name: f"from cifar_jax.config import default_config\ndef get_config():\n"
        f"    config = default_config()\n    config.{line}\n    return config\n"
        for name, line in {
            "float": "train.epochs = 1e1",
            "text": "train.epochs = '4'",
            "none_value": "train.epochs = None",
            "bool": "train.epochs = True",
            "integer": "train.epochs = 10**5000",
            "infinite": "optimizer.learning_rate = 10**400",
            "number_for_text": "data.dir = 3",
            "long_text": "data.dir = 'x' * 10**6",
            "text_for_tuple": "model.widths = '64'",
            "long_tuple": "model.widths = (1,) * 10**6",
            "list_in_tuple": "optimizer.rules = (['.*', 1.0],)",
            "unknown": "train.epoch = 3",
            "deleted": "unlock(); del config.train['epochs']",
        }.items()
    },
}


def commands() -> list[list[str]]:
    """Arguments of the command line, each with one mistake."""
    rows = [(name, text) for name, key in KEYS.items() for text in OF_TYPE.get(type(key.default), ())]
    rows += [(name, text) for name, key in KEYS.items() if isinstance(key.default, tuple) for text in NESTED]
    rows += [(name, "no such choice") for name, key in KEYS.items() if key.range.choices]
    singles = [["--config=cnn_scratch", f"--config.{key}={value}"] for key, value in (*rows, *VALUES)]
    combined = [["--config=cnn_scratch", *(f"--config.{pair}" for pair in row.split())] for row in COMBINATIONS]
    probe = [["--config=resnet50_frozen", f"--config.{pair}"] for pair in OF_PROBE]
    return [*singles, *combined, *probe, *([f"--config={name}.py"] for name in RECIPES)]


RUN_ALL = """
import contextlib, io, json, sys, time
sys.modules["jax"] = None  # importing it fails
from cifar_jax import cli
from cifar_jax.errors import UsageError

def answer(arguments):
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            cli.run(["main.py", *arguments])
            result = "accepted"
        except UsageError as error:
            result = str(error)
        except BaseException as error:
            result = f"NOT REFUSED {type(error).__name__}: {error}"
    return result + output.getvalue()

print(json.dumps([answer(arguments) for arguments in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[tuple[str, ...], str]:
    folder = tmp_path_factory.mktemp("recipes")
    for name, source in RECIPES.items():
        (folder / f"{name}.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(commands()),
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(map(tuple, commands()), json.loads(done.stdout), strict=True))


def test_every_bad_value_is_one_short_line_before_jax_is_imported(answers):
    assert len(answers) >= 250
    wrong = {
        arguments: answer
        for arguments, answer in answers.items()
        if answer == "accepted" or "NOT REFUSED" in answer or len(answer) > 1000 or not answer.isprintable()
    }
    assert not wrong


def test_the_line_names_the_key_or_the_file(answers):
    for arguments, answer in answers.items():
        names = [argument.partition("=")[0].rpartition(".")[2][:100] for argument in arguments[1:]]
        known = any(name in answer for name in names) or "no configuration key" in answer
        in_recipe = arguments[0].removeprefix("--config=").removesuffix(".py") in RECIPES and "--config" in answer
        assert known or in_recipe, (arguments, answer)
