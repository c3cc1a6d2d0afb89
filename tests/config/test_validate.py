import json
import math
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from cifar_jax.config import validate as run_config
from cifar_jax.errors import UsageError
from configs import default

ROOT = pathlib.Path(__file__).parents[2]
KEYS = tuple(run_config.flatten(default.get_config()))


@pytest.fixture
def config() -> ConfigDict:
    return default.get_config().lock()


def with_values(**values) -> ConfigDict:
    config = default.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def message(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_table_covers_exactly_the_keys_of_the_default():
    assert set(run_config.RANGES) == set(KEYS)


def test_the_default_is_valid(config):
    run_config.validate(config)


@pytest.mark.parametrize(
    "key", [key for key in KEYS if isinstance(run_config.flatten(default.get_config())[key], float)]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
def test_no_float_may_be_negative_or_not_finite(key, value):
    text = message(run_config.validate, with_values(**{key: value}))
    assert text.startswith(f"--config.{key}={value}: must be a finite number")


@pytest.mark.parametrize("key", [key for key in KEYS if type(run_config.flatten(default.get_config())[key]) is int])
def test_no_integer_may_be_negative(key):
    assert f"--config.{key}=-1: must be an integer of at least" in message(
        run_config.validate, with_values(**{key: -1})
    )


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
    ],
)
def test_values_out_of_range_name_their_key(key, value):
    assert message(run_config.validate, with_values(**{key: value})).startswith(f"--config.{key}={value}: must ")


def test_the_message_for_a_nan_is_as_documented():
    text = message(run_config.validate, with_values(optimizer__learning_rate=math.nan))
    assert text == "--config.optimizer.learning_rate=nan: must be a finite number above 0"


def test_a_wrong_choice_lists_all_and_names_the_nearest():
    text = message(run_config.validate, with_values(optimizer__name="adam"))
    assert (
        text == "--config.optimizer.name=adam: must be one of 'sgd', 'adamw', 'muon', 'lbfgs'; the nearest is 'adamw'"
    )


def test_all_problems_are_reported_at_once():
    text = message(run_config.validate, with_values(train__epochs=0, train__seed=-1))
    assert "train.epochs" in text and "train.seed" in text


def test_at_most_one_unit_of_warmup_and_of_decay():
    run_config.validate(with_values(schedule__warmup_epochs=2.0))
    text = message(run_config.validate, with_values(schedule__warmup_steps=5, schedule__warmup_percent=1.0))
    assert "schedule.warmup_steps" in text and "schedule.warmup_percent" in text
    two = with_values(schedule__name="step", schedule__decay_steps=(5,), schedule__decay_epochs=(1.0,))
    assert "at most one" in message(run_config.validate, two)


def test_step_decay_needs_its_steps():
    assert "decay_steps" in message(run_config.validate, with_values(schedule__name="step"))
    run_config.validate(with_values(schedule__name="step", schedule__decay_percent=(50.0, 75.0)))


def test_the_batch_divides_by_the_chosen_devices():
    run_config.validate(with_values(train__batch_size=500, mesh__devices=4))
    assert "mesh.devices=8" in message(run_config.validate, with_values(train__batch_size=500, mesh__devices=8))


def test_keys_that_nobody_knows_and_keys_that_are_missing_are_refused():
    config = default.get_config()
    config.train.epoch = 3
    assert "nearest is 'train.epochs'" in message(run_config.validate, config)
    config = default.get_config()
    del config.train["epochs"]
    assert "--config.train.epochs: this key is missing" in message(run_config.validate, config)


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
def test_an_unknown_key_names_the_nearest(config, typed, nearest):
    text = message(run_config.check_overrides, ["main.py", f"--config.{typed}=1"], config)
    assert text == f"no configuration key '{typed}'; the nearest is '{nearest}'"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_with_one_letter_left_out_is_found_again(key):
    start = key.rfind(".") + 1
    shortened = {key[:i] + key[i + 1 :] for i in range(start, len(key))} - set(KEYS)
    assert {run_config.nearest_key(typed, run_config.RANGES) for typed in shortened} == {key}


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        (["--config.optimizer.learning_rate=abc"], "--config.optimizer.learning_rate=abc: must be a number"),
        (["--config.train.epochs=1.5"], "--config.train.epochs=1.5: must be an integer"),
        (["--config.train.epochs", "many"], "--config.train.epochs=many: must be an integer"),
        (["-config.train.epochs=x"], "--config.train.epochs=x: must be an integer"),
        (["--config.train.epochs"], "--config.train.epochs: a value must follow"),
        (["--config.model.whitening=perhaps"], "--config.model.whitening=perhaps: must be true or false"),
        (["--config.model.widths=(1, a"], "--config.model.widths=(1, a: must be a tuple such as '(1,2)'"),
        (["--noconfig.train.epochs"], "--noconfig.train.epochs: only switches can be negated"),
        (["--config.optimizer=sgd"], "'optimizer' is a group of configuration keys"),
        (["--config.train.seed=1", "--config.trian.seed=2"], "no configuration key 'trian.seed'"),
    ],
)
def test_bad_overrides_are_refused_with_key_and_type(config, arguments, culprit):
    text = message(run_config.check_overrides, ["main.py", "--config=configs/default.py", *arguments], config)
    assert text.startswith(culprit)


def test_good_overrides_and_what_is_no_override_pass(config):
    run_config.check_overrides(
        [
            *("main.py", "--config=configs/default.py", "--workdir", "runs/config.x=3"),
            *("--config.optimizer.learning_rate=1", "--config.train.epochs", "3", "--config.data.dir="),
            *("--config.model.widths=(1,2)", "--config.model.widths=3", "--noconfig.model.whitening"),
            *("--config.evaluation.tta", "--config.evaluation.tta=false", "--", "--config.nonsense=1"),
        ],
        config,
    )


@pytest.mark.parametrize("key", KEYS)
def test_absl_agrees_on_what_is_a_value(key):
    """For texts of every type: `check_overrides` refuses exactly what ml_collections would."""
    texts = ["abc", "1.5", "7", "nan", "true", "(1,2)", "(1, a", "", "1e400"]
    verdicts = {text: _absl_accepts(key, text) for text in texts}
    for text, accepted in verdicts.items():
        try:
            run_config.check_overrides([f"--config.{key}={text}"], default.get_config())
        except UsageError:
            assert not accepted, f"{key}={text}"
        else:
            assert accepted, f"{key}={text}"


def _absl_accepts(key: str, text: str) -> bool:
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    argv = ["program", f"--config.{key}={text}"]
    try:
        config_flags.DEFINE_config_dict("config", default.get_config(), flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError):
        return False
    return True


def test_to_json_is_what_json_gives_back(config):
    plain = run_config.to_json(config)
    assert plain == json.loads(json.dumps(plain))
    assert plain["model"]["widths"] == [64, 128, 256]
    assert run_config.flatten(plain).keys() == set(KEYS)


def test_differences_name_key_and_both_values(config):
    before = run_config.to_json(config)
    after = run_config.to_json(with_values(train__epochs=30, model__widths=(1, 2)))
    assert run_config.differences(before, before) == []
    assert run_config.differences(before, after) == [
        "model.widths: [64, 128, 256] -> [1, 2]",
        "train.epochs: 20 -> 30",
    ]
    del after["data"]["limit"]
    assert "data.limit: 0 -> absent" in run_config.differences(before, after)
    assert "data.limit: absent -> 0" in run_config.differences(after, before)


def test_checking_needs_no_jax():
    code = "import sys, cifar_jax.config.validate, cifar_jax.runs.run_folder; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
