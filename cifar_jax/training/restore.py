"""Restores a run folder: its experiment, and the state of a checkpoint."""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import devices, models
from cifar_jax.data import Dataset, ImageSet, load
from cifar_jax.errors import DataError, UsageError
from cifar_jax.experiment import Experiment, assemble
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained import Backbone
from cifar_jax.runs.checkpoints import Checkpoints, Restored
from cifar_jax.runs.run_folder import RunFolder, read_json
from cifar_jax.training.state import abstract_state


def start_devices(workdir: str | Path) -> None:
    """Starts the devices as a run's configuration says. Without one, restoring reports what is wrong."""
    folder = RunFolder(Path(workdir))
    if folder.config_json.exists():
        devices.start(ConfigDict(read_json(folder.config_json)["config"]))


def restore_run(workdir: str | Path, *, checkpoint: str, data: str = "") -> tuple[Experiment, Restored]:
    """A finished or interrupted run: its configuration, data and the state of one checkpoint.

    Args:
        workdir: the run folder.
        checkpoint: 'best', 'latest' or the number of a step.
        data: replaces the recorded data.dir.

    Raises:
        UsageError: no such checkpoint, or not a run folder.
        DataError: the data are not those of the run, or no checkpoint is intact.
    """
    folder = RunFolder(Path(workdir))
    recorded = _recorded(folder)
    if data:
        recorded["config"]["data"]["dir"] = str(data)
    return _restored(rebuild(recorded), folder, checkpoint)


def restore_network(workdir: str | Path, *, checkpoint: str) -> tuple[Experiment, Restored]:
    """As `restore_run`, on all devices and without the data: `experiment.splits` are blank images."""
    folder = RunFolder(Path(workdir))
    return _restored(from_record(_recorded(folder)), folder, checkpoint)


def _recorded(folder: RunFolder) -> dict:
    """The content of config.json."""
    if not folder.config_json.exists():
        seeds = sorted(path.parent.name for path in folder.path.glob("seed_*/config.json"))
        hint = f"choose one of its runs: {', '.join(seeds)}" if seeds else "is it the folder of a run?"
        raise UsageError(f"--workdir={folder.path} has no config.json: {hint}")
    return read_json(folder.config_json)


def _restored(experiment: Experiment, folder: RunFolder, checkpoint: str) -> tuple[Experiment, Restored]:
    """The experiment with the preprocessing of the checkpoint, and the checkpoint."""
    abstract = abstract_state(experiment)
    checkpoints = Checkpoints(folder.checkpoints_dir, keep=experiment.config.checkpoint.keep)
    if checkpoint == "best":
        restored = checkpoints.restore_best(abstract)
    elif checkpoint == "latest":
        restored = checkpoints.restore_latest(abstract)
    elif checkpoint.isdecimal():
        restored = checkpoints.restore(int(checkpoint), abstract)
    else:
        raise UsageError(f"--checkpoint={checkpoint}: must be best, latest or the number of a step")
    if restored is None:
        raise UsageError(f"{folder.checkpoints_dir} holds no checkpoint yet: wait until an epoch has ended")
    preprocessing = Preprocessing.from_json(restored.metadata["preprocessing"])
    return dataclasses.replace(experiment, preprocessing=preprocessing), restored


def from_record(recorded: dict) -> Experiment:
    """The experiment of a config.json on all devices, without its data: the images of its splits are blank.

    The preprocessing, which depends on the data, is read from a checkpoint later; a convolutional network has the same
    parameters at any image size.

    Args:
        recorded: the content of config.json.
    """
    config = ConfigDict(recorded["config"])
    backbone = _recorded_backbone(recorded)
    names = tuple(recorded["data"]["classes"])
    size = config.model.image_size or config.data.image_size or 32

    def blank(split):
        n = recorded["data"]["splits"][split]["n"]
        images_NHWC = np.broadcast_to(np.uint8(0), (n, size, size, 3))  # takes no memory
        return ImageSet(images_NHWC, np.zeros(n, np.int32), names)

    return Experiment(
        config=config,
        mesh=devices.make_mesh(),
        dataset=Dataset(
            recorded["data"]["name"],
            "not read",
            train=blank("train"),
            validation=blank("validation"),
            test=blank("test"),
            is_fallback=recorded["data"]["is_fallback"],
        ),
        preprocessing=Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size),
        model=models.build(
            config.model,
            num_classes=len(names),
            steps_per_epoch=1,  # used in training only
            architecture=backbone.architecture if backbone else None,
        ),
        backbone=backbone,
    )


def rebuild(recorded: dict) -> Experiment:
    """The experiment of a config.json, with the data of that run.

    Args:
        recorded: the content of config.json.

    Raises:
        DataError: the data are not those of the run: their fingerprints differ.
    """
    config, backbone = ConfigDict(recorded["config"]), _recorded_backbone(recorded)
    if not recorded["data"]["is_fallback"]:
        experiment = assemble(config, load(config.data, allow_fallback=False), backbone)
    else:  # drawn again without the warning, even if the requested data exist by now
        config.data.update(name="shapes", dir="")
        dataset = load(config.data, allow_fallback=False)
        dataset = dataclasses.replace(dataset, name=recorded["data"]["name"], is_fallback=True)
        experiment = assemble(config, dataset, backbone)
    require_same_data(experiment, recorded["data"])
    return experiment


def _recorded_backbone(recorded: dict) -> Backbone | None:
    """The description of the pretrained weights that a run started from; the weights are in its checkpoints."""
    description = recorded.get("backbone")
    return Backbone.from_description(description) if description else None


def require_same_backbone(experiment: Experiment, recorded: dict | None) -> None:
    """Refuses pretrained weights other than those that the run started from, by their checksums.

    Raises:
        DataError: naming both.
    """
    backbone = experiment.backbone
    if (backbone and backbone.sha256) != (recorded and recorded["sha256"]):
        raise DataError(
            f"{backbone.source if backbone else 'random weights'}: this run did not start from them "
            f"({recorded['source'] if recorded else 'random weights'}): choose another --workdir"
        )


def require_same_data(experiment: Experiment, recorded: dict) -> None:
    """Refuses data that are not those of the run, by their fingerprints.

    Raises:
        DataError: naming both.
    """
    current = experiment.data_description
    if current == recorded:
        return
    if current["name"] != recorded["name"]:
        raise DataError(
            f"this run was trained on {recorded['name']}, but the data are {current['name']}: "
            "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
        )
    changed = [name for name in current["splits"] if current["splits"][name] != recorded["splits"].get(name)]
    raise DataError(
        f"{experiment.dataset.source}: not the data of this run, the fingerprint of {' and '.join(changed)} differs: "
        "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
    )
