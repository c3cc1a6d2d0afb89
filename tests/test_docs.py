"""The figures in the documentation match the files in benchmarks/results, and its links and commands work."""

import json
import re
import shlex
import statistics
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import cifar_jax
from cifar_jax import cli
from cifar_jax.metrics.calibration import softmax
from cifar_jax.metrics.classification import mean_interval
from cifar_jax.modes.export import export
from cifar_jax.pretrained.catalog import CATALOG

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    return " ".join((ROOT / name).read_text().split())


def load_results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def percent(value: float, decimals: int = 1) -> str:
    return f"{100 * value:.{decimals}f} %"


def interval(bounds: list[float], decimals: int = 1, sign: str = "") -> str:
    low, high = (100 * bound for bound in bounds)
    return f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


def test_table_of_accuracies(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import accuracy

    assert accuracy.page(load_results("accuracy")) in (ROOT / "docs" / "results.md").read_text()


def test_table_of_corrupted_images(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import robustness

    results, page = load_results("robustness"), (ROOT / "docs" / "robustness.md").read_text()
    assert robustness.page(results) in page
    assert f"{results['train_images']:,} training images" in page and f"n = {results['n']:,} test images" in page
    assert len({tuple(run["seed"] for run in results[recipe]["runs"]) for recipe in robustness.RECIPES}) == 1


def test_comparison_with_the_code_of_airbench94():
    results, page = load_results("airbench94_cpu"), (ROOT / "docs" / "accelerators.md").read_text()
    for name, title in {"ours": "`cnn_94`", "theirs": "airbench94_muon (PyTorch)"}.items():
        runs = results[name]
        mean, *bounds = mean_interval(runs["accuracies"], bounds=(0, 1))
        seconds = statistics.median(runs["seconds"])
        assert f"| {title} | {percent(mean)} {interval(bounds)} | {seconds:.0f} |" in page
    difference = stats.ttest_ind(results["ours"]["accuracies"], results["theirs"]["accuracies"], equal_var=False)
    low, high = difference.confidence_interval()
    gap = statistics.fmean(results["ours"]["accuracies"]) - statistics.fmean(results["theirs"]["accuracies"])
    assert f"| {100 * gap:+.1f} {interval([low, high], sign='+')} | |" in page


def test_calibration_of_the_cnn():
    results, page = load_results("cnn_scratch"), text_of("docs/results.md")
    test, scaled = results["test"], results["test"]["temperature_scaled"]
    assert f"{results['parameters']:,} parameters" in page
    assert f"(ECE) of {test['ece']:.3f} on the test split. With a temperature of {results['temperature']:.2f}" in page
    assert f"the ECE is {scaled['ece']:.3f} and the loss falls from {test['loss']:.3f} to {scaled['loss']:.3f}" in page


def test_page_of_benchmarks(monkeypatch):
    """`python benchmarks/page.py` would write the page as it is."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import page

    assert page.page() == (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_probe_reaches_the_objective_of_its_baseline():
    probe = load_results("probe_speed")
    pairs = zip(probe["ours"], probe["scikit_learn"], strict=True)
    assert all(ours["objective"] <= baseline["objective"] for ours, baseline in pairs)


def test_the_same_fine_tuning_in_pytorch():
    page, ours, peer = text_of("docs/results.md"), load_results("accuracy")["ft64_3ep"], load_results("finetune_torch")
    accuracies = f"reaches {100 * peer['test_accuracy']:.1f} % without test-time augmentation, ours"
    assert f"{accuracies} {100 * statistics.fmean(ours['without_tta']):.1f} %" in page
    speeds = f"{peer['images_per_second']:.0f} images/s on the idle machine, ours at"
    assert f"{speeds} {statistics.median(ours['images_per_second']):.0f} with other jobs" in page


def test_comparisons_of_transfer_runs():
    page, runs = text_of("docs/results.md"), load_results("accuracy")
    validation = {name: 100 * run["validation_accuracies"][0] for name, run in runs.items()}
    test = {name: 100 * run["accuracy"] for name, run in runs.items()}
    assert f"from {validation['probe_32_last']:.1f} to {validation['probe_32_all']:.1f} %" in page
    assert f"the probe gains {test['probe_128_all'] - test['probe_32_all']:.1f} points" in page
    assert f"rises from {validation['probe_128_all']:.1f} to {validation['probe_224_all']:.1f} %" in page
    assert f"gains {test['ft64_3ep'] - test['probe_64_all']:.1f} points over the probe" in page
    assert f"96 pixels gain {test['ft96_6ep'] - test['ft64_3ep']:.1f} points more" in page
    assert f"({runs['ft64_3ep']['parameters'] / 1e6:.1f} million parameters)" in page


@pytest.mark.parametrize("name", ["ablation_cnn", "ablation_frozen", "ablation_resized", "ablation_finetuned"])
def test_ablations(name):
    page, steps = text_of("docs/ablation.md"), load_results(name)["steps"]
    for number, step in enumerate(steps):
        row = f"{percent(step['accuracy'], 2)} {interval(step['interval'], 2)} |"
        if number:
            row += f" {100 * step['gain']:+.2f} {interval(step['gain_interval'], 2, '+')} |"
        assert re.search(rf"\| {'[+] ' if number else ''}{re.escape(step['name'])}[^|]*\| {re.escape(row)}", page)
    first, last = (100 * step["accuracy"] for step in (steps[0], steps[-1]))
    assert f"from {first:.1f} to {last:.1f} %" in text_of("docs/results.md")


def test_the_ablation_of_the_cnn_depends_on_its_budget():
    page = text_of("docs/ablation.md")
    long, short = (
        {step["name"]: 100 * step["gain"] for step in load_results(name)["steps"][1:]}
        for name in ("ablation_cnn", "ablation_cnn_3_epochs")
    )
    rate, augmentation = "learning rate falls to zero", "mirrored and shifted images"
    assert f"mirrored and shifted images gain {long[augmentation]:.1f} points" in page
    assert f"the same falling rate costs {-short[rate]:.1f} points" in page
    assert f"the same augmentation gains {short[augmentation]:.1f} points" in page


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("target_*.json")), ids=lambda p: p.stem)
def test_recipes_compiled_for_a_device_fit(path):
    results = json.loads(path.read_text())
    assert results["command"].partition(" --output")[0] in (ROOT / "docs" / "accelerators.md").read_text()
    assert results["fits"]


def test_figures_of_the_readme():
    page, cnn, speed = text_of("README.md"), load_results("cnn_scratch"), load_results("training_speed_batch")
    test, ratios = cnn["test"], speed["ours_divided_by"]
    assert f"**{percent(test['accuracy'])}** {interval(test['accuracy_interval'])} test accuracy" in page
    assert f"n = {test['n']:,}, one seed, {cnn['seconds']['run'] / 60:.1f} minutes of training" in page
    assert f"{ratios['keras']['median']:.1f} times Keras 3 (JAX backend), {ratios['torch']['median']:.2f} times" in page
    assert f"{load_results('frozen_speed_224')['keras_divided_by_ours']:.1f} times as fast as Keras 3" in page
    ratios = load_results("resnet_speed")["cases"]["train_32"]["ours_divided_by"]
    assert (
        f"{ratios['keras']:.1f} times as fast as in Keras 3 at 32 pixels ({ratios['torch']:.2f} times PyTorch)" in page
    )
    start = load_results("start_up_cnn_scratch")["median_warm"]["to_its_start"]
    assert f"With a warm compilation cache, the first training step begins {start:.1f} s after the command" in page
    first, *_, last = (100 * step["accuracy"] for step in load_results("ablation_cnn")["steps"])
    assert f"from {first:.1f} to {last:.1f} %" in page


def test_the_readme_is_short_and_opens_with_a_command_and_an_image():
    lines = (ROOT / "README.md").read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines, start=1) if "python main.py" in line)
    first_image = next(number for number, line in enumerate(lines, start=1) if "<img" in line)
    assert len(lines) <= 130
    assert first_command <= 15
    assert first_image <= 30


def test_published_weights_are_listed():
    page = (ROOT / "docs" / "weights.md").read_text()
    for name, entry in CATALOG.items():
        (row,) = (line for line in page.splitlines() if f"`{name}`" in line and line.startswith("|"))
        assert f"| {entry.variant} |" in row


def links_of(page: Path) -> list[str]:
    """The targets of links and images that are files of the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text()) + re.findall(r'(?:src|href)="([^"]+)"', page.read_text())
    return [target.split("#")[0] for target in targets if not re.match(r"https?:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files(page):
    assert not [target for target in links_of(page) if not (page.parent / target).exists()]


def blocks_of(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page, those in lists without their indentation."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(indent + body) for indent, name, body in found if name == language]


def commands_of(page: Path) -> list[list[str]]:
    """The arguments of every command of a page that starts the program."""
    lines = "\n".join(blocks_of(page, "")).replace("\\\n", " ").splitlines()
    starts = (re.search(r"(?:python main\.py|python -m cifar_jax|cifar-jax) (.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in starts if match]


COMMANDS = [(page.name, command) for page in PAGES for command in commands_of(page)]


class ParsedError(Exception):
    """The command line was accepted, and a mode was called."""


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[" ".join(words)[:60] for _, words in COMMANDS])
def test_commands_are_accepted(page, command, monkeypatch, tmp_path):
    def raise_parsed(*args, **kwargs):
        raise ParsedError

    for mode in cli.MODES:
        monkeypatch.setattr(f"cifar_jax.modes.{mode}.{mode}", raise_parsed)
    monkeypatch.setattr("cifar_jax.modes.predict.predict_table", raise_parsed)
    monkeypatch.setattr("cifar_jax.modes.sweep.sweep", raise_parsed)
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "my_images" / "cat.png")
    with pytest.raises(ParsedError):
        cli.run(["main.py", *command])


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 48), "gray").save(path)


def run_blocks(page: Path) -> dict:
    """Runs the Python blocks of a page in order, in one namespace, and returns it."""
    namespace = {}
    exec(compile("\n".join(blocks_of(page, "python")), page.name, "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_the_examples_of_the_api_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run_blocks(ROOT / "docs" / "api.md")
    printed = capsys.readouterr().out
    assert re.search(r"% of 400 test images", printed)
    assert "the nearest" in printed
    assert (tmp_path / "runs" / "api_longer" / "results.json").exists()


@pytest.mark.slow
def test_the_example_of_a_sweep_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    summary = run_blocks(ROOT / "docs" / "sweeps.md")["summary"]
    assert (tmp_path / "runs" / "sweep" / summary["best"] / "results.json").exists()


@pytest.mark.slow
def test_the_example_of_the_readme_runs(monkeypatch, tmp_path, capsys):
    """The example as printed, but with few images and a small network."""
    small = {"data.name": "shapes", "data.limit": 200, "model.widths": (8,), "train.batch_size": 40}
    load_config = cifar_jax.load_config
    monkeypatch.setattr(
        cifar_jax,
        "load_config",
        lambda name, train: load_config(name, **small, train={**train, "epochs": 1}),
        raising=False,
    )
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "cat.jpg")
    run_blocks(ROOT / "README.md")
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_code_runs_an_exported_program(monkeypatch, tmp_path):
    pytest.importorskip("flatbuffers")
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "cat.jpg")
    small = {"data.name": "shapes", "data.limit": 200, "model.widths": (8,), "train.batch_size": 40, "train.epochs": 1}
    cifar_jax.train(cifar_jax.load_config("cnn_scratch", **small), "run")
    export("run", output="model.stablehlo", format="stablehlo")
    logits_NK = run_blocks(ROOT / "docs" / "weights.md")["logits_NK"]
    (prediction,) = cifar_jax.predict("run", "cat.jpg", tta=False)
    np.testing.assert_allclose(softmax(logits_NK)[0], list(prediction.probabilities.values()), atol=1e-5)
