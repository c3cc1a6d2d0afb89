"""Transfer learning from files of pretrained weights, with a small backbone that was trained on shapes."""

import json
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cifar_jax import experiment as experiments
from cifar_jax import pretrained
from cifar_jax.config import load_config
from cifar_jax.data import decode, load
from cifar_jax.errors import DataError, UsageError
from cifar_jax.evaluation import features
from cifar_jax.modes.evaluate import evaluate
from cifar_jax.modes.export import export
from cifar_jax.modes.predict import Predictor
from cifar_jax.modes.train import train_run as train
from cifar_jax.modes.train import train_seeds
from cifar_jax.pretrained import convert
from cifar_jax.pretrained.families import TORCHVISION
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.optimizer import match_rules
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow

SMALL = {
    "data.name": "shapes",
    "data.limit": 400,
    "model.stage_sizes": (1, 1, 1, 1),
    "model.width": 8,
    "model.image_size": 32,
    "train.batch_size": 40,
    "train.epochs": 1,
    "evaluation.batch_size": 120,
    "mesh.devices": 1,
}


def small(recipe, **changes):
    """A recipe cut down to a second; keys are written with __ for the dots."""
    config = load_config(recipe)
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**SMALL, **changes})
    return config


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """The folder of a run from random weights; stride in conv1, so that it can be exported under both namings."""
    workdir = tmp_path_factory.mktemp("runs") / "pretraining"
    train(small("resnet50_pretrain", train__epochs=4, model__variant="v1"), workdir)
    return workdir


@pytest.fixture(scope="module")
def backbone(pretraining, tmp_path_factory):
    """The weights of `pretraining`, as a file that Keras reads."""
    path = tmp_path_factory.mktemp("weights") / "backbone.h5"
    # The best epoch may be the first, whose running statistics have not converged yet.
    export(pretraining, output=str(path), format="keras", checkpoint="latest")
    return path


def weights_of(workdir, checkpoint="best"):
    return restore_run(workdir, checkpoint=checkpoint)[1].state.variables


def differing(a, b) -> set[str]:
    """Paths whose bits differ."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return {
        "/".join(key.key for key in path)
        for (path, x), y in pairs
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    }


def variables_in(weight_file) -> dict:
    loaded = pretrained.load(weight_file)
    return {"params": loaded.params, "batch_stats": loaded.batch_stats}


HEAD = {"params/head/kernel", "params/head/bias"}


@pytest.mark.parametrize("recipe", ["resnet50_frozen", "resnet50_resized"])
def test_parameters_and_statistics_of_a_frozen_backbone_are_bit_identical_after_training(recipe, backbone, tmp_path):
    train(small(recipe, model__pretrained=str(backbone)), tmp_path / "run")
    changed = differing(variables_in(backbone), weights_of(tmp_path / "run"))
    assert changed and changed <= HEAD


def test_statistics_of_the_frozen_notebook_model_change_and_its_parameters_do_not(backbone, tmp_path):
    train(small("notebook/notebook_resized", model__pretrained=str(backbone)), tmp_path / "run")
    before = variables_in(backbone)
    changed = differing(before, weights_of(tmp_path / "run"))
    assert {path for path in changed if path.startswith("params/")} == HEAD
    statistics = {path for path in changed if path.startswith("batch_stats/")}
    assert len(statistics) == len(jax.tree.leaves(before["batch_stats"]))


def test_fine_tuning_changes_every_parameter_and_statistic(backbone, tmp_path):
    train(small("resnet50_finetuned", model__pretrained=str(backbone)), tmp_path / "run")
    before = variables_in(backbone)
    assert len(differing(before, weights_of(tmp_path / "run"))) == len(jax.tree.leaves(before))


def test_only_the_head_trains_during_head_epochs(backbone, tmp_path):
    epochs = {"schedule__head_epochs": 1.0, "train__epochs": 2}
    train(small("resnet50_finetuned", model__pretrained=str(backbone), **epochs), tmp_path / "run")
    first_epoch = weights_of(tmp_path / "run", checkpoint="9")
    changed = differing(pretrained.load(backbone).params, first_epoch["params"])
    assert changed == {"head/kernel", "head/bias"}


def test_evaluating_the_folder_of_a_probe_gives_exactly_its_results(backbone, tmp_path):
    results = train(small("resnet50_frozen", model__pretrained=str(backbone)), tmp_path / "run")
    metrics = evaluate(tmp_path / "run", split="test", checkpoint="best", tta=None)
    assert (metrics["loss"], metrics["accuracy"]) == (results["test"]["loss"], results["test"]["accuracy"])
    folder = RunFolder(tmp_path / "run")
    scores = read_json(folder.probe_json)["path"]
    assert len(scores) == 45
    best = max(score["validation_accuracy"] for score in scores)
    assert best == read_json(folder.history_json)["val_accuracy"][0]
    assert best == results["validation"]["before_final_fit"]["accuracy"]


def test_training_the_head_on_cached_features_equals_training_it_behind_the_backbone(backbone, tmp_path):
    steps = {"optimizer__name": "sgd", "optimizer__learning_rate": 0.5, "train__epochs": 2}
    for name, cached in (("cached", True), ("online", False)):
        config = small("resnet50_frozen", model__pretrained=str(backbone), train__cached_features=cached, **steps)
        train(config, tmp_path / name)
    cached, online = (weights_of(tmp_path / name)["params"]["head"] for name in ("cached", "online"))
    scale = np.abs(online["kernel"]).max()  # rounding adds up over the steps
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * scale), cached, online)


def test_test_time_augmentation_of_a_frozen_run_uses_the_whole_network(backbone, tmp_path):
    steps = {"optimizer__name": "sgd", "optimizer__learning_rate": 0.5}
    results = train(small("resnet50_frozen", model__pretrained=str(backbone), **steps), tmp_path / "run")
    metrics = evaluate(tmp_path / "run", tta=True)
    assert metrics["tta"] and metrics["without_tta"]["accuracy"] == results["test"]["accuracy"]


def test_seeds_share_the_features_of_a_frozen_backbone_and_not_the_head(backbone, tmp_path):
    steps = {"optimizer__name": "sgd", "optimizer__learning_rate": 0.5}
    config = small("resnet50_frozen", model__pretrained=str(backbone), train__seeds=2, **steps)
    train_seeds(config, tmp_path / "both")
    for seed in (0, 1):
        alone = small("resnet50_frozen", model__pretrained=str(backbone), train__seed=seed, **steps)
        train(alone, tmp_path / f"alone_{seed}")
        heads = [weights_of(tmp_path / name)["params"]["head"] for name in (f"both/seed_{seed}", f"alone_{seed}")]
        jax.tree.map(np.testing.assert_array_equal, *heads)


def test_the_seconds_of_a_probe_include_those_of_its_features(backbone, tmp_path, monkeypatch):
    predict_split = features.predict_split

    def slowly(*arguments, **settings):
        time.sleep(1)
        return predict_split(*arguments, **settings)

    monkeypatch.setattr(features, "predict_split", slowly)
    results = train(small("resnet50_frozen", model__pretrained=str(backbone)), tmp_path / "run")
    seconds_of_the_fit = read_json(RunFolder(tmp_path / "run").probe_json)["seconds"]
    assert results["seconds"]["run"] >= 2 + seconds_of_the_fit  # of training and of validation images


def test_a_probe_on_the_means_of_all_stages_has_their_channels_and_keeps_its_own_names_in_exports(backbone, tmp_path):
    train(small("resnet50_frozen", model__pretrained=str(backbone), model__pooled_stages="all"), tmp_path / "run")
    assert weights_of(tmp_path / "run")["params"]["head"]["kernel"].shape[0] == 32 + 64 + 128 + 256
    path = tmp_path / "all.safetensors"
    export(tmp_path / "run", output=str(path), format="safetensors", checkpoint="latest")
    assert "params/head/kernel" in load_file(
        path
    )  # the names of this project: other libraries pool the last stage only


def test_prediction_needs_neither_the_data_nor_the_weight_file(backbone, tmp_path):
    path = tmp_path / "moved.h5"
    path.write_bytes(backbone.read_bytes())
    train(small("resnet50_resized", model__pretrained=str(path)), tmp_path / "run")
    path.unlink()
    experiment, restored = restore_run(tmp_path / "run", checkpoint="best")
    images_NHWC = experiment.splits["test"].images_NHWC[:3]
    for number, image_HWC in enumerate(images_NHWC):
        decode.Image.fromarray(image_HWC).save(tmp_path / f"{number}.png")
    predictions = list(Predictor(tmp_path / "run")([tmp_path / f"{number}.png" for number in range(3)]))
    logits_NK = np.asarray(experiment.logits(restored.state.variables, images_NHWC))
    expected_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([list(p.probabilities.values()) for p in predictions], expected_NK, atol=1e-6)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"model__input_mean": (0.0, 0.0, 0.0), "model__input_std": (1.0, 1.0, 1.0)}, "input_mean and input_std"),
        ({"model__input_std": (60.0, 60.0, 60.0)}, "input_mean and input_std"),
        ({"model__input_mean": (0.0, 0.0, 0.0), "model__input_std": (1 / 255, 1 / 255, 1 / 255)}, "input_mean"),
    ],
)
def test_images_on_another_scale_than_the_weights_are_refused_unless_the_check_is_off(
    mistake, message, backbone, tmp_path
):
    with pytest.raises(DataError, match=f"wrong scale for the weights .*{message}"):
        train(small("resnet50_resized", model__pretrained=str(backbone), **mistake), tmp_path / "run")
    config = small("resnet50_resized", model__pretrained=str(backbone), model__check_input=False, **mistake)
    train(config, tmp_path / "run")  # allowed when the check is off, to measure the cost


def test_images_in_0_to_1_are_refused(tinted_backbone, tmp_path):
    write_shapes(tmp_path / "dark.npz", lambda images: (images / 255).round().astype(np.uint8))
    with pytest.raises(DataError, match=r"values of 0\.\.1 where 0\.\.255 are meant"):
        train(from_npz(tmp_path / "dark.npz", tinted_backbone), tmp_path / "run")


def test_images_with_blue_and_red_swapped_are_refused(tinted_backbone, tmp_path):
    write_shapes(tmp_path / "bgr.npz", lambda images: images[..., ::-1])
    with pytest.raises(DataError, match="blue and red are swapped"):
        train(from_npz(tmp_path / "bgr.npz", tinted_backbone), tmp_path / "run")


def test_the_same_images_in_the_right_range_and_order_are_accepted(tinted_backbone, tmp_path):
    write_shapes(tmp_path / "right.npz", lambda images: images)
    train(from_npz(tmp_path / "right.npz", tinted_backbone), tmp_path / "run")


def tinted(images_NHWC):
    """Reddish images: the channels differ in their mean."""
    return (images_NHWC * np.array([1.0, 0.7, 0.4])).astype(np.uint8)


def write_shapes(path, change):
    config = small("resnet50_pretrain")
    dataset = load(config.data, allow_fallback=False)
    arrays = {}
    for name, images in (("train", dataset.train), ("test", dataset.test)):
        arrays |= {f"x_{name}": change(tinted(images.images_NHWC)), f"y_{name}": images.labels_N}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def tinted_backbone(tmp_path_factory):
    """A backbone that was trained on reddish shapes."""
    folder = tmp_path_factory.mktemp("tinted")
    write_shapes(folder / "tinted.npz", lambda images: images)
    config = small("resnet50_pretrain", train__epochs=4, data__name="cifar10", data__dir=str(folder / "tinted.npz"))
    train(config, folder / "run")
    export(folder / "run", output=str(folder / "b.safetensors"), format="safetensors", checkpoint="latest")
    return folder / "b.safetensors"


def from_npz(path, backbone):
    return small("resnet50_resized", data__name="cifar10", data__dir=str(path), model__pretrained=str(backbone))


def test_a_run_does_not_resume_with_other_pretrained_weights(backbone, tinted_backbone, tmp_path):
    train(small("resnet50_frozen", model__pretrained=str(backbone)), tmp_path / "run")
    other = small("resnet50_frozen", model__pretrained=str(tinted_backbone))
    with pytest.raises(DataError, match="this run did not start from them"):
        train(other, tmp_path / "run")


def test_a_run_does_not_resume_with_another_preprocessing_of_its_weights(backbone, tmp_path):
    loaded, path = pretrained.load(backbone), tmp_path / "own.safetensors"
    save_file(convert.foreign(loaded.params, loaded.batch_stats, TORCHVISION), path)  # it states nothing about itself
    config = small("resnet50_resized", model__pretrained=str(path), model__check_input=False)
    train(config, tmp_path / "run")
    stated = {"model_type": "resnet", "depths": [1, 1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(DataError, match=r"this run started with .*0\.485.* now it is .*\(stated by config\.json"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("resnet50_frozen", {"augment__flip": "random"}, "each image is seen once"),
        ("resnet50_frozen", {"augment__mixup": 0.1}, "mixup"),
        ("resnet50_frozen", {"train__epochs": 2}, "in one epoch"),
        ("resnet50_frozen", {"optimizer__rules": ((".*", 1.0),)}, "all but the head"),
        ("resnet50_frozen", {"train__label_smoothing": 0.1}, "ignores dropout and label smoothing"),
        ("resnet50_resized", {"optimizer__name": "lbfgs"}, "cached_features=True"),
        ("resnet50_resized", {"model__name": "cnn"}, "no weights for a cnn"),
        ("resnet50_resized", {"model__stem": "small"}, "their own stem"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(recipe, changes, message, backbone, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(small(recipe, model__pretrained=str(backbone), **changes), tmp_path / "run")


def test_layer_decay_multiplies_the_rate_once_per_stage_away_from_the_head(backbone):
    config = small("resnet50_finetuned", model__pretrained=str(backbone), optimizer__layer_decay=0.5)
    params = experiments.build(config, allow_fallback=False).abstract_variables["params"]
    rules = match_rules(config.optimizer, params)
    blocks = [rules[f"stage{i}_block1"]["conv1"] for i in (4, 3, 2, 1)]
    multipliers = [layer["kernel"].multiplier for layer in (rules["head"], *blocks, rules["stem_conv1"])]
    assert multipliers == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
