"""The figures of README.md are those of the files in benchmarks/results."""

import re
from pathlib import Path

import pytest

from cifar_jax.runs.run_folder import read_json

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text().split())


def results(name: str) -> dict:
    return read_json(ROOT / "benchmarks" / "results" / f"{name}.json")


def test_training_speed():
    batch, none = (results(f"training_speed_{norm}")["ours_divided_by"] for norm in ("batch", "none"))
    assert (
        f"{batch['keras']['median']:.1f} x Keras 3 (JAX backend), {batch['torch']['median']:.2f} x PyTorch; "
        f"without BatchNorm {none['keras']['median']:.1f} x and {none['torch']['median']:.2f} x;"
    ) in README
    same_malloc = results("training_speed_batch_same_malloc")["ours_divided_by"]
    keras, torch = (same_malloc[peer]["median"] for peer in ("keras", "torch"))
    assert f"given to all, {keras:.1f} x and {torch:.2f} x" in README


def test_speed_of_a_resnet50():
    ratios = {case: found["ours_divided_by"] for case, found in results("resnet_speed")["cases"].items()}

    def of(peer, decimals, *cases):
        return ", ".join(f"{ratios[case][peer]:.{decimals}f}" for case in cases)

    forward, train = ("forward_32", "forward_64", "forward_224"), ("train_32", "train_64")
    assert f"224 px: {of('torch', 2, *forward)} x PyTorch and {of('keras', 1, *forward)} x Keras" in README
    assert f"64 px: {of('torch', 2, *train)} x and {of('keras', 1, *train)} x;" in README


def test_frozen_speed():
    small, large = (results(f"frozen_speed_{size}")["keras_divided_by_ours"] for size in (32, 224))
    assert f"{small:.0f} x faster at 32 px, {large:.1f} x at 224 px" in README


def test_probe_speed():
    found = results("probe_speed")
    seconds = found["path_of_45"]["seconds"]
    assert f"{seconds['ours']:.0f} s on two cores of a Xeon, {seconds['ratio']:.1f} x as fast as scikit-learn" in README
    pairs = zip(found["ours"], found["scikit_learn"], strict=True)
    assert all(ours["objective"] <= peer["objective"] for ours, peer in pairs)


def test_the_cnn_from_scratch():
    test = results("cnn_scratch")["test"]
    low, high = test["accuracy_interval"]
    assert f"{test['accuracy']:.1%}".replace("%", " %") + " test accuracy with test-time augmentation " in README
    assert f"[{100 * low:.1f}, {100 * high:.1f}], {100 * test['without_tta']['accuracy']:.1f} % without" in README
    earlier = results("xeon/cnn_scratch")["test"]
    low, high = earlier["accuracy_interval"]
    assert f"{100 * earlier['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in README


def test_start_up():
    cnn, resnet50 = (results(f"start_up_{name}") for name in ("cnn_scratch", "resnet50"))
    warm, cold = cnn["median_warm"]["to_its_start"], cnn["cold"]["to_its_start"]
    assert f"CNN {warm:.1f} s with a warm compilation cache, {cold:.1f} s without" in README
    assert f"{resnet50['median_warm']['to_its_start']:.1f} s and {resnet50['cold']['to_its_start']:.1f} s;" in README


@pytest.mark.parametrize("ledger", ["ledger_cnn", "ledger_frozen_stand_in"])
def test_the_ledgers(ledger):
    for number, rung in enumerate(results(ledger)["rungs"]):
        low, high = (100 * bound for bound in rung["interval"])
        row = f"{100 * rung['accuracy']:.2f} % [{low:.2f}, {high:.2f}] |"
        if number:
            low, high = (100 * bound for bound in rung["gain_interval"])
            row += f" {100 * rung['gain']:+.2f} [{low:+.2f}, {high:+.2f}]"
        assert re.search(rf"\| {'[+] ' if number else ''}{re.escape(rung['name'])}[^|]*\| {re.escape(row)}", README)


def test_transfer_of_the_stand_in():
    runs = results("transfer_stand_in")["runs"]
    assert f"had brought to {100 * runs.pop('pretrained')['accuracy']:.1f} %;" in README
    for run in runs.values():
        low, high = (100 * bound for bound in run["accuracy_interval"])
        assert f"| {100 * run['accuracy']:.1f} % [{low:.1f}, {high:.1f}] |" in README


def test_prediction():
    ratios = results("predict_speed")["ours_divided_by"]
    assert f"{ratios['keras']:.1f} x Keras 3's own loader" in README
    assert f"{ratios['keras_threads']:.1f} x the same in threads" in README
