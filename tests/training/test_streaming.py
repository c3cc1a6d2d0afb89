"""Streamed runs are those of the same images in memory, bit for bit, wherever they are interrupted."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from interruption import stop_after
from PIL import Image

from cifar_jax import experiment as experiments
from cifar_jax.config import default_config
from cifar_jax.config.validate import require_effect
from cifar_jax.data import drawn_shapes
from cifar_jax.errors import UsageError
from cifar_jax.evaluation.features import place_features
from cifar_jax.modes.evaluate import evaluate
from cifar_jax.modes.inspect import inspect
from cifar_jax.modes.train import train_run as train
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.signals import Interrupted
from cifar_jax.targets.programs import evaluation_step, training_step
from cifar_jax.training.restore import restore_run
from cifar_jax.training.state import initial_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLOCKS = {"images_per_second", "seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """114 training images, 11 of them for validation, and 30 for the test: no split is a multiple of its batches."""
    root = tmp_path_factory.mktemp("images")
    drawn = drawn_shapes.draw_shapes(train_size=114, test_size=30)
    for split, images in drawn.splits.items():
        for row, (image_HWC, label) in enumerate(zip(images.images_NHWC, images.labels_N, strict=True)):
            (place := root / split / f"class{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image_HWC).save(place / f"{row}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def small(folder, pipeline="stream", **changes):
    config = default_config()
    config.data.update(name="folder", dir=str(folder), image_size=16, pipeline=pipeline)
    config.model.widths = (8, 8)
    config.train.update(epochs=2, batch_size=20)
    config.evaluation.update(batch_size=16, tta=True)
    config.mesh.devices = 2
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def history(workdir) -> dict:
    columns = read_json(RunFolder(workdir).history_json)
    return {name: values for name, values in columns.items() if name not in CLOCKS}


def bits(workdir) -> list[bytes]:
    state = restore_run(workdir, checkpoint="latest")[1].state
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """The folders of a streamed run and of one with its images on the devices, and the results of both."""
    root = tmp_path_factory.mktemp("runs")
    return {name: (root / name, train(small(folder, name), root / name)) for name in ("stream", "device")}


def test_a_streamed_run_equals_one_with_its_images_on_the_devices(runs):
    (streamed, results), (resident, expected) = runs["stream"], runs["device"]
    assert history(streamed) == history(resident)
    assert bits(streamed) == bits(resident)
    for split in ("train", "validation", "test"):
        assert results[split] == expected[split]


def test_a_streamed_run_resumes_exactly_in_the_middle_of_an_epoch(runs, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2, 7)
        for steps in (2, 7):
            with pytest.raises(Interrupted, match=f"after step {steps} of 10"):
                train(small(folder), tmp_path / "run")
    train(small(folder), tmp_path / "run")
    assert history(tmp_path / "run") == history(runs["stream"][0])
    assert bits(tmp_path / "run") == bits(runs["stream"][0])


def test_other_modes_stream_the_images_of_a_streamed_run(runs, folder):
    workdir, results = runs["stream"]
    for split in ("test", "train"):
        metrics = evaluate(workdir, split=split)
        assert metrics["n"] == results[split]["n"] == {"test": 30, "train": 103}[split]
        assert metrics["accuracy"] == results[split]["accuracy"]
    for figure in ("samples", "augmentation", "mistakes"):
        assert (RunFolder(workdir).figures_dir / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_the_choice_of_auto_is_recorded_and_stays_when_the_run_resumes(folder, tmp_path, monkeypatch, caplog):
    workdir, config = tmp_path / "run", small(folder, "auto", train__epochs=1)
    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(experiments, "SHARE_OF_IMAGES", 1e-9)
        patch.setattr(experiments, "STREAMED_SAMPLE", 50)
        train(config, workdir)
        assert "mean and standard deviation are those of 50 of 103 streamed images" in caplog.text
    assert RunFolder(workdir).recorded()["config"]["data"]["pipeline"] == "stream"
    train(config, workdir)  # finished: with enough memory for 'device', another choice would be refused
    with pytest.raises(UsageError, match=r"data\.pipeline: stream -> device"):
        train(small(folder, "device", train__epochs=1), workdir)


def test_features_of_a_streamed_split_are_those_of_its_images(folder):
    placed = {}
    for pipeline in ("stream", "device"):
        experiment = experiments.build(small(folder, pipeline), allow_fallback=False)
        placed[pipeline] = place_features(experiment, "train", initial_state(experiment).variables)
    for streamed, expected in zip(*placed.values(), strict=True):
        assert streamed.dtype == expected.dtype and streamed.shape == expected.shape
        np.testing.assert_array_equal(streamed, expected)


def test_memory_of_a_streamed_run_is_that_of_one_batch(folder):
    experiment = experiments.build(small(folder, train__steps_per_dispatch=0), allow_fallback=False)
    assert experiment.steps_per_dispatch == 1
    arguments = training_step(experiment).lowered.args_info[0]
    assert arguments[1][0].shape == (20, 16, 16, 3)
    assert evaluation_step(experiment).lowered.args_info[0][1][0].shape == (12, 16, 16, 3)
    _layers, _schedule, memory = inspect(small(folder))
    assert "streamed batch, uint8, all devices" in list(memory.columns[0].cells)


def test_the_number_of_batches_in_a_call_is_refused():
    config = small("", train__steps_per_dispatch=4)
    with pytest.raises(UsageError, match=r"steps_per_dispatch=4 has no effect: data\.pipeline=stream passes one"):
        require_effect(config, ["train.steps_per_dispatch"])


def test_two_processes_that_decode_their_shares_train_as_one(folder, tmp_path):
    command = [sys.executable, "main.py", "--config=cnn_scratch", "--config.data.name=folder", "--config.data.dir"]
    command += [
        str(folder),
        "--config.data.pipeline=stream",
        "--config.data.image_size=16",
        "--noconfig.evaluation.tta",
    ]
    command += ["--config.model.widths=(8,8)", "--config.train.batch_size=20", "--config.train.epochs=1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    kept |= {"JAX_PLATFORMS": "cpu", "no_proxy": "127.0.0.1"}
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}

    def start(name: str, cpu_devices: int, variables: dict[str, str]) -> subprocess.Popen:
        more = [f"--config.mesh.cpu_devices={cpu_devices}", "--workdir", str(tmp_path / name)]
        return subprocess.Popen(command + more, cwd=ROOT, env=kept | variables, stderr=subprocess.PIPE, text=True)

    started = [start("two", 1, together | {"JAX_PROCESS_ID": number}) for number in "01"] + [start("one", 2, {})]
    for process in started:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    for name, values in history(tmp_path / "one").items():
        assert history(tmp_path / "two")[name] == pytest.approx(values, rel=1e-5), name
    logits = []
    for name in ("two", "one"):
        with np.load(RunFolder(tmp_path / name).evaluation_dir("test") / "predictions.npz") as saved:
            logits.append(saved["logits"])
    np.testing.assert_allclose(*logits, atol=1e-5)
