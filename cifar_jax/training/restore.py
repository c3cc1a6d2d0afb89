"""From a run folder back to its experiment, and to the state of a checkpoint."""

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
    """Starts the devices as a run's configuration says; where there is none, restoring says what is wrong."""
    folder = RunFolder(Path(workdir))
    if folder.config_json.exists():
        devices.start(ConfigDict(read_json(folder.config_json)["config"]))


def restore_run(workdir: str | Path, *, checkpoint: str, data: str = "") -> tuple[Experiment, Restored]:
    """A finished or interrupted run: its configuration, data and the state of one checkpoint.

    Args:
        workdir: the run folder; all else is found there.
        checkpoint: 'best', 'latest' or the number of a step.
        data: replaces the recorded data.dir.

    Raises:
        UsageError: no such checkpoint, or not a run folder.
        DataError: the data are not those of the run, or no checkpoint is whole.
    """
    folder = RunFolder(Path(workdir))
    recorded = _recorded(folder)
    if data:
        recorded["config"]["data"]["dir"] = str(data)
    experiment = rebuild(recorded)
    return experiment, _restore(experiment, folder, checkpoint)


def restore_network(workdir: str | Path, *, checkpoint: str) -> tuple[Experiment, Restored]:
    """As `restore_run`, on all devices and without the data: `experiment.splits` are blank images.

    The preprocessing is that of the checkpoint.
    """
    folder = RunFolder(Path(workdir))
    experiment = from_record(_recorded(folder))
    restored = _restore(experiment, folder, checkpoint)
    preprocessing = Preprocessing.from_json(restored.metadata["preprocessing"])
    return dataclasses.replace(experiment, preprocessing=preprocessing), restored


def _recorded(folder: RunFolder) -> dict:
    """The content of config.json."""
    if not folder.config_json.exists():
        seeds = sorted(path.parent.name for path in folder.path.glob("seed_*/config.json"))
        hint = f"choose one of its runs: {', '.join(seeds)}" if seeds else "is it the folder of a run?"
        raise UsageError(f"--workdir={folder.path} has no config.json: {hint}")
    return read_json(folder.config_json)


def _restore(experiment: Experiment, folder: RunFolder, checkpoint: str) -> Restored:
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
        raise UsageError(f"{folder.checkpoints_dir} holds no checkpoint yet: train first, or wait for an epoch's end")
    return restored


def from_record(recorded: dict) -> Experiment:
    """The experiment that a run folder's config.json describes, on all devices, without its data.

    Blank images stand in for those of the splits. The preprocessing, which came from the data, is a blank too until
    it is read from a checkpoint; a convolutional network has the same parameters at any size of the images.

    Args:
        recorded: the content of config.json.
    """
    config = ConfigDict(recorded["config"])
    backbone = _recorded_backbone(recorded)
    names = tuple(recorded["data"]["classes"])
    size = config.model.image_size or config.data.image_size or 32

    def blank(split):
        images = recorded["data"]["splits"][split]["n"]
        images_NHWC = np.broadcast_to(np.uint8(0), (images, size, size, 3))  # takes no memory
        return ImageSet(images_NHWC, np.zeros(images, np.int32), names)

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
            steps_per_epoch=1,  # of training only
            architecture=backbone.architecture if backbone else None,
        ),
        backbone=backbone,
    )


def rebuild(recorded: dict) -> Experiment:
    """The experiment that a run folder's config.json describes, with the very data of that run.

    Args:
        recorded: the content of config.json.

    Raises:
        DataError: the data found are others, told by their fingerprints.
    """
    config, backbone = ConfigDict(recorded["config"]), _recorded_backbone(recorded)
    if not recorded["data"]["is_fallback"]:
        experiment = assemble(config, load(config.data, allow_fallback=False), backbone)
    else:  # drawn again without the warning, even if the real data have come since
        config.data.update(name="shapes", dir="")
        dataset = load(config.data, allow_fallback=False)
        dataset = dataclasses.replace(dataset, name=recorded["data"]["name"], is_fallback=True)
        experiment = assemble(config, dataset, backbone)
    require_same_data(experiment, recorded["data"])
    return experiment


def _recorded_backbone(recorded: dict) -> Backbone | None:
    """The pretrained weights that a run began with, but for the weights: those are in its checkpoints, trained on."""
    description = recorded.get("backbone")
    return Backbone.from_description(description) if description else None


def require_same_backbone(experiment: Experiment, recorded: dict | None) -> None:
    """Refuses other pretrained weights than those that the run began with, told by their hashes.

    Raises:
        DataError: naming both.
    """
    found, begun = experiment.backbone, recorded and recorded["sha256"]
    if (found and found.sha256) != begun:
        raise DataError(
            f"{found.source if found else 'random weights'}: not what this run began with "
            f"({recorded['source'] if recorded else 'random weights'}): choose another --workdir"
        )


def require_same_data(experiment: Experiment, recorded: dict) -> None:
    """Refuses data that are not those of the run, told by their fingerprints.

    Raises:
        DataError: naming both.
    """
    found = experiment.data_description
    if found == recorded:
        return
    if found["name"] != recorded["name"]:
        raise DataError(
            f"this run was trained on {recorded['name']}, and the data found are {found['name']}: "
            "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
        )
    changed = [name for name in found["splits"] if found["splits"][name] != recorded["splits"].get(name)]
    raise DataError(
        f"{experiment.dataset.source}: not the data of this run, the fingerprint of {' and '.join(changed)} differs: "
        "set --config.data.dir or CIFAR_JAX_DATA to the run's data, or choose another --workdir"
    )
