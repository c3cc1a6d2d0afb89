"""Complete runs in this process: the files they write, and that an interrupted run resumes exactly."""

import errno
import warnings

import jax
import numpy as np
import pytest
from interruption import stop_after

from cifar_jax.config import default_config
from cifar_jax.data import tfds
from cifar_jax.errors import UsageError
from cifar_jax.modes.train import train_run as train
from cifar_jax.modes.train import train_seeds
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.forms import COLUMNS
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.signals import Interrupted
from cifar_jax.training.hooks import Hook
from cifar_jax.training.loop import NotFiniteError
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 9  # 400 images, 40 of them for validation, 40 per batch
CLOCKS = {"images_per_second", "seconds"}


def small(**changes):
    """A recipe that trains two epochs in about a second; keys are written with __ in place of dots."""
    config = default_config()
    config.data.update(name="shapes", limit=400)
    config.model.widths = (8, 8)
    config.train.update(epochs=2, batch_size=40)
    config.checkpoint.every_steps = 3
    config.mesh.devices = 1
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def latest(workdir):
    return restore_run(workdir, checkpoint="latest")[1]


def without_clocks(workdir) -> dict:
    columns = read_json(RunFolder(workdir).history_json)
    return {name: values for name, values in columns.items() if name not in CLOCKS}


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an uninterrupted run, and the return value of `train`."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return RunFolder(workdir), train(small(), workdir, command="python main.py")


def test_a_run_writes_all_its_files(finished):
    folder, returned = finished
    assert read_json(folder.config_json)["command"] == "python main.py"
    assert read_json(folder.architecture_json)["parameters"] == returned["parameters"]
    history = read_json(folder.history_json)
    assert list(history) == list(COLUMNS) and history["epoch"] == [1, 2]
    assert {len(values) for values in history.values()} == {2}
    assert 2 * STEPS_PER_EPOCH in Checkpoints(folder.checkpoints_dir, keep=2).steps()
    for name in ("samples", "label_distribution", "curves", "confusion_matrix"):
        assert (folder.figures_dir / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_results_contain_every_split_and_its_origin(finished):
    folder, returned = finished
    results = read_json(folder.results_json)
    assert results == returned
    for split, n in (("train", 360), ("validation", 40), ("test", 400)):
        low, high = results[split]["accuracy_interval"]
        assert results[split]["n"] == results["data"]["splits"][split]["n"] == n
        assert low <= results[split]["accuracy"] <= high
        assert results[split]["loss"] > 0 and 0 <= results[split]["ece"] <= 1
        assert results["data"]["splits"][split]["fingerprint"]
    assert results["seconds"]["compile"] > 0 and results["seconds"]["run"] > 0
    assert results["images_per_second"] > 0 and results["environment"]["versions"]["jax"] == jax.__version__


def test_the_saved_predictions_reproduce_the_metrics(finished):
    folder, results = finished
    metrics = read_json(folder.evaluation_dir("test") / "metrics.json")
    with np.load(folder.evaluation_dir("test") / "predictions.npz") as saved:
        labels_N, predictions_N, logits_NC = saved["labels"], saved["predictions"], saved["logits"]
    np.testing.assert_array_equal(predictions_N, logits_NC.argmax(-1))
    assert np.mean(labels_N == predictions_N) == pytest.approx(metrics["accuracy"], abs=1e-12)
    assert metrics["accuracy"] == results["test"]["accuracy"]
    assert np.trace(metrics["confusion_matrix"]) == (labels_N == predictions_N).sum()


def test_tensorboard_reads_the_events(finished):
    with warnings.catch_warnings(action="ignore"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(finished[0].tensorboard_dir))
        events.Reload()
    losses = events.Scalars("val_loss")
    assert [event.step for event in losses] == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    assert [event.value for event in losses] == pytest.approx(without_clocks(finished[0].path)["val_loss"])


def test_a_finished_run_is_not_trained_again(finished, caplog):
    folder, returned = finished
    before = {path: path.stat().st_mtime_ns for path in folder.checkpoints_dir.rglob("*")}
    with caplog.at_level("INFO"):
        assert train(small(), folder.path) == returned
    assert "already finished" in caplog.text
    (folder.report_html).unlink()  # a signal arrived while it was written
    train(small(), folder.path)
    assert folder.report_html.exists()
    assert {path: path.stat().st_mtime_ns for path in folder.checkpoints_dir.rglob("*")} == before


def test_a_folder_of_another_configuration_is_rejected_before_data_are_read(finished, monkeypatch):
    folder, _ = finished
    before = folder.config_json.read_bytes()
    monkeypatch.setattr("cifar_jax.experiment.load", lambda *args, **kwargs: pytest.fail("data were read"))
    with pytest.raises(UsageError, match=r"data\.limit: 400 -> 300; train\.seed: 0 -> 1"):
        train(small(data__limit=300, train__seed=1), folder.path)
    assert folder.config_json.read_bytes() == before


@pytest.mark.parametrize("changes", [{"augment__crop_padding": 32}, {"augment__cutout": 16, "model__image_size": 16}])
def test_augmentation_larger_than_the_images_is_rejected(changes, tmp_path):
    with pytest.raises(UsageError, match=r"must be below (32|16), the image size in pixels"):
        train(small(**changes), tmp_path / "run")


@pytest.mark.parametrize("steps", [STEPS_PER_EPOCH + 5, 2, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH])
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(finished, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=f"SIGTERM after step {steps} of 18.*resume with: the same") as caught:
            train(small(), tmp_path)
    assert caught.value.exit_code == 143
    assert latest(tmp_path).step == steps and not RunFolder(tmp_path).results_json.exists()
    train(small(), tmp_path)
    assert_same_bits(latest(tmp_path).state, latest(finished[0].path).state)
    assert without_clocks(tmp_path) == without_clocks(finished[0].path)


def test_figures_of_the_data_are_drawn_after_the_first_step_and_again_if_missing(tmp_path, monkeypatch):
    order = []

    class Order(Hook):
        def before_steps(self, step):
            order.append("step")

    def killed(experiment, folder):
        order.append("figures")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cifar_jax.training.results.describe_start", killed)
        with pytest.raises(KeyboardInterrupt):
            train(small(train__epochs=1), tmp_path, hooks=[Order()])
    assert order == ["step", "figures"]
    train(small(train__epochs=1), tmp_path)
    assert {"samples.png", "label_distribution.png", "augmentation.png"} <= {
        path.name for path in RunFolder(tmp_path).figures_dir.iterdir()
    }


def test_a_run_resumes_on_another_number_of_devices(finished, tmp_path, monkeypatch, devices):
    with monkeypatch.context() as patch:
        stop_after(patch, STEPS_PER_EPOCH + 5)
        with pytest.raises(Interrupted):
            train(small(), tmp_path)
    train(small(mesh__devices=len(devices)), tmp_path)
    moved, stayed = latest(tmp_path).state.params, latest(finished[0].path).state.params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), moved, stayed)


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
    config = small(model__norm="none", optimizer__learning_rate=1000.0)
    with pytest.raises(NotFiniteError, match=r"not finite at step \d+: lower --config\.optimizer\.learning_rate") as e:
        train(config, tmp_path)
    assert e.value.exit_code == 1 and "\n" not in str(e.value)
    for step in Checkpoints(RunFolder(tmp_path).checkpoints_dir, keep=2).steps():
        state = restore_run(tmp_path, checkpoint=str(step))[1].state
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_every_result_names_the_fallback_data_set(tmp_path, monkeypatch, capfd):
    def unavailable(name):
        raise tfds.Unavailable("no network")

    monkeypatch.delenv("CIFAR_JAX_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(tfds, "download_and_prepare", unavailable)
    config = small(data__name="cifar10", train__epochs=1)
    results = train(config, tmp_path / "run")
    assert "WARNING: cifar10 WAS NOT FOUND" in capfd.readouterr().err
    assert results["data"]["name"] == results["test"]["data"] == "shapes (stand-in for cifar10)"
    assert train(config, tmp_path / "run") == results


def test_several_seeds_give_a_mean_and_an_interval(tmp_path):
    """One of them was already trained alone."""
    train(small(train__seed=1, train__epochs=1), tmp_path / "seed_1")
    before = RunFolder(tmp_path / "seed_1").results_json.stat().st_mtime_ns
    found = train_seeds(small(train__seeds=2, train__epochs=1), tmp_path)
    assert read_json(tmp_path / "results.json") == found and found["seeds"] == [0, 1]
    runs = [read_json(tmp_path / f"seed_{seed}" / "results.json") for seed in (0, 1)]
    accuracies = [run["test"]["accuracy"] for run in runs]
    low, high = found["test"]["accuracy_interval"]
    assert found["test"]["accuracies"] == accuracies
    assert found["test"]["accuracy"] == pytest.approx(np.mean(accuracies)) and low <= np.mean(accuracies) <= high
    assert RunFolder(tmp_path / "seed_1").results_json.stat().st_mtime_ns == before


def test_an_optional_hook_that_cannot_write_ends_with_one_warning_and_the_run_continues(tmp_path, caplog):
    class Full(Hook):
        optional = "the log"
        calls = 0

        def on_log(self, step, values):
            self.calls += 1
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pytest.fail("it is not called again")

    hook = Full()
    train(small(train__epochs=1), tmp_path / "run", hooks=[hook])
    assert hook.calls == 1 and RunFolder(tmp_path / "run").results_json.exists()
    assert caplog.text.count("the log cannot be written (No space left on device): the run continues without") == 1
    hook.optional, hook.close = "", lambda: None
    with pytest.raises(OSError):
        train(small(train__epochs=1), tmp_path / "other", hooks=[hook])


def test_hooks_are_called_for_every_step_log_and_epoch_in_order(tmp_path):
    events = []

    class Recorder(Hook):
        def on_start(self, **steps):
            events.append(("start", steps))

        def on_compile(self):
            events.append("compile")

        def before_steps(self, step):
            events.append(("before", step))

        def after_steps(self, step, metrics):
            events.append(("after", step, int(metrics.count)))

        def on_log(self, step, values):
            assert 0 <= values["accuracy"] <= 1 and values["images_per_second"] > 0
            events.append(("log", step))

        def on_epoch(self, step, row):
            events.append(("epoch", step, row["epoch"]))

        def close(self):
            events.append("close")

    train(small(train__epochs=1, train__log_every_steps=STEPS_PER_EPOCH), tmp_path, hooks=[Recorder()])
    steps = [
        event for step in range(STEPS_PER_EPOCH) for event in (("before", step), ("after", step + 1, 40 * (step + 1)))
    ]
    total = {"first_step": 0, "total_steps": STEPS_PER_EPOCH, "steps_per_epoch": STEPS_PER_EPOCH}
    last = [("log", STEPS_PER_EPOCH), ("epoch", STEPS_PER_EPOCH, 1), "close"]
    assert events == [("start", total), "compile", *steps, *last]


def test_training_at_smaller_sizes_equals_a_model_of_that_size_and_evaluates_at_its_own(tmp_path):
    """Without whitening, which depends on the size of the images."""
    settings = {"model__whitening": False, "data__limit": 120, "train__epochs": 1, "checkpoint__every_steps": 0}
    train(small(**settings, train__image_sizes=(16,)), tmp_path / "sizes")
    train(small(**settings, model__image_size=16), tmp_path / "small")
    in_sizes, small_model = latest(tmp_path / "sizes").state.params, latest(tmp_path / "small").state.params
    jax.tree.map(np.testing.assert_array_equal, in_sizes, small_model)
    logits = [
        restore_run(tmp_path / name, checkpoint="latest")[0].preprocessing.image_size for name in ("sizes", "small")
    ]
    assert logits == [32, 16]


def test_each_size_has_an_equal_share_of_the_epochs_and_resumes_exactly(tmp_path, monkeypatch):
    def losses(name, *sizes):
        train(small(data__limit=120, train__epochs=4, train__image_sizes=sizes), tmp_path / name)
        return read_json(RunFolder(tmp_path / name).history_json)["loss"]

    rising, constant = losses("rising", 16, 24), losses("constant", 16)
    assert rising[:2] == constant[:2]
    assert rising[2] != constant[2]
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # in the third epoch, two batches each
        with pytest.raises(Interrupted):
            losses("stopped", 16, 24)
    assert losses("stopped", 16, 24) == rising
