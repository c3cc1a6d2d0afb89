"""A recipe compiled for one target: the content of the JSON file, and its tables."""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterator

from ml_collections import ConfigDict
from rich.table import Column, Table

from cifar_jax.experiment import Experiment
from cifar_jax.targets import facts
from cifar_jax.targets.catalog import Target
from cifar_jax.targets.largest_batch import largest_batch
from cifar_jax.targets.programs import compile_step, features_step, steps_of, training_step

log = logging.getLogger(__name__)

COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
GIGABYTE = 1e9


def compile_for(target: Target, name: str, experiment: Experiment, *, command: str) -> dict:
    """Compiles the programs of a run; JSON values, complete but for 'largest_batch'.

    Args:
        experiment: on the mesh of the target.
        command: that makes this content again.
    """
    mesh, programs = experiment.mesh, {}
    for step in steps_of(experiment):
        log.info("compiling the %s step, batch %d, for %s", step.name, step.batch_size, name)
        programs[step.name] = facts.describe(compile_step(step), target, devices=mesh.size)
    return {
        "target": name,
        "label": facts.LABEL,
        "command": command,
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "memory": target.memory,
        "usable_memory": target.usable_memory,
        "fits": all(program["fits"] for program in programs.values()),
        "model": experiment.config.model.name,
        "image_size": experiment.preprocessing.image_size,
        "dtype": experiment.model.dtype.name,
        "programs": programs,
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for distribution in COMPILERS:
        try:
            yield distribution, importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue


def search_largest_batch(target: Target, experiment: Experiment, programs: dict) -> dict:
    """The 'largest_batch' of the training step, or of the features where a probe is all that trains.

    Args:
        programs: of `compile_for`.
    """
    rebuild, first = (
        (training_step, programs["training"]) if "training" in programs else (features_step, programs["features"])
    )
    key, start = first["batch_key"], first["batch_size"]
    tried = {start: first["fits"]}

    def fits(batch_size: int) -> bool:
        log.info("compiling with batch %d", batch_size)
        step = rebuild(dataclasses.replace(experiment, config=_with_value(experiment.config, key, batch_size)))
        tried[batch_size] = facts.describe(compile_step(step), target, devices=experiment.mesh.size)["fits"]
        return tried[batch_size]

    low, high = largest_batch(
        fits,
        fitting=start if first["fits"] else 0,
        failing=None if first["fits"] else start,
        guess=_guess(first, target),
        multiple=8 * experiment.mesh.size,
        limit=len(experiment.splits["train"]),
    )
    return {"key": key, "fits": low, "does_not_fit": high, "tried": tried}


def _with_value(config: ConfigDict, key: str, value: int) -> ConfigDict:
    config = config.copy_and_resolve_references()
    group, _, leaf = key.partition(".")
    config[group][leaf] = value
    return config


def _guess(program: dict, target: Target) -> int:
    """The batch that fills the memory if temporaries grow with the batch and nothing else does."""
    if "memory" not in program:
        return program["batch_size"] // 2
    needed, temporaries = program["memory"]["needed"], program["memory"]["temporaries"]
    return int(program["batch_size"] * (target.usable_memory - needed + temporaries) / max(temporaries, 1))


def tables(content: dict) -> list[Table]:
    """The facts of every program side by side, one row each, and the largest batch."""
    columns = (Column(name, justify="right") for name in content["programs"])
    title = f"{content['model']}, {content['image_size']} pixels, {content['dtype']}, for {content['target']}"
    table = Table("", *columns, title=f"{title} ({content['devices']} x {content['device']}): {content['label']}")
    described = [dict(_rows(program)) for program in content["programs"].values()]
    for name in dict.fromkeys(name for rows in described for name in rows):
        table.add_row(name, *(rows.get(name, "") for rows in described))
    table.caption = _conclusion(content)
    return [table]


def _conclusion(content: dict) -> str:
    batch, verdict = content["largest_batch"], "fits" if content["fits"] else "does not fit"
    text = f"{verdict} into {_gigabytes(content['usable_memory'])} of a device; largest batch that fits: "
    text += f"--config.{batch['key']}={batch['fits']}" if batch["fits"] else "none"
    return text + (f" ({batch['does_not_fit']} does not)" if batch["does_not_fit"] else " (the training split)")


def _rows(program: dict) -> Iterator[tuple[str, str]]:
    yield "batch, all devices", f"{program['batch_size']:,}"
    yield "steps in a call", f"{program['steps_per_call']:,}"
    yield "seconds to compile here", f"{program['compile_seconds']:,.1f}"
    yield "fits", "yes" if program["fits"] else "no"
    if "memory" not in program:
        yield "the compiler's message", program["compiler"]
        return
    for name, size in program["memory"].items():
        yield f"memory: {name.replace('_', ' ')}", _gigabytes(size)
    yield "FLOPs, analytic", _giga(program["flops_analytic"])
    yield "FLOPs, compiler", _giga(program["flops_compiler"]) if program["flops_compiler"] else "not reported"
    yield f"bytes: {program['bytes_accessed_by']}", _gigabytes(program["bytes_accessed"])
    if program["kernels"]:
        yield "kernels", f"{program['kernels']:,}"
    for name, count in program["convolutions"].items():
        yield f"convolutions: {name}", f"{count:,}"
    if program["padding"]:
        yield "padding of results, of their bytes", f"{100 * program['padding']['waste']:.1f} %"
    yield "arguments donated", f"{program['arguments_donated']:,} of {program['arguments_to_donate']:,}"
    yield "transfers to the host", f"{program['host_transfers']:,}"
    yield "float64 arrays", f"{program['float64_arrays']:,}"
    if roofline := program["roofline"]:
        for name, seconds in roofline["seconds"].items():
            yield f"at least, for {name}", f"{1e3 * seconds:,.2f} ms"
        yield f"images/s at most ({roofline['label']})", f"{roofline['images_per_second_at_most']:,.0f}"


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:,.3f} GB"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.1f} G"
