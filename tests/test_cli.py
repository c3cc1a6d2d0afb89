"""Flags, modes and messages of the command line, in one process; tests/test_main.py starts main.py."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_jax.modes.report
import cifar_jax.modes.train
from cifar_jax import cli
from cifar_jax.config import recipes
from cifar_jax.config.keys import KEYS
from cifar_jax.errors import UsageError

ROOT = Path(__file__).parents[1]


def main(*arguments: str, **options) -> tuple[int, str]:
    """Exit code and stderr of main.py."""
    command = [sys.executable, "main.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", **options)
    return done.returncode, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        code, err = main("--help", stdout=full)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: standard output cannot be written: {os.strerror(errno.ENOSPC)}")


def test_output_to_a_program_that_has_ended_is_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    code, err = main("--help", stdout=writer)
    os.close(writer)
    assert (code, err.count("\n")) == (1, 1) and "Broken pipe" in err


def test_closed_streams_are_no_error():
    for closed in ("0<&-", "1>&-", "2>&-"):  # by a shell: `preexec_fn` would fork this process, and JAX warns
        command = f"exec {shlex.quote(sys.executable)} main.py --help {closed}"
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_names_that_the_terminal_cannot_show_are_printed_as_escapes(tmp_path):
    recipe = tmp_path / "größe.py"
    recipe.write_text("def get_config(:")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    code, err = main(f"--config={recipe}", env=os.environ | ascii_only)
    assert (code, err.count("\n")) == (2, 1) and "SyntaxError" in err and err.isascii()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "--mode train requires --config"),
        ("--mode=inspect", "--mode inspect requires --config"),
        ("--mode=ledger", "--mode ablation requires --config"),
        ("--mode=evaluate", "--mode evaluate requires --workdir"),
        ("--mode=report", "--mode report requires --workdir"),
        ("--mode=predict --workdir=run", "--mode predict requires --images"),
        ("--mode=export --workdir=run", "--mode export requires --output"),
        ("--mode=trian --config=cnn_scratch", "invalid choice: 'trian'"),
        ("--config=cnn_scratch --split", "--split: expected one argument"),
        ("--config=cnn_scratch --config.train.epochs", "--config.train.epochs: expected one argument"),
        ("--config=cnn_scratch --config.optimizer=sgd", "'optimizer' is a group of configuration keys"),
        (
            "--config=cnn_scratch --config.trian.seed=2",
            "no configuration key 'trian.seed'; the nearest is 'train.seed'",
        ),
        (
            "--config=cnn_scratch --config.train.epochs=[1,0]",
            "--config.train.epochs=0: must be an integer of at least 1",
        ),
        (
            "--config=cnn_scratch --config.train.epochs=[1,2] --mode=inspect",
            "train.epochs with a list of values is for",
        ),
        ("--config=cnn_scratch --config.train.seed=[1,2]", "train.seeds=N trains seeds"),
        ("--config=cnn_scratch --noconfig.train.epochs", "unknown flag --noconfig.train.epochs"),
        ("--config=cnn_scratch --mode=inspect --target=v5e-2", "--target: invalid choice: 'v5e-2'"),
        ("--config=cnn_scratch --target=v5e-1", "--target=v5e-1 is for --mode inspect"),
        ("--config=cnn_scratch --suite=corruptions", "--suite=corruptions is for --mode evaluate"),
        ("--mode=evaluate --suite=x --workdir=run", "--suite=x: must be corruptions, or a folder with the files"),
        (
            "--mode=evaluate --suite=corruptions --split=train --workdir=run",
            "is for the test split: remove --split=train",
        ),
        ("--config=cnn_scratch --output=x.json", "--output=x.json: only predict, export and inspect --target"),
        ("--config=cnn_scratch --mode=inspect --output=x.json", "--output=x.json: only predict, export and inspect"),
        ("--config=cnn_scratch stray", "stray argument 'stray'"),
        ("--config=cnn_scratch --worgdir=x", "unknown flag --worgdir; the nearest is --workdir"),
        ("--config=cnn_scratch --nonsense", "unknown flag --nonsense; --help lists them"),
        (
            "--config=cnn_scratch --work=x",
            "unknown flag --work",
        ),  # abbreviations are rejected: new flags would change their meaning
        ("--config=cnn_scratch --workdir=gs://bucket/run", "--workdir=gs://bucket/run: must be a folder"),
        ("--mode=evaluate --config=cnn_scrach", "no such recipe; the nearest is cnn_scratch"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message):
    with pytest.raises(UsageError) as error:
        cli.run(["cifar-jax", *arguments.split()])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["evaluate", "predict --images=x", "report", "export --output=x"])
def test_modes_that_use_a_finished_run_reject_config_flags(mode, tmp_path):
    command = f"cifar-jax --workdir={tmp_path} --config.data.limit=5 --mode={mode}"
    with pytest.raises(UsageError, match=r"uses the configuration of the run, no --config\.data\.limit"):
        cli.run(command.split())


@pytest.mark.parametrize(
    "program, recorded",
    [
        ("main.py", "python main.py"),
        ("/a folder/main.py", "python '/a folder/main.py'"),
        ("/site-packages/cifar_jax/__main__.py", "python -m cifar_jax"),
        ("/venv/bin/cifar-jax", "cifar-jax"),
    ],
)
def test_the_recorded_command_is_the_one_the_user_typed(program, recorded, monkeypatch):
    commands = []

    def train(config, workdir, *, command, hooks):
        commands.append(command)
        raise UsageError("stop")

    monkeypatch.setattr(cifar_jax.modes.train, "train", train)
    arguments = ["--config", "cnn_scratch", "--config.model.widths=(8, 8)", "--workdir=my run"]
    with pytest.raises(UsageError, match="stop"):
        cli.run([program, *arguments])
    assert commands == [f"{recorded} {shlex.join(arguments)}"]


def test_the_run_folder_is_named_after_the_recipe_and_tilde_is_expanded(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(cifar_jax.modes.report, "report", lambda workdir: folders.append(workdir) or [])
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in ("--config=configs/notebook/notebook_cnn.py", "--workdir=~/runs", "--workdir run"):
        cli.run(["cifar-jax", "--mode=report", *arguments.split()])
    assert folders == ["runs/notebook_cnn", f"{tmp_path}/runs", "run"]


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "-h"])
def test_help_lists_modes_recipes_flags_and_keys_in_80_columns(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(["cifar-jax", flag])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, text.splitlines())) <= 80
    for word in (*cli.MODES, *recipes.names(), *(f"--config.{key}" for key in KEYS), "--workdir", "--images"):
        assert f"  {word} " in text
    words = " ".join(text.split())
    for key in KEYS.values():
        assert f"; {key.help} ({key.range.description})" in words
    assert "default: 0 [pixels]; side of a square" in words
