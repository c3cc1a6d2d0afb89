"""The four recipes, made small, still train to the recorded histories and parameters.

On the processor and with the library versions of the recording, every bit is compared; elsewhere, where XLA may round
differently, the first epoch's loss and the accuracies are compared with a tolerance. Where training was changed on
purpose, record again and say so in the commit:  python tests/test_golden.py
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
CLOCKS = {"images_per_second", "seconds"}

SMALL = ("--config.data.name=shapes", "--config.data.limit=600", "--config.train.batch_size=50")
RESNET = (*SMALL, "--config.model.width=8", "--config.model.image_size=32", "--config.mesh.cpu_devices=1")
PRETRAINED = "--config.model.pretrained=backbone.safetensors"
RUNS = {
    "cnn_scratch": (*SMALL, "--config.model.widths=(8,16)", "--config.train.epochs=2", "--config.mesh.cpu_devices=2"),
    "resnet50_pretrain": (*RESNET, "--config.model.stage_sizes=(1,1,1,1)", "--config.train.epochs=2"),
    "resnet50_frozen": (*RESNET, PRETRAINED),
    "resnet50_resized": (*RESNET, PRETRAINED, "--config.train.epochs=2"),
    "resnet50_finetuned": (
        *(*RESNET, PRETRAINED, "--config.train.epochs=2", "--config.optimizer.layer_decay=0.7"),
        *("--config.train.ema_decay=0.9", "--config.augment.cutout=4", "--config.optimizer.accumulate_steps=2"),
    ),
}


def machine() -> dict:
    """What decides how XLA:CPU rounds: the generation of the processor, its instructions, the threads, the versions.

    The name alone does not: virtual machines call all generations of a processor the same.
    """
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    first = dict(re.findall(r"^(.*?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))
    processor = [first[key] for key in ("vendor_id", "cpu family", "model", "model name") if key in first]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {
        "processor": " ".join(processor) or platform.processor(),
        "instructions": hashlib.sha256(first.get("flags", "").encode()).hexdigest()[:16],
        "processors": os.cpu_count(),
        "versions": versions,
    }


def main(*arguments: str, cwd: Path, root: Path) -> None:
    unset = ("CIFAR_JAX_DATA", "XLA_FLAGS", "PJRT_NPROC", "JAX_NUM_CPU_DEVICES", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"JAX_PLATFORMS": "cpu", "CIFAR_JAX_CACHE": str(cwd / "cache"), "PYTHONPATH": str(root)}
    command = [sys.executable, str(root / "main.py"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def outcome(run: Path) -> dict:
    """History without clocks, accuracies, and the checksum of every parameter and statistic of the last checkpoint."""
    history = json.loads((run / "history.json").read_text())
    results = json.loads((run / "results.json").read_text())
    last = max((path for path in (run / "checkpoints").iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))
    leaves = json.loads((last / "meta" / "metadata").read_text())["leaves"]
    return {
        "history": {name: history[name] for name in sorted(history.keys() - CLOCKS)},
        "accuracy": {split: results[split]["accuracy"] for split in ("train", "validation", "test")},
        "leaves": {
            name: leaf["sha256"][:16]
            for name, leaf in sorted(leaves.items())
            if name.startswith(("params/", "batch_stats/", "ema_params/"))
        },
    }


def train_all(folder: Path, root: Path) -> dict:
    found = {}
    for name in ("cnn_scratch", "resnet50_pretrain", "resnet50_frozen", "resnet50_resized", "resnet50_finetuned"):
        main("--config", str(root / f"configs/{name}.py"), *RUNS[name], "--workdir", name, cwd=folder, root=root)
        found[name] = outcome(folder / name)
        if name == "resnet50_pretrain":
            main("--mode", "export", "--workdir", name, "--output", "backbone.safetensors", cwd=folder, root=root)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    return train_all(tmp_path_factory.mktemp("golden"), ROOT)


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_trains_as_recorded(trained, name):
    recorded = json.loads(GOLDEN.read_text())
    found, expected = trained[name], recorded["runs"][name]
    hint = "training has changed; if that is intended, record again: python tests/test_golden.py"
    if recorded["machine"] == machine():
        assert found == expected, hint
    else:
        assert found["leaves"].keys() == expected["leaves"].keys(), hint
        assert found["history"]["learning_rate"] == pytest.approx(expected["history"]["learning_rate"]), hint
        assert found["history"]["loss"][0] == pytest.approx(expected["history"]["loss"][0], rel=0.05), hint
        np.testing.assert_allclose(found["accuracy"]["test"], expected["accuracy"]["test"], atol=0.1, err_msg=hint)


if __name__ == "__main__":
    import tempfile

    root = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT
    with tempfile.TemporaryDirectory() as folder:
        runs = train_all(Path(folder), root)
    GOLDEN.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
