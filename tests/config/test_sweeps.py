"""The combinations of a sweep, their folders, and the keys that take no list."""

import pytest

from cifar_jax.config import default_config
from cifar_jax.config.keys import FREE_KEYS, KEYS
from cifar_jax.config.sweeps import combinations, describe_programs, folder_name
from cifar_jax.errors import UsageError


def test_every_combination_is_a_configuration_of_its_own_and_the_last_key_changes_fastest():
    config = default_config().lock()
    points = combinations(config, {"optimizer.learning_rate": [1, 0.5], "train.epochs": [2, 3]})
    values = [(point.optimizer.learning_rate, point.train.epochs) for _, point in points]
    assert values == [(1.0, 2), (1.0, 3), (0.5, 2), (0.5, 3)]
    assert [tuple(changes.values()) for changes, _ in points] == values
    names = [folder_name(changes) for changes, _ in points]
    assert names[:2] == ["learning_rate_1.0-epochs_2", "learning_rate_1.0-epochs_3"]
    assert (config.optimizer.learning_rate, config.train.epochs) == (0.1, 20)


def test_folders_need_only_the_last_part_of_a_key():
    swept = []
    for key, declared in KEYS.items():
        try:
            combinations(default_config(), {key: [declared.default]})
        except UsageError:
            continue
        swept.append(key.rpartition(".")[2])
    assert {"learning_rate", "momentum", "batch_size", "mixup", "width"} <= set(swept)
    assert len(set(swept)) == len(swept)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"optimizer.learning_rate": [0.1, 0.2, 0.1]}, r"=\[0.1, 0.2, 0.1\]: a value is there twice"),
        ({"optimizer.learning_rate": [0.1, -1.0]}, "learning_rate=-1.0: must be a finite number above 0"),
        ({"optimizer.adam_learning_rate": [0.1, 0.2]}, "only optimizer.name=muon uses it"),
        ({"optimizer.lr": [0.1]}, "the nearest is 'optimizer.learning_rate'"),
        ({"optimizer.name": ["sgd", "muon"]}, "optimizer.name is no number"),
        ({"model.whitening": [True, False]}, "model.whitening is no number"),
        ({"train.seed": [0, 1]}, "train.seeds=N trains seeds"),
        ({"data.limit": [100, 200]}, "validated on different images"),
        *(({key: [1, 2]}, "does not change the trained model|is no number") for key in sorted(FREE_KEYS)),
    ],
)
def test_what_cannot_be_swept_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        combinations(default_config(), values)


def test_the_values_that_share_a_program_are_named():
    rates, decays = {"optimizer.learning_rate": [0.1, 0.2]}, {"optimizer.weight_decay": [0.0, 0.1]}
    assert describe_programs(rates) == "one compiled program for all values of optimizer.learning_rate"
    assert describe_programs(decays).endswith("for all values of optimizer.weight_decay (above 0)")
    assert describe_programs(rates | {"train.epochs": [1, 2]}).endswith(
        "optimizer.learning_rate; one compilation for each value of train.epochs"
    )
