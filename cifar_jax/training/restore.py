"""Restores the experiment of a run folder and the state of a checkpoint."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from cifar_jax import devices, models
from cifar_jax.config.validate import from_json
from cifar_jax.data import Dataset, ImageSet, load
from cifar_jax.data.sources import VARIABLE
from cifar_jax.errors import DataError, UsageError
from cifar_jax.experiment import Experiment, assemble
from cifar_jax.files.cache import expanded
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained import Backbone
from cifar_jax.runs.checkpoints import Checkpoints, Restored
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.state import abstract_state


def start_devices(workdir: str | Path) -> None:
    """Starts the devices with the configuration of a run. If it has none, restoring reports the error."""
    folder = RunFolder(Path(workdir))
    if folder.is_run:
        devices.start(from_json(folder.recorded()["config"]))


def restore_run(workdir: str | Path, *, checkpoint: str, data: str = "") -> tuple[Experiment, Restored]:
    """A finished or interrupted run: its configuration, data and the state of one checkpoint.

    Args:
        workdir: the run folder.
        checkpoint: 'best', 'latest' or the number of a step.
        data: replaces the recorded data.dir, unless empty.

    Raises:
        UsageError: no such checkpoint, or not a run folder.
        DataError: the data are not those of the run, or no checkpoint is intact.
    """
    folder = RunFolder(Path(workdir))
    recorded = folder.recorded()
    config, backbone = from_json(recorded["config"]), _recorded_backbone(recorded)
    config.data.dir = _place_of_data(config.data.dir, str(data))
    if not recorded["data"]["is_fallback"]:
        dataset = load(config.data, allow_fallback=False)
    else:  # drawn again without the warning, even if the requested data exist by now
        config.data.update(name="shapes", dir="")
        dataset = dataclasses.replace(load(config.data, allow_fallback=False), is_fallback=True)
    experiment = assemble(config, dataset, backbone, mesh=devices.make_mesh(config.mesh.devices))
    experiment = with_recorded_data(experiment, recorded["data"], key="--data")
    return _restored(experiment, folder, checkpoint)


def restore_network(workdir: str | Path, *, checkpoint: str) -> tuple[Experiment, Restored]:
    """Like `restore_run`, but on all devices and without the data: the images of `experiment.splits` are blank."""
    folder = RunFolder(Path(workdir))
    recorded = folder.recorded()
    config, backbone = from_json(recorded["config"]), _recorded_backbone(recorded)
    class_names = tuple(recorded["data"]["classes"])
    size = config.model.image_size or config.data.image_size or 32  # the parameters do not depend on it

    def blank(n: int) -> ImageSet:
        images_NHWC = np.broadcast_to(np.uint8(0), (n, size, size, 3))  # takes no memory
        return ImageSet(images_NHWC, np.zeros(n, np.int32), class_names)

    splits = {name: blank(split["n"]) for name, split in recorded["data"]["splits"].items() if split}
    data = recorded["data"]
    dataset = Dataset(data["name"], "not read", **splits, is_fallback=data["is_fallback"])
    mesh = devices.make_mesh()
    model = models.build(
        config.model,
        platform=devices.platform_of(mesh),
        num_classes=len(class_names),
        steps_per_epoch=1,  # used in training only
        architecture=backbone.architecture if backbone else None,
    )
    preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size)  # replaced by that of the checkpoint
    experiment = Experiment(config, mesh, dataset, preprocessing, model, backbone)
    return _restored(experiment, folder, checkpoint)


def _place_of_data(recorded: str, moved: str) -> str:
    """The path of the data: `moved` by the user; else as recorded; else '', where CIFAR_JAX_DATA has them.

    Raises:
        UsageError: there is nothing at that path.
    """
    path = moved or recorded
    if not path or expanded(path).exists():
        return path
    if moved:
        raise UsageError(f"--data={moved}: no such file or directory; correct the path")
    if os.environ.get(VARIABLE):
        return ""
    raise UsageError(f"the data of this run were at {recorded}, where nothing is now: name their new path with --data")


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


def _recorded_backbone(recorded: dict) -> Backbone | None:
    """The description of the pretrained weights from which a run started; its checkpoints hold the weights."""
    description = recorded.get("backbone")
    return Backbone.from_description(description) if description else None


def require_same_backbone(experiment: Experiment, recorded: dict | None) -> None:
    """Raises DataError if the run started from other pretrained weights, by their checksums."""
    backbone = experiment.backbone
    if (backbone and backbone.sha256) != (recorded and recorded["sha256"]):
        raise DataError(
            f"{backbone.source if backbone else 'random weights'}: this run did not start from them "
            f"({recorded['source'] if recorded else 'random weights'}): choose another --workdir"
        )
    if backbone and backbone.preprocessing != (before := Preprocessing.from_json(recorded["preprocessing"])):
        raise DataError(
            f"{backbone.source}: this run started with {before} of these weights, now it is {backbone.preprocessing} "
            f"({backbone.preprocessing_from}): restore the config.json next to them, or choose another --workdir"
        )


def with_recorded_data(experiment: Experiment, recorded: dict, *, key: str) -> Experiment:
    """The experiment under the recorded name of its data, which may have been renamed: their fingerprints decide.

    Args:
        recorded: 'data' in config.json.
        key: with which the user names the path of the data.

    Raises:
        DataError: the images, labels or classes are not those of the run.
    """
    current, source = experiment.data_description, experiment.dataset.source
    hint = f"name the run's data with {key} or {VARIABLE}, or choose another --workdir"
    splits = {**recorded["splits"], **current["splits"]}
    changed = [name for name in splits if current["splits"].get(name) != recorded["splits"].get(name)]
    if changed:
        raise DataError(
            f"{source} ({current['name']}): not the data of this run ({recorded['name']}), "
            f"the fingerprint of {' and '.join(changed)} differs: {hint}"
        )
    if current["classes"] != recorded["classes"]:
        names = [name for name in current["classes"] if name not in recorded["classes"]]
        raise DataError(f"{source}: this run has no classes {', '.join(names[:8])}; their folders were renamed: {hint}")
    return dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, name=recorded["name"]))
