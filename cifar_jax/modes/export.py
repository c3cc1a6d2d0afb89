"""`--mode export`: a run as a file that other programs read, loaded again and compared before it says done."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from cifar_jax import pretrained
from cifar_jax.errors import DataError, UsageError
from cifar_jax.experiment import Experiment
from cifar_jax.models.layers import portable_forms
from cifar_jax.pretrained import Backbone
from cifar_jax.training.restore import restore_network, start_devices

SUFFIXES = {"safetensors": ".safetensors", "keras": ".h5", "stablehlo": ".stablehlo", "onnx": ".onnx"}


def export(workdir: str | Path, *, output: str, format: str, checkpoint: str) -> list[Path]:
    """Writes the network of a run, and beside it a small JSON with classes and preprocessing.

    Args:
        workdir: the run folder; all else is found there.
        output: the file; its name ends as `SUFFIXES` says.
        format: 'safetensors': weights, of a ResNet v1.5 under torchvision's names, else under our own; 'keras': weights
            of a ResNet v1 as Keras' ResNet50 reads them; 'stablehlo': a program for CPU, CUDA and TPU, from uint8
            images (any number, H, W, 3), as they are stored, to float32 logits (`jax.export.deserialize`);
            'onnx': the same, computed in float32, for ONNX Runtime and others.
        checkpoint: 'best', 'latest' or the number of a step.

    Returns:
        The two files.

    Raises:
        UsageError: a network that the format has no names for, or a file name that does not fit.
        DataError: what was read again is not what was written.
    """
    path = Path(output)
    start_devices(workdir)
    if path.suffix != SUFFIXES[format]:
        raise UsageError(f"--output={output}: a file of format {format} ends in {SUFFIXES[format]}")
    experiment, restored = restore_network(workdir, checkpoint=checkpoint)
    variables = jax.tree.map(np.asarray, restored.state.variables)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_size = restored.metadata["stored_size"]
    if format == "stablehlo":
        same = _write_program(experiment, variables, path, image_size)
    elif format == "onnx":
        same = _write_onnx(experiment, variables, path, image_size)
    elif format == "keras" or (experiment.config.model.name == "resnet" and _variant(experiment) == "v1.5"):
        same = _write_backbone(experiment, variables, path, "keras" if format == "keras" else "torchvision")
    else:
        same = _write_tree(variables, path)
    if not same:
        raise DataError(f"{path}: what was read again differs from what was written; try another disk")
    about = {
        "classes": list(experiment.dataset.class_names),
        "image_size": image_size,
        "preprocessing": {**experiment.preprocessing.__dict__},
        "data": experiment.dataset.name,
        "checkpoint_step": restored.step,
    }
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(about, indent=2) + "\n")
    return [path, beside]


def _variant(experiment: Experiment) -> str:
    return experiment.backbone.variant if experiment.backbone else experiment.config.model.variant


def _write_backbone(experiment: Experiment, variables: dict, path: Path, naming: str) -> bool:
    model, preprocessing = experiment.config.model, experiment.preprocessing
    if model.name != "resnet" or model.stem:
        raise UsageError(f"{naming} has names for ResNets with their own stem only: use --format safetensors")
    names = ("variant", "stage_sizes", "width", "block")
    architecture = experiment.backbone.architecture if experiment.backbone else {name: model[name] for name in names}
    backbone = Backbone(
        **architecture | {"stage_sizes": tuple(architecture["stage_sizes"])},
        **variables,
        preprocessing=pretrained.Preprocessing(
            mean=preprocessing.mean,
            std=preprocessing.std,
            resize_method=preprocessing.resize_method,
            crop_fraction=1.0,
            image_size=preprocessing.image_size,
        ),
        source=str(path),
        sha256="",
    )
    pretrained.write(backbone, path, naming=naming)
    with tempfile.TemporaryDirectory() as cache:
        found = pretrained.load(path, cache_dir=Path(cache))
    return _equal(variables, {"params": found.params, "batch_stats": found.batch_stats})


def _write_tree(variables: dict, path: Path) -> bool:
    tensors = flax.traverse_util.flatten_dict(variables, sep="/")
    safetensors.numpy.save_file(tensors, path)
    return _equal(tensors, safetensors.numpy.load_file(path))


def _write_program(experiment: Experiment, variables: dict, path: Path, image_size: int) -> bool:
    try:
        import flatbuffers  # noqa: F401 (what jax.export serializes with)
        import jax.export
    except ImportError as error:
        raise UsageError('--format stablehlo needs flatbuffers: pip install "cifar_jax[export]"') from error

    with portable_forms():
        program = jax.export.export(_logits(experiment, variables), platforms=("cpu", "cuda", "tpu"))
        path.write_bytes(program(_any_number_of_images(image_size)).serialize())
    read_again = jax.export.deserialize(bytearray(path.read_bytes()))
    return _same_logits(read_again.call, experiment, variables, image_size)


def _write_onnx(experiment: Experiment, variables: dict, path: Path, image_size: int) -> bool:
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UsageError(
            "--format onnx needs jax2onnx, in a virtual environment of its own, since it holds Orbax back: "
            'pip install "cifar_jax[onnx]"'
        ) from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    experiment = dataclasses.replace(experiment, model=experiment.model.clone(dtype=jnp.float32))
    with portable_forms():
        program = to_onnx(
            _logits(experiment, variables),
            [_any_number_of_images(image_size)],
            input_names=["images"],
            output_names=["logits"],
        )
    path.write_bytes(program.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: jax2onnx gives some layers the shapes of another layout, which do no harm
    session = onnxruntime.InferenceSession(path, options)
    return _same_logits(
        lambda images_NHWC: session.run(None, {"images": images_NHWC})[0], experiment, variables, image_size
    )


def _any_number_of_images(image_size: int) -> jax.ShapeDtypeStruct:
    import jax.export

    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.uint8)


def _logits(experiment: Experiment, variables: dict) -> Callable:
    return jax.jit(lambda images_NHWC: experiment.logits(variables, images_NHWC))


def _same_logits(found: Callable, experiment: Experiment, variables: dict, image_size: int) -> bool:
    noise_NHWC = np.random.default_rng(0).integers(0, 256, (3, image_size, image_size, 3), dtype=np.uint8)
    return bool(np.allclose(found(noise_NHWC), _logits(experiment, variables)(noise_NHWC), rtol=1e-4, atol=1e-4))


def _equal(written, found) -> bool:
    if jax.tree.structure(written) != jax.tree.structure(found):
        return False
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, written, found)))
