"""The worked examples of docs/extending.md, applied to a copy of the checkout, work."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^(Create|In) `(\S+?)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMALL = (
    *("--config.data.name=shapes", "--config.data.limit=200"),
    *("--config.train.epochs=1", "--config.train.batch_size=40"),
    *("--config.model.widths=(8,8,8)", "--config.mesh.cpu_devices=1"),
)


def apply_examples(heading: str, root: Path) -> set[str]:
    """Applies the code blocks of one section and returns the edited files.

    "Create `path`" comes before the content of a new file. "In `path`" comes before a diff: its lines without '+' are
    replaced by its lines without '-'.
    """
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    edited = set()
    for action, name, code in BLOCK.findall(section):
        path = root / name
        if action == "Create":
            assert not path.exists(), f"{name} exists already"
            path.write_text(code)
        else:
            lines = code.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if not line.startswith(sign)) for sign in "+-")
            assert path.read_text().count(old) == 1, f"{name}: these lines must occur once:\n{old}"
            path.write_text(path.read_text().replace(old, new))
        edited.add(name)
    return edited


def run(*arguments: str, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CIFAR_JAX_DATA"}
    environment |= {"JAX_PLATFORMS": "cpu", "CIFAR_JAX_CACHE": str(cwd / "cache")}
    command = [sys.executable, "main.py", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> tuple[Path, dict[str, set[str]]]:
    """A checkout with the examples of this test, and the files that each of them edited."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("cifar_jax", "configs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", root)
    tasks = ("A new augmentation", "A new architecture", "Another loss")
    return root, {task: apply_examples(task, root) for task in tasks}


def test_each_task_edits_few_files(extended):
    _, edited = extended
    assert {task: len(files) for task, files in edited.items()} == {
        "A new augmentation": 2,
        "A new architecture": 3,
        "Another loss": 1,
    }


def test_the_extended_program_trains(extended):
    root, _ = extended
    flags = (*SMALL, "--config.augment.brightness=0.5", "--workdir=run")
    run("--config=configs/vgg13.py", *flags, cwd=root)
    architecture = json.loads((root / "run" / "architecture.json").read_text())
    assert {"block1_conv1", "block3_norm2", "head"} <= {row["name"] for row in architecture["layers"]}
    history = json.loads((root / "run" / "history.json").read_text())
    # Of 10 classes, the binary cross-entropies of logits 0 sum to 6.9; a softmax cross-entropy begins at 2.3.
    assert history["loss"][0] > 2.5
