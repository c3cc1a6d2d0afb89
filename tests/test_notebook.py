"""Executes every cell of notebooks/cifar10.ipynb on the CPU, with small networks, few images and no network."""

import json
import os
import re
import sys
from pathlib import Path

import jax
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import cifar_jax
from cifar_jax.modes.export import export
from cifar_jax.pretrained.catalog import CATALOG

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "cifar10.ipynb"
RECIPES = {
    "frozen": "resnet50_frozen",
    "resized": "resnet50_resized",
    "finetuned": "resnet50_finetuned",
    "scratch": "cnn_scratch",
}
N = 200  # images per split
SMALL = {"data.name": "shapes", "data.limit": N, "train.batch_size": 30, "evaluation.batch_size": 100}
BACKBONE = {"model.stage_sizes": (1, 1, 1, 1), "model.width": 8, "model.image_size": 32}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """A small pretrained ResNet, as a file with torchvision's names."""
    folder = tmp_path_factory.mktemp("backbone")
    overrides = SMALL | BACKBONE | {"train.epochs": 4, "mesh.devices": 1}
    cifar_jax.train(cifar_jax.load_config("resnet50_pretrain", **overrides), folder / "run")
    # not the best epoch: after the first one, the running statistics are not yet those of the images
    export(folder / "run", output=str(folder / "backbone.safetensors"), format="safetensors", checkpoint="latest")
    return folder / "backbone.safetensors"


@pytest.fixture(scope="module")
def executed(backbone, tmp_path_factory) -> tuple[nbformat.NotebookNode, Path]:
    """The notebook with the outputs of all cells, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = with_small_settings(nbformat.read(NOTEBOOK, as_version=4), backbone)
    manager = AsyncKernelManager(kernel_name="cifar_jax", kernel_spec_manager=this_interpreter(folder / "kernels"))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, km=manager, timeout=600, resources=resources).execute(cleanup_kc=True)
    return notebook, folder / "runs" / "notebook"


def with_small_settings(notebook: nbformat.NotebookNode, backbone: Path) -> nbformat.NotebookNode:
    """The notebook with a cell of small settings after the cell tagged 'parameters', where papermill puts its own."""
    pretrained = {"model.pretrained": str(backbone), "model.image_size": 32, "train.epochs": 2}
    settings = {
        "COMMON": SMALL,
        "FROZEN": pretrained | {"train.epochs": 1},
        "RESIZED": pretrained | {"model.image_size": 40},
        "FINETUNED": pretrained,
        "SCRATCH": {"model.widths": (8, 16), "train.epochs": 2},
    }
    source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    (index,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    return notebook


def this_interpreter(folder: Path) -> KernelSpecManager:
    """A kernel of the Python that runs the tests, whichever kernels are installed on this machine."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "cifar_jax",
        "language": "python",
        "env": {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "JAX_PLATFORMS": "cpu",
            "CIFAR_JAX_CACHE": str(folder / "cache"),
            "CIFAR_JAX_DATA": "",
            "IPYTHONDIR": str(folder / "ipython"),
        },
    }
    (folder / "cifar_jax").mkdir(parents=True)
    (folder / "cifar_jax" / "kernel.json").write_text(json.dumps(spec))
    return KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)


def outputs(notebook: nbformat.NotebookNode, cell_id: str) -> list[nbformat.NotebookNode]:
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return cell.outputs


def text(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """What a cell prints."""
    return "".join(output.text for output in outputs(notebook, cell_id) if output.output_type == "stream")


def results(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "results.json").read_text())


def test_the_notebook_in_the_repository_is_valid_and_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_its_own_parameters_are_valid_and_name_published_weights(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    (cell,) = (cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.id == "parameters")
    values = {"jax": jax}
    exec(cell.source, values)
    for name, recipe in RECIPES.items():
        config = cifar_jax.load_config(recipe, **values["COMMON"] | values[name.upper()])
        assert config.data.limit == (1_000 if backend == "cpu" else 0)
        assert (config.model.pretrained in CATALOG) == (name != "scratch")


@pytest.mark.slow
def test_every_cell_runs_and_prints_at_most_twenty_lines(executed):
    notebook, _ = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    for cell in code:
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        assert len(printed.splitlines()) <= 20, f"{cell.id}:\n{printed}"
        assert "Warning" not in printed, f"{cell.id}:\n{printed}"


@pytest.mark.slow
def test_each_training_cell_shows_one_progress_bar_that_is_complete(executed):
    notebook, _ = executed
    for name in RECIPES:
        pages = [output.data["text/html"] for output in outputs(notebook, name) if output.output_type == "display_data"]
        assert len(pages) == 1, name
        value, maximum = re.search(r'<progress value="(\d+)" max="(\d+)">', pages[0]).groups()
        assert value == maximum, name


@pytest.mark.slow
def test_the_comparison_table_has_the_accuracies_of_the_four_runs(executed):
    notebook, runs = executed
    (table,) = outputs(notebook, "table")
    rows = [line.strip("| ").split(" | ") for line in table.data["text/markdown"].splitlines() if line[:1] == "|"][2:]
    assert {row[0]: row[2].split()[0] for row in rows} == {
        name: f"**{results(runs, name)['test']['accuracy']:.3f}**" for name in RECIPES
    }
    assert (runs / "report.html").exists()


@pytest.mark.slow
def test_the_restored_network_has_the_accuracy_of_results_json(executed):
    notebook, runs = executed
    recorded = results(runs, "finetuned")["test"]
    assert recorded["n"] == N
    restored, evaluated, read = (float(line.split()[-1]) for line in text(notebook, "restore").splitlines())
    assert evaluated == read == round(recorded["accuracy"], 4)
    assert abs(restored - recorded["accuracy"]) < 1.5 / N  # rounding may change the class of one image


@pytest.mark.slow
def test_figures_are_shown(executed):
    notebook, _ = executed
    for cell_id, number in {
        "samples": 1,
        "labels": 1,
        "augmentation": 1,
        "curves": 1,
        "confusion": 4,
        "predict": 1,
    }.items():
        images = [output for output in outputs(notebook, cell_id) if "image/png" in output.get("data", {})]
        assert len(images) == number, cell_id


@pytest.mark.slow
def test_the_exported_network_is_a_resnet_with_torchvision_names(executed):
    from safetensors.numpy import load_file

    _, runs = executed
    tensors = load_file(runs / "finetuned.safetensors")
    assert tensors["fc.weight"].shape == (10, 8 * 8 * 4)
    assert "layer4.0.conv3.weight" in tensors
