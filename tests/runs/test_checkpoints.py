import json
import logging
import math
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cifar_jax.errors import DataError, UsageError
from cifar_jax.runs.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def replicated(count: int) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:count]), ("data",)), PartitionSpec())


def make_state(seed: int, devices: int = 1) -> dict:
    values = np.random.default_rng(seed).normal(size=(128, 64))
    state = {
        "params": {"conv1": {"kernel": jnp.float32(values), "bias": jnp.bfloat16(values[0])}},
        "opt_state": (jnp.float32(values + 1), ()),
        "step": jnp.int32(seed),
    }
    return jax.device_put(state, replicated(devices))


def abstract(state: dict, devices: int = 1) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(devices)), state)


ABSTRACT = abstract(make_state(0))


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def save_all(directory, accuracies: dict, keep: int = 2) -> None:
    checkpoints = Checkpoints(directory, keep=keep)
    for step, accuracy in accuracies.items():
        checkpoints.save(step, make_state(step), {"epoch": step}, val_accuracy=accuracy)
    checkpoints.close()


def listing(directory) -> dict:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_all(directory, {1: 0.9, 2: 0.5})
    return directory


@pytest.fixture
def directory(two_steps, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def test_what_was_saved_comes_back(directory):
    checkpoints = Checkpoints(directory, keep=2)
    state, metadata, step = checkpoints.restore_latest(ABSTRACT)
    assert step == 2 and metadata == {"epoch": 2} and same(state, make_state(2))
    best = checkpoints.restore_best(ABSTRACT)
    assert best.step == 1 and same(best.state, make_state(1))
    assert checkpoints.restore(2, ABSTRACT).step == 2
    assert checkpoints.restore(1, ABSTRACT).metadata == {"epoch": 1}
    assert checkpoints.steps() == [1, 2] and checkpoints.restore_best(ABSTRACT).step == 1


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", keep=2)
    assert checkpoints.steps() == [] and checkpoints.restore_best(ABSTRACT) is None
    assert checkpoints.restore_latest(ABSTRACT) is None and checkpoints.restore_best(ABSTRACT) is None
    checkpoints.wait()
    checkpoints.close()
    assert not (tmp_path / "none").exists()


def test_reading_does_not_change_the_directory(directory):
    (directory / "3.orbax-checkpoint-tmp").mkdir()
    (directory / "9").mkdir()
    damage(directory, 2)
    before = listing(directory), sorted(directory.iterdir())
    checkpoints = Checkpoints(directory, keep=1)
    checkpoints.restore_latest(ABSTRACT)
    checkpoints.restore_best(ABSTRACT)
    checkpoints.close()
    assert (listing(directory), sorted(directory.iterdir())) == before


@pytest.mark.parametrize(
    "accuracies, keep, kept, best",
    [
        ([0.9, 0.8, None, 0.1], 1, [1, 4], 1),
        ([0.9, 0.8, None, 0.1], 2, [1, 3, 4], 1),
        ([0.1, 0.9, 0.2, None, None], 1, [2, 5], 2),
        ([0.9, math.nan, 0.5, math.inf, 0.4], 1, [1, 5], 1),
        ([None, None, None], 2, [2, 3], 3),
        ([0.5, 0.5, 0.1], 1, [2, 3], 2),
        ([0.1, 0.2, 0.3], 1, [3], 3),
    ],
)
def test_the_best_and_the_latest_checkpoints_are_kept(tmp_path, accuracies, keep, kept, best):
    save_all(tmp_path, dict(enumerate(accuracies, 1)), keep=keep)
    checkpoints = Checkpoints(tmp_path, keep=keep)
    assert checkpoints.steps() == kept
    assert checkpoints.restore_best(ABSTRACT).step == best
    assert checkpoints.restore_latest(ABSTRACT).step == len(accuracies)


def test_the_best_checkpoint_of_an_earlier_process_is_kept(tmp_path):
    for step, accuracy in enumerate([0.2, 0.9, 0.5, None, 0.3], 1):
        save_all(tmp_path, {step: accuracy}, keep=1)
    assert Checkpoints(tmp_path, keep=1).steps() == [2, 5]


def test_saving_an_existing_step_is_an_error(directory):
    checkpoints = Checkpoints(directory, keep=2)
    for step in (1, 2):
        with pytest.raises(ValueError, match=f"step {step} is not above"):
            checkpoints.save(step, make_state(7), {}, val_accuracy=0.99)
    checkpoints.close()
    assert checkpoints.restore_best(ABSTRACT).step == 1
    assert same(checkpoints.restore_latest(ABSTRACT).state, make_state(2))


def test_metadata_must_be_json_and_is_restored_unchanged(tmp_path):
    metadata = {"classes": ["ä", "b"], "mean": [0.1, 1e-30], "rows": {"10": 1, "9": None}, "on": True}
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, make_state(1), metadata, val_accuracy=None)
    checkpoints.save(2, make_state(2), {10: "int keys", 9: (1, 2)}, val_accuracy=None)
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(3, make_state(3), {"loss": math.nan}, val_accuracy=None)
    checkpoints.close()
    assert checkpoints.restore(1, ABSTRACT).metadata == metadata
    assert checkpoints.restore(2, ABSTRACT).metadata == {"10": "int keys", "9": [1, 2]}


def test_the_state_may_be_overwritten_as_soon_as_save_returns(tmp_path):
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    checkpoints, state = Checkpoints(tmp_path, keep=3), make_state(1)
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"sum": float(jnp.sum(state["opt_state"][0]))}, val_accuracy=None)
        state = advance(state)
    checkpoints.close()
    for step in (1, 2, 3):
        restored = checkpoints.restore(step, ABSTRACT)
        assert float(jnp.sum(restored.state["opt_state"][0])) == restored.metadata["sum"]


@pytest.mark.parametrize("saved_on, restored_on", [(1, 8), (8, 1), (8, 2), (8, 4)])
def test_a_checkpoint_is_restored_on_another_number_of_devices(tmp_path, saved_on, restored_on):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make_state(1, saved_on), {}, val_accuracy=None)
    checkpoints.close()
    state = checkpoints.restore_latest(abstract(make_state(1), restored_on)).state
    assert same(state, make_state(1))
    assert all(len(leaf.sharding.device_set) == restored_on for leaf in jax.tree.leaves(state))


def test_a_split_array_is_saved_and_verified_completely(tmp_path):
    split = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    state = {"x": jax.device_put(jnp.arange(32.0), split)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {}, val_accuracy=None)
    checkpoints.close()
    assert same(
        checkpoints.restore_latest({"x": jax.ShapeDtypeStruct((32,), jnp.float32, sharding=split)}).state,
        state,
    )


def test_a_checkpoint_of_another_model_is_rejected_with_the_names_of_the_leaves(directory):
    other = make_state(0)
    other["params"]["conv1"]["kernel"] = jnp.zeros((128, 9))
    other["params"]["conv1"]["scale"] = other["params"]["conv1"].pop("bias")
    other["step"] = jnp.float32(0)
    with pytest.raises(DataError) as caught:
        Checkpoints(directory, keep=2).restore_latest(abstract(other))
    text = str(caught.value)
    assert "params/conv1/kernel is float32[128, 64], not float32[128, 9]" in text
    assert "params/conv1/scale is missing" in text and "params/conv1/bias is unexpected" in text
    assert "step is int32[], not float32[]" in text and "\n" not in text


def test_another_dtype_is_rejected_and_not_cast(directory):
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), ABSTRACT)
    with pytest.raises(DataError, match=r"kernel is float32\[128, 64\], not bfloat16"):
        Checkpoints(directory, keep=2).restore_best(other)


def test_a_missing_step_is_a_usage_error(directory):
    checkpoints = Checkpoints(directory, keep=2)
    with pytest.raises(UsageError, match=re.escape("no checkpoint of step 3 in") + r".*\[1, 2\]"):
        checkpoints.restore(3, ABSTRACT)


def largest(directory: pathlib.Path) -> pathlib.Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    path.write_bytes(content)


FAULTS = {
    "bit flipped early": lambda path: flip(path, 0.2),
    "bit flipped in the middle": lambda path: flip(path, 0.5),
    "bit flipped late": lambda path: flip(path, 0.9),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_never_restored(two_steps, tmp_path, fault, caplog):
    """Damages each file of the newest step in turn: the restored state is correct, or the older step with a warning."""
    fell_back = 0
    files = [path.relative_to(two_steps) for path in sorted((two_steps / "2").rglob("*")) if path.is_file()]
    for number, name in enumerate(files):
        damaged = pathlib.Path(shutil.copytree(two_steps, tmp_path / str(number)))
        if not (damaged / name).stat().st_size:
            continue
        FAULTS[fault](damaged / name)
        caplog.clear()
        state, metadata, step = Checkpoints(damaged, keep=2).restore_latest(ABSTRACT)
        assert same(state, make_state(step)) and metadata == {"epoch": step}
        if step == 1:
            fell_back += 1
            (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert "step 2: " in record.getMessage() and "\n" not in record.getMessage()
        else:
            assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert fell_back


def damage(directory, *steps) -> None:
    for step in steps:
        flip(largest(directory / str(step) / "state"), 0.5)


def test_only_the_checksum_detects_a_flipped_bit_in_an_array(directory):
    """Orbax restores this silently; only the checksum detects it."""
    damage(directory, 2)
    with ocp.StandardCheckpointer() as reader:
        wrong = reader.restore(directory / "2" / "state", ABSTRACT)
    assert not same(wrong, make_state(2))
    with pytest.raises(DataError, match=r"2 is damaged: wrong checksum of (params/conv1/kernel|opt_state/0)$"):
        Checkpoints(directory, keep=2).restore(2, ABSTRACT)


def test_the_checksum_of_the_metadata_detects_a_changed_checksum_or_accuracy(directory):
    path = directory / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "val_accuracy": 0.99}))
    checkpoints = Checkpoints(directory, keep=2)
    with pytest.raises(DataError, match="2 is damaged: wrong checksum of its metadata"):
        checkpoints.restore(2, ABSTRACT)
    assert checkpoints.restore_best(ABSTRACT).step == 1


def test_training_resumes_and_replaces_a_damaged_newest_step(directory):
    damage(directory, 2)
    checkpoints = Checkpoints(directory, keep=2)
    assert checkpoints.restore_latest(ABSTRACT).step == 1
    checkpoints.save(2, make_state(22), {"epoch": 2}, val_accuracy=0.4)
    checkpoints.save(3, make_state(3), {"epoch": 3}, val_accuracy=0.3)
    checkpoints.close()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "2.damaged", "3"]
    assert checkpoints.steps() == [1, 2, 3] and checkpoints.restore_best(ABSTRACT).step == 1
    assert same(checkpoints.restore(2, ABSTRACT).state, make_state(22))


def test_without_an_intact_step_restoring_fails_and_removes_nothing(directory):
    damage(directory, 1, 2)
    before = listing(directory)
    for restore in (
        Checkpoints(directory, keep=2).restore_latest,
        Checkpoints(directory, keep=2).restore_best,
    ):
        with pytest.raises(DataError, match=r"no checkpoint in .* is intact \(step .*step "):
            restore(ABSTRACT)
    with pytest.raises(DataError, match="1 is damaged"):
        Checkpoints(directory, keep=2).restore(1, ABSTRACT)
    assert listing(directory) == before


def test_if_the_best_checkpoint_is_damaged_the_next_best_is_restored(directory):
    save_all(directory, {3: 0.6}, keep=3)
    damage(directory, 1)
    assert Checkpoints(directory, keep=3).restore_best(ABSTRACT).step == 3


def test_partial_checkpoints_of_a_killed_run_are_ignored(directory):
    (directory / "7.orbax-checkpoint-tmp").mkdir()
    (directory / "7.orbax-checkpoint-tmp" / "half").write_text("x")
    (directory / "4").mkdir()
    checkpoints = Checkpoints(directory, keep=2)
    assert checkpoints.steps() == [1, 2] and checkpoints.restore_latest(ABSTRACT).step == 2
    checkpoints.save(3, make_state(3), {}, val_accuracy=None)
    checkpoints.save(4, make_state(4), {}, val_accuracy=None)
    checkpoints.close()
    assert sorted(path.name for path in directory.iterdir()) == ["1", "3", "4"]


SAVE_FOREVER = """
import sys, jax.numpy as jnp
from cifar_jax.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
first = max(checkpoints.steps(), default=0) + 1
for step in range(first, first + 10_000):
    checkpoints.save(step, {"x": jnp.full(250_000, step, jnp.float32)}, {"step": step}, val_accuracy=1 / step)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_an_intact_checkpoint(tmp_path):
    abstract_x = {"x": jax.ShapeDtypeStruct((250_000,), jnp.float32, sharding=replicated(1))}
    for saves in (1, 2, 4):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            for _ in range(saves):
                begun = int(process.stdout.readline())
            process.kill()
            begun = int((process.stdout.read().split() or [begun])[-1])
        restored = Checkpoints(tmp_path, keep=2).restore_latest(abstract_x)
        if begun > 1:  # the first one may have been incomplete
            assert restored.step >= begun - 1 and restored.metadata == {"step": restored.step}
            assert np.array_equal(restored.state["x"], np.full(250_000, restored.step, np.float32))


SAVE_MORE_THAN_FITS = """
import resource, sys, jax, jax.numpy as jnp
from cifar_jax.errors import DataError
from cifar_jax.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
checkpoints.save(1, {"x": jnp.ones(100)}, {}, val_accuracy=0.5)
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (1_000_000,))}, {}, val_accuracy=0.6)
try:
    CALL
except DataError as error:
    print(error)
checkpoints.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["wait()", "close()", "save(3, {'x': jnp.ones(9)}, {}, val_accuracy=None)"])
def test_a_full_disk_is_a_one_line_error_and_keeps_earlier_checkpoints(tmp_path, call):
    script = SAVE_MORE_THAN_FITS.replace("CALL", f"checkpoints.{call}")
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(
        r"checkpoint of step 2 could not be written to .*earlier checkpoints stay usable\n", done.stdout
    )
    checkpoints = Checkpoints(tmp_path, keep=2)
    state = {"x": jax.ShapeDtypeStruct((100,), jnp.float32, sharding=replicated(1))}
    assert checkpoints.steps() == [1]
    assert np.array_equal(checkpoints.restore_latest(state).state["x"], np.ones(100))
