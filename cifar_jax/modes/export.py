"""`--mode export`: writes the network of a run as a file for other programs, reads it again and compares.

FILE.json next to it (the sidecar) states all that a program needs to use the file; see `docs/weights.md`.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from cifar_jax import pretrained
from cifar_jax.devices import tracing_for
from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.files.atomic import atomic_path
from cifar_jax.files.cache import expanded
from cifar_jax.files.checksums import checksum
from cifar_jax.preprocessing.preprocess import Preprocessing
from cifar_jax.pretrained import Backbone
from cifar_jax.runs.json_files import load_object, write_json
from cifar_jax.training.restore import restore_network, start_devices

SUFFIXES = {"safetensors": ".safetensors", "keras": ".h5", "stablehlo": ".stablehlo", "onnx": ".onnx"}
TOLERANCE = 1e-4  # of the range of the logits
_EXPORTER = "cifar-jax --mode export"
_TENSOR_LAYOUTS = {  # by the layout of the input
    "NHWC": "convolutions (height, width, in, out), dense layers (in, out)",
    "NCHW": "convolutions (out, in, height, width), linear layers (out, in)",
}


@dataclasses.dataclass(frozen=True)
class _Network:
    """What is exported: uint8 images (N, stored_size, stored_size, 3) -> float32 logits (N, K)."""

    model: nn.Module
    variables: dict
    preprocessing: Preprocessing
    stored_size: int

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        return self.stored_size, self.stored_size, 3

    def logits(self, images_NHWC: jax.Array) -> jax.Array:
        return self.model.apply(self.variables, self.preprocessing(images_NHWC), train=False)


def export(workdir: str | Path, *, output: str | Path, format: str, checkpoint: str = "best") -> list[Path]:
    """Writes the network of a run and its sidecar.

    Args:
        workdir: the run folder.
        output: the file; its suffix is the one in `SUFFIXES`. Only an earlier export is overwritten.
        format: 'safetensors' (weights; of a ResNet v1.5 under torchvision's names), 'keras' (weights of a ResNet v1),
            'stablehlo' (a program for CPU, CUDA and TPU from stored uint8 images (N, H, W, 3) to float32 logits) or
            'onnx' (the same program, computed in float32).
        checkpoint: 'best', 'latest' or the number of a step.

    Returns:
        The file and its sidecar.

    Raises:
        UsageError: the format does not support this network, or `output` cannot be written.
        DataError: the file that was read again differs from what was written.
    """
    path = expanded(output)
    sidecar = path.with_name(f"{path.name}.json")
    _require_writable(path, sidecar, suffix=SUFFIXES[format])
    start_devices(workdir)
    experiment, restored = restore_network(workdir, checkpoint=checkpoint)
    variables = jax.tree.map(np.asarray, restored.state.variables)
    network = _Network(experiment.model, variables, experiment.preprocessing, restored.metadata["stored_size"])
    with atomic_path(path) as temporary:
        description = _WRITERS[format](network, temporary, path.name)
        sha256 = checksum(temporary)
        _require_earlier_export(path, sidecar)  # again: another program may have written there meanwhile
    run, classes = Path(workdir).resolve().name, list(experiment.dataset.class_names)
    names = (field.name for field in dataclasses.fields(network.model))
    settings = {name: getattr(network.model, name) for name in names if name not in ("parent", "name")}
    content = {
        "exported_by": _EXPORTER,
        "file": path.name,
        "sha256": sha256,
        "format": format,
        **description,
        "stored_image": {
            "size": network.stored_size,
            "channel_order": "RGB",
            "dtype": "uint8",
            "resize": {"method": "bicubic", "antialias": True, "target": "the shorter side"},
            "crop": "center square",
        },
        "output": {"name": "logits", "dtype": "float32", "shape": [None, len(classes)], "activation": None},
        "classes": classes,
        "model": {"class": type(network.model).__name__, **settings},
        "source": {"run": run, "data": experiment.dataset.name, "checkpoint_step": restored.step},
    }
    write_json(sidecar, json.loads(json.dumps(content, default=str)))
    return [path, sidecar]


def _require_writable(path: Path, sidecar: Path, *, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"--output={path}: a file of this --format ends in {suffix}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--output={path} cannot be written; choose another path")
    _require_earlier_export(path, sidecar)


def _require_earlier_export(path: Path, sidecar: Path) -> None:
    """Raises UsageError if the file or its sidecar exists, unless both are an export that no one has changed."""
    if not (os.path.lexists(path) or os.path.lexists(sidecar)):
        return
    try:
        content = load_object(sidecar)
        is_export = content.get("exported_by") == _EXPORTER
        if path.exists():
            is_export &= content.get("sha256") == checksum(path)
    except (OSError, DataError):
        is_export = False
    if not is_export:
        raise UsageError(f"--output={path}: the file or its .json exists and is no export; choose another path")


def _write_keras(network: _Network, path: Path, name: str) -> dict:
    backbone = _write_backbone(network, path, naming="keras")
    if backbone is None:
        raise UsageError("--format keras is for ResNets of variant v1 with the ImageNet stem: use --format safetensors")
    shape = (network.preprocessing.image_size, network.preprocessing.image_size, 3)
    depth = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}.get(backbone.stage_sizes)
    arguments = f"weights=None, input_shape={shape}, classes={backbone.num_classes}, classifier_activation=None"
    use = [
        "import keras",
        f"model = keras.applications.ResNet{depth}({arguments})",
        f"model.load_weights({name!r})",
        "logits = model(images, training=False)",
    ]
    use = use if depth and backbone.width == 64 else None
    return _weights_only(network, use=use, layout="NHWC", channel_order="BGR", maximum=255)


def _write_safetensors(network: _Network, path: Path, name: str) -> dict:
    backbone = _write_backbone(network, path, naming="torchvision")
    if backbone is None:
        tensors = flatten_dict(network.variables, sep="/")
        safetensors.numpy.save_file(tensors, path)
        _require_equal(tensors, safetensors.numpy.load_file(path), path)
        return _weights_only(network, use=None, layout="NHWC")
    block = {"bottleneck": "Bottleneck", "basic": "BasicBlock"}[backbone.block]
    use = [
        "import safetensors.torch, torch",
        f"from torchvision.models.resnet import {block}, ResNet",
        f"model = ResNet({block}, {list(backbone.stage_sizes)}, num_classes={backbone.num_classes}).eval()",
        f"model.load_state_dict(safetensors.torch.load_file({name!r}))",
        "logits = model(torch.from_numpy(images)).detach()",
    ]
    return _weights_only(network, use=use if backbone.width == 64 else None, layout="NCHW")


def _weights_only(
    network: _Network, *, use: list[str] | None, layout: str, channel_order: str = "RGB", maximum: int = 1
) -> dict:
    """The part of the sidecar that depends on the format, for weights: the user resizes and normalizes the images."""
    preprocessing, size = network.preprocessing, network.preprocessing.image_size
    resize = {"method": preprocessing.resize_method, "antialias": True, "dtype": "float32", "clip": False}
    order = {"RGB": slice(None), "BGR": slice(None, None, -1)}[channel_order]
    return {
        "contains": "weights only",
        "use": use,
        "tensor_layout": _TENSOR_LAYOUTS[layout],
        "input": {
            "dtype": "float32",
            "layout": layout,
            "shape": [None, 3, size, size] if layout == "NCHW" else [None, size, size, 3],
            "channel_order": channel_order,
            "value_range": [0, maximum],
            "resize": resize if size != network.stored_size else None,
        },
        "normalization": {
            "mean": [maximum * mean for mean in preprocessing.mean[order]],
            "std": [maximum * std for std in preprocessing.std[order]],
        },
    }


def _write_backbone(network: _Network, path: Path, *, naming: str) -> Backbone | None:
    """Writes a ResNet under the names of another library; None if it has no names for this network."""
    architecture = network.model.architecture
    if architecture is None or architecture["variant"] != pretrained.NAMINGS[naming].variant:
        return None
    source = {"preprocessing": network.preprocessing, "source": "", "sha256": ""}
    backbone = Backbone(**architecture, **network.variables, **source)
    pretrained.write(backbone, path, naming=naming)
    written = pretrained.read(path, sha256="")
    _require_equal(network.variables, {"params": written.params, "batch_stats": written.batch_stats}, path)
    return backbone


def _require_equal(written: dict, read: dict, path: Path) -> None:
    same = jax.tree.structure(written) == jax.tree.structure(read)
    if not same or not all(jax.tree.leaves(jax.tree.map(np.array_equal, written, read))):
        raise DataError(f"{path}: what was read again differs from what was written; try another disk")


def _write_stablehlo(network: _Network, path: Path, name: str) -> dict:
    try:
        import flatbuffers  # noqa: F401 (jax.export serializes with it)
    except ImportError as error:
        raise UsageError("--format stablehlo needs flatbuffers: pip install '.[export]'") from error
    with tracing_for("any"):
        program = jax.export.export(jax.jit(network.logits), platforms=("cpu", "cuda", "tpu"))(_images(network))
        path.write_bytes(program.serialize())
    _require_same_logits(jax.export.deserialize(bytearray(path.read_bytes())).call, network, path)
    load = f"program = jax.export.deserialize(bytearray(open({name!r}, 'rb').read()))"
    return _program(network, use=["import jax.export", load, "logits = program.call(images)"])


def _write_onnx(network: _Network, path: Path, name: str) -> dict:
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except (ImportError, AttributeError) as error:  # AttributeError: jax2onnx 0.17.1 with jax 0.12
        raise UsageError(
            f"--format onnx needs jax2onnx and a JAX that it supports ({error}): "
            "in a new virtual environment, pip install '.[onnx]'"
        ) from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    network = dataclasses.replace(network, model=network.model.clone(dtype=jnp.float32))
    try:
        with tracing_for("any"):
            inputs = [_images(network)]
            program = to_onnx(jax.jit(network.logits), inputs, input_names=["images"], output_names=["logits"])
        del program.graph.value_info[:]  # jax2onnx 0.17.1 states NHWC shapes of NCHW activations; they are optional
        path.write_bytes(program.SerializeToString())
        session = onnxruntime.InferenceSession(path)
        _require_same_logits(lambda images_NHWC: session.run(None, {"images": images_NHWC})[0], network, path)
    except (DataError, OSError):
        raise
    except Exception as error:  # jax2onnx does not convert every network; ONNX Runtime's errors have no common base
        raise DataError(f"{path}: not convertible to ONNX ({one_line(error)}); use --format stablehlo") from error
    load = f"session = onnxruntime.InferenceSession({name!r})"
    return _program(network, use=["import onnxruntime", load, "(logits,) = session.run(None, {'images': images})"])


def _program(network: _Network, *, use: list[str]) -> dict:
    """The same for a program, which resizes and normalizes the images."""
    images = {"name": "images", "dtype": "uint8", "layout": "NHWC", "shape": [None, *network.shape_HWC]}
    images |= {"channel_order": "RGB", "value_range": [0, 255], "resize": None}
    contains = "whole program, with resizing and normalization"
    return {"contains": contains, "use": use, "tensor_layout": None, "input": images, "normalization": None}


def _images(network: _Network) -> jax.ShapeDtypeStruct:
    """The input of a program: any number of images."""
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *network.shape_HWC), jnp.uint8)


def _require_same_logits(program: Callable, network: _Network, path: Path) -> None:
    noise_NHWC = np.random.default_rng(0).integers(0, 256, (3, *network.shape_HWC), dtype=np.uint8)
    expected_NK = np.asarray(jax.jit(network.logits)(noise_NHWC))
    error = np.abs(np.asarray(program(noise_NHWC)) - expected_NK).max()
    if not error <= TOLERANCE * np.ptp(expected_NK):
        raise DataError(f"{path}: the logits of the exported program differ by {error:.1e} from those of the run")


_WRITERS = {
    "safetensors": _write_safetensors,
    "keras": _write_keras,
    "stablehlo": _write_stablehlo,
    "onnx": _write_onnx,
}
