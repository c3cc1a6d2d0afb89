"""Every key has a range, keys must be consistent, and messages name the key, its value and what it must be."""

import json
import math

import pytest
from ml_collections import ConfigDict

from cifar_jax.config import default_config, load_config
from cifar_jax.config.keys import KEYS
from cifar_jax.config.validate import differences, flatten, from_json, nearest_key, require_known, to_json, validate
from cifar_jax.errors import UsageError


@pytest.fixture
def config() -> ConfigDict:
    return default_config()


def with_values(**values) -> ConfigDict:
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def message(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_valid_and_as_declared(config):
    assert flatten(config) == {name: key.default for name, key in KEYS.items()}
    validate(config)


@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if isinstance(key.default, float)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
def test_no_float_may_be_negative_or_not_finite(key, value):
    text = message(validate, with_values(**{key: value}))
    assert text.startswith(f"--config.{key}={value}: must be a finite number")


@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if type(key.default) is int])
def test_no_integer_may_be_negative(key):
    assert f"--config.{key}=-1: must be an integer of at least" in message(validate, with_values(**{key: -1}))


@pytest.mark.parametrize(
    "key, value",
    [
        ("optimizer.learning_rate", 0.0),
        ("optimizer.momentum", 1.0),
        ("train.epochs", 0),
        ("train.epochs", True),
        ("train.batch_size", 0),
        ("train.seeds", 0),
        ("checkpoint.keep", 0),
        ("evaluation.batch_size", 0),
        ("optimizer.accumulate_steps", 0),
        ("schedule.warmup_percent", 100.5),
        ("schedule.decay_percent", (50.0, 101.0)),
        ("schedule.decay_epochs", (math.nan,)),
        ("schedule.decay_steps", (30, 20)),
        ("schedule.decay_steps", (1.5,)),
        ("schedule.final_fraction", 1.5),
        ("train.label_smoothing", 1.0),
        ("train.ema_decay", 1.0),
        ("model.widths", (64, "a")),
        ("model.widths", (64, 0)),
        ("model.widths", ()),
        ("model.dtype", "float16"),
        ("data.fallback", "cifar100"),
        ("data.name", ""),
        ("optimizer.rules", ((".*", -1.0),)),
        ("optimizer.rules", (("(", 1.0),)),
        ("optimizer.rules", (".*", 1.0)),
        ("model.input_mean", (0.5,)),
        ("model.input_std", (1.0, 0.0, 1.0)),
        ("model.stage_sizes", (3, 0)),
        ("model.dropout", 1.0),
        ("ablation", (("name", ("model.norm", "batch")),)),
    ],
)
def test_values_out_of_range_name_their_key(key, value):
    assert message(validate, with_values(**{key: value})).startswith(f"--config.{key}={value}: must ")


def test_the_message_for_a_nan_is_as_documented():
    text = message(validate, with_values(optimizer__learning_rate=math.nan))
    assert text == "--config.optimizer.learning_rate=nan: must be a finite number above 0 (1e-12 to 1000)"


def test_the_message_for_a_wrong_choice_lists_all_and_names_the_closest():
    text = message(validate, with_values(optimizer__name="adam"))
    choices = "'sgd', 'adamw', 'muon', 'muon_sgd', 'lbfgs'"
    assert text == f"--config.optimizer.name=adam: must be one of {choices}; the nearest is 'adamw'"


def test_all_problems_are_reported_at_once():
    text = message(validate, with_values(train__epochs=0, train__seed=-1))
    assert "train.epochs" in text and "train.seed" in text


def test_at_most_one_unit_of_warmup_and_of_decay():
    validate(with_values(schedule__warmup_epochs=2.0))
    text = message(validate, with_values(schedule__warmup_steps=5, schedule__warmup_percent=1.0))
    assert text == "--config.schedule: set one of warmup_steps, warmup_epochs, warmup_percent"
    two = with_values(schedule__name="step", schedule__decay_steps=(5,), schedule__decay_epochs=(1.0,))
    assert "set one of decay_steps" in message(validate, two)


def test_step_decay_requires_decay_steps():
    assert "decay_steps" in message(validate, with_values(schedule__name="step"))
    validate(with_values(schedule__name="step", schedule__decay_percent=(50.0, 75.0)))


def test_cached_features_exclude_augmentation():
    fixed = {"augment__flip": "none", "augment__crop_padding": 0, "train__cached_features": True}
    validate(with_values(**fixed))
    augmented = {"flip": "random", "crop_padding": 2, "cutout": 4, "random_resized_crop": 0.5, "mixup": 0.1}
    augmented |= {"cutmix": 1.0, "trivial_augment": True}
    assert set(augmented) == set(default_config().augment)
    for key, value in augmented.items():
        text = message(validate, with_values(**{**fixed, f"augment__{key}": value}))
        assert text.startswith("--config.train.cached_features: each image is seen once") and key in text


def test_mixup_excludes_cutmix():
    validate(with_values(augment__cutmix=1.0))
    text = message(validate, with_values(augment__mixup=0.2, augment__cutmix=1.0))
    assert text == "--config.augment: set one of mixup=0.2 and cutmix=1.0 to 0"


def test_lbfgs_requires_cached_features_one_epoch_no_dropout_and_no_label_smoothing():
    probe = {"optimizer__name": "lbfgs", "train__cached_features": True, "train__epochs": 1}
    probe |= {"augment__flip": "none", "augment__crop_padding": 0, "train__label_smoothing": 0.0}
    validate(with_values(**probe))
    for key, value in {"train.epochs": 2, "train.cached_features": False}.items():
        text = message(validate, with_values(**probe | {key.replace(".", "__"): value}))
        assert text.startswith("--config.optimizer.name=lbfgs") and key in text
    for key in ("model.dropout", "train.label_smoothing"):
        text = message(validate, with_values(**probe | {key.replace(".", "__"): 0.1}))
        assert text.startswith("--config.optimizer.name=lbfgs") and f"--config.{key}=0" in text


def test_pretrained_weights_have_their_own_stem():
    text = message(validate, with_values(model__pretrained="keras/resnet50", model__stem="small"))
    assert text.startswith("--config.model.stem=small: ")


def test_the_batch_size_is_a_multiple_of_the_chosen_devices():
    validate(with_values(train__batch_size=500, mesh__devices=4))
    assert "mesh.devices=8" in message(validate, with_values(train__batch_size=500, mesh__devices=8))


def test_unknown_and_missing_keys_are_rejected():
    config = ConfigDict(default_config().to_dict())
    config.train.epoch = 3
    assert "nearest is 'train.epochs'" in message(validate, config)
    config = ConfigDict(default_config().to_dict())
    del config.train["epochs"]
    assert "--config.train.epochs: this key is missing" in message(validate, config)


@pytest.mark.parametrize(
    "typed, nearest",
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optim.learning_rate", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("train.lr", "optimizer.learning_rate"),
        ("train.batchsize", "train.batch_size"),
        ("epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("model.widhts", "model.widths"),
        ("eval.tta", "evaluation.tta"),
    ],
)
def test_the_message_for_an_unknown_key_names_the_closest(typed, nearest):
    assert message(require_known, typed) == f"no configuration key '{typed}'; the nearest is '{nearest}'"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_with_a_missing_letter_is_recognized(key):
    start = key.rfind(".") + 1
    shortened = {key[:i] + key[i + 1 :] for i in range(start, len(key))} - set(KEYS)
    assert {nearest_key(typed) for typed in shortened} == {key}


def test_to_json_survives_a_json_round_trip(config):
    plain = to_json(config)
    assert plain == json.loads(json.dumps(plain))
    assert plain["model"]["widths"] == [64, 128, 256]
    assert flatten(plain).keys() == KEYS.keys()


def test_differences_name_key_and_both_values(config):
    before = to_json(config)
    after = to_json(with_values(train__epochs=30, model__widths=(1, 2)))
    assert differences(before, before) == []
    assert differences(before, after) == [
        "model.widths: [64, 128, 256] -> [1, 2]",
        "train.epochs: 20 -> 30",
    ]
    del after["data"]["limit"]
    assert "data.limit: 0 -> absent" in differences(before, after)
    assert "data.limit: absent -> 0" in differences(after, before)


def test_a_configuration_survives_json():
    config = load_config("notebook/notebook_cnn")
    assert from_json(to_json(config)).to_dict() == config.to_dict()
    validate(from_json(to_json(config)))


def test_rules_that_train_nothing_are_refused():
    text = message(validate, with_values(optimizer__rules=(("^head/", 0.0), (".*", 0.0))))
    assert "every multiplier is 0, so nothing trains" in text


FREEZING = {"optimizer__rules": (("^head/", 1.0), (".*", 0.0))}


def for_training(config):
    validate(config, for_training=True)


def test_training_refuses_to_freeze_random_weights():
    text = message(for_training, with_values(**FREEZING))
    assert "freezes layers with random weights" in text and "--config.model.pretrained" in text
    assert "random weights" in message(for_training, with_values(optimizer__rules=(("block1", 0.0), (".*", 1.0))))
    validate(with_values(**FREEZING))  # the weights may be set later
    for_training(with_values(**FREEZING, model__pretrained="weights.pth"))
    for_training(with_values(**FREEZING, train__init_from="runs/earlier"))
    for_training(with_values(optimizer__rules=(("whiten/kernel", 0.0), (".*", 1.0))))


@pytest.mark.parametrize("key", ["model__input_mean", "model__input_std"])
@pytest.mark.parametrize("weights", [{}, {"train__init_from": "runs/earlier"}])
def test_training_refuses_a_normalization_without_pretrained_weights(key, weights):
    scale = {key: (0.5, 0.5, 0.5)}
    assert "without --config.model.pretrained" in message(for_training, with_values(**scale, **weights))
    for_training(with_values(**scale, model__pretrained="weights.pth"))
