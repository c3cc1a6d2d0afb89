"""Recipes compiled for devices that this machine lacks; the compilers are those that run there."""

import functools
import importlib.util
import os

import jax
import pytest

from cifar_jax.config import load_config, recipes
from cifar_jax.errors import UsageError
from cifar_jax.experiment import without_data
from cifar_jax.targets import catalog, facts, report, topology
from cifar_jax.targets.programs import compile_step, evaluation_step, training_step
from cifar_jax.training.state import abstract_state, tree_bytes

SMALL = {"data.name": "cifar10", "data.limit": 2000, "model.image_size": 32, "train.batch_size": 64}
SMALL_MODELS = {
    **{name: {"model.widths": (16, 32)} for name in ("airbench94", "airbench96", "cnn")},
    "resnet": {"model.stage_sizes": (1, 1, 1, 1), "model.width": 8},
    "wide_resnet": {"model.stage_sizes": (1, 1), "model.width": 8},
}

needs_tpu_compiler = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs pip install '.[tpu]'")
needs_gpu_compiler = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, topology.COMPILERS["cuda"][1])), reason="needs pip install '.[cuda]'"
)


@pytest.fixture(scope="module", autouse=True)
def only_compiling():
    """`topology.start`, undone at the end."""
    variables, cache = dict(os.environ), jax.config.jax_enable_compilation_cache
    topology.start()
    yield
    jax.config.update("jax_enable_compilation_cache", cache)
    os.environ.clear()
    os.environ.update(variables)


def small(recipe: str, target: str, **changes):
    """The recipe with a small model, on the mesh of the target."""
    config = load_config(recipe, **SMALL | SMALL_MODELS[load_config(recipe).model.name] | changes)
    mesh = None if target == "cpu" else topology.mesh_of(catalog.find(target), target, fsdp=1)
    return without_data(config, mesh=mesh)


@functools.cache
def training(recipe: str, target: str) -> dict:
    """The facts of the small recipe's training step."""
    experiment = small(recipe, target)
    compiled = compile_step(training_step(experiment))
    return facts.describe(compiled, catalog.find(target), devices=experiment.mesh.size)


def check(program: dict, experiment) -> None:
    """What every training step must be on every accelerator."""
    assert program["fits"]
    assert program["steps_per_call"] == experiment.steps_per_dispatch > 1
    split = 3073 * len(experiment.splits["train"]) // experiment.mesh.size  # uint8 images with their labels at least
    assert program["memory"]["arguments"] > tree_bytes(abstract_state(experiment)) + split
    assert program["memory"]["temporaries"] < 2**28
    assert program["convolutions"] and all(kind.endswith(" bf16") for kind in program["convolutions"])
    assert program["arguments_donated"] == program["arguments_to_donate"] > 0
    assert program["host_transfers"] == 0
    assert program["float64_arrays"] == 0
    assert program["roofline"]["label"] == "compiled, not run"


TRAINED = [name for name in recipes.names() if load_config(name).optimizer.name != "lbfgs"]
TPU = [("cnn_scratch", "v5e-1"), ("cnn_scratch", "v5e-8"), ("resnet50_finetuned", "v5e-1")]
OTHERS = [(name, target) for name in TRAINED for target in ("v5e-1", "v5e-8", "v5e-16") if (name, target) not in TPU]


@pytest.mark.targets
@needs_tpu_compiler
@pytest.mark.parametrize(
    ("recipe", "target"), [*TPU, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_training_steps_for_tpu(recipe, target):
    experiment, program = small(recipe, target), training(recipe, target)
    check(program, experiment)
    assert program["bytes_accessed_by"] == "the compiler's cost analysis"
    assert 0 < program["padding"]["waste"] < 1
    assert any(array["lanes"] % 128 for array in program["padding"]["arrays"])


@pytest.mark.targets
@needs_tpu_compiler
def test_an_evaluation_step_for_tpu():
    experiment = small("resnet50_finetuned", "v5e-1")
    program = facts.describe(compile_step(evaluation_step(experiment)), catalog.find("v5e-1"), devices=1)
    assert program["fits"] and program["host_transfers"] == program["float64_arrays"] == 0
    assert program["convolutions"].keys() == {"forward bf16"}


@pytest.mark.targets
@needs_tpu_compiler
def test_flops_of_the_tpu_compiler_are_those_of_one_step():
    """Of the convolutions and dense layers, and fewer for all else: the loop's body is counted once."""
    program = training("cnn_scratch", "v5e-1")
    assert 0.8 < program["flops_compiler"] / program["flops_analytic"] < 1.9


@pytest.mark.targets
@needs_tpu_compiler
def test_a_batch_beyond_the_memory_of_a_tpu_does_not_fit():
    changes = {"data.limit": 0, "train.batch_size": 40_960, "model.image_size": 256}
    experiment = small("cnn_scratch", "v5e-1", **changes)
    compiled = compile_step(training_step(experiment))
    assert compiled.program is None
    assert not facts.describe(compiled, catalog.find("v5e-1"), devices=1)["fits"]


@pytest.mark.targets
@needs_gpu_compiler
@pytest.mark.parametrize("recipe", TRAINED)
def test_training_steps_for_gpu(recipe):
    experiment, program = small(recipe, "h100"), training(recipe, "h100")
    check(program, experiment)
    assert program["kernels"] > sum(program["convolutions"].values())
    assert program["padding"] is None


@pytest.mark.targets
@needs_gpu_compiler
@pytest.mark.parametrize("target", ["h200", "a100"])
def test_other_gpus_are_targets_too(target):
    check(training("cnn_scratch", target), small("cnn_scratch", target))


@pytest.mark.slow
def test_every_fact_of_the_cpu_of_this_machine():
    experiment = small("cnn_scratch", "cpu", **{"data.limit": 200, "model.widths": (8,)})
    target = catalog.find("cpu")
    content = report.compile_for(target, "cpu", experiment, command="command")
    content["largest_batch"] = report.search_largest_batch(target, experiment, content["programs"])
    program = content["programs"]["training"]
    assert content["fits"] and program["steps_per_call"] == 1
    assert program["arguments_donated"] == program["arguments_to_donate"]
    assert program["roofline"] is None and program["kernels"] is None and program["padding"] is None
    assert content["largest_batch"]["fits"] == 128 and content["largest_batch"]["does_not_fit"] is None
    (table,) = report.tables(content)
    assert table.row_count > 10 and "the training split" in table.caption


@pytest.mark.parametrize(("target", "extra"), [("v5e-1", "tpu"), ("h100", "cuda")])
def test_a_missing_compiler_is_one_line_with_the_extra_to_install(target, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"--target={target} needs .* pip install '\.\[{extra}\]'"):
        topology.mesh_of(catalog.find(target), target, fsdp=1)


def test_an_unknown_target_names_those_that_are_known():
    with pytest.raises(UsageError, match=r"--target=v7: must be one of v5e-1, .*, cpu"):
        catalog.find("v7")
