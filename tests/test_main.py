"""main.py as a user runs it. Most tests share one run, because every start takes seconds of imports."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runs.json_files import read_json
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.restore import restore_run

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 6
RECIPE = ("--config", "cnn_scratch")
SMALL = (
    *RECIPE,
    "--config.data.name=shapes",
    "--config.data.limit=500",
    "--config.model.widths=(8,8)",
    "--config.train.batch_size=50",
    f"--config.train.epochs={EPOCHS}",
    "--config.checkpoint.every_steps=4",
    "--noconfig.evaluation.tta",
)
OF_SEVERAL = (*SMALL, "--config.train.epochs=2", "--config.train.batch_size=200")  # 4 steps
SGD = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.05", "--config.optimizer.momentum=0.9")
CLOCKS = {"images_per_second", "seconds"}
TIMEOUT_S = 600  # for one start, on a busy machine


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict:
    """One CPU device, no data set, no network, and one cache for all starts in this file."""
    home = tmp_path_factory.mktemp("home")
    names = ("XLA_FLAGS", "PJRT_NPROC", "JAX_NUM_CPU_DEVICES", "CIFAR_JAX_DATA", "no_proxy", "NO_PROXY")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    folders = {"HOME": str(home), "TFDS_DATA_DIR": str(home / "tfds"), "CIFAR_JAX_CACHE": str(home / "cache")}
    return {**kept, **nowhere, **folders, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def start(environment):
    """Starts main.py in the background."""

    def start(*arguments, **variables) -> subprocess.Popen:
        command = [sys.executable, "main.py", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment | variables, text=True, **pipes)

    return start


@pytest.fixture(scope="module")
def main(start):
    """Runs main.py; returns exit code, stdout and stderr."""

    def main(*arguments) -> tuple[int, str, str]:
        with start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
        return process.returncode, out, err

    return main


@pytest.fixture(scope="module")
def finished(main, environment) -> RunFolder:
    workdir = pathlib.Path(environment["HOME"]) / "finished"
    code, out, err = main(*SMALL, "--workdir=~/finished")
    assert code == 0, err
    assert out.startswith("shapes, test, n = 500, step ") and str(workdir / "report.html") in out
    return RunFolder(workdir)


@pytest.fixture
def copy(finished, tmp_path) -> RunFolder:
    shutil.copytree(finished.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def damage(folder: RunFolder, step: int) -> None:
    """Flips the bytes in the middle of the largest file of a checkpoint."""
    files = (path for path in (folder.checkpoints_dir / str(step) / "state").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = slice(len(content) // 4, 3 * len(content) // 4)
    content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
    largest.write_bytes(content)


def steps(folder: RunFolder) -> list[int]:
    return Checkpoints(folder.checkpoints_dir, keep=2).steps()


def without_clocks(folder: RunFolder) -> dict:
    return {name: values for name, values in read_json(folder.history_json).items() if name not in CLOCKS}


def wait_for_epoch(process: subprocess.Popen, folder: RunFolder, epoch: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not folder.history_json.exists() or len(read_json(folder.history_json)["epoch"]) < epoch:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.005)


def assert_one_error(finished_call: tuple[int, str, str], code: int) -> str:
    """Asserts that stderr has one line apart from the summary of the data set; returns it without 'error: '."""
    exit_code, _, err = finished_call
    assert exit_code == code, err
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("data: "))
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


def test_a_terminated_and_killed_run_ends_bit_identical_to_an_uninterrupted_run(finished, start, main, tmp_path):
    folder = RunFolder(tmp_path / "run of mine")  # the space must be quoted in the printed command
    with start(*SMALL, "--workdir", folder.path) as process:
        wait_for_epoch(process, folder, 1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143, err
    last = err.splitlines()[-1]
    assert last.startswith("error: stopped by SIGTERM after step ") and "state saved" in last
    assert f"resume with: python main.py {' '.join(RECIPE)} " in last and f"'{folder.path}'" in last

    with start(*SMALL, "--workdir", folder.path) as process:
        wait_for_epoch(process, folder, 3)
        process.kill()
    assert len(read_json(folder.history_json)["epoch"]) < EPOCHS and not folder.results_json.exists()

    code, _, err = main(*SMALL, "--workdir", folder.path)
    assert code == 0 and "resuming after step" in err, err
    assert without_clocks(folder) == without_clocks(finished)
    ours, theirs = (restore_run(run.path, checkpoint="latest")[1] for run in (folder, finished))
    assert ours.step == theirs.step == EPOCHS * 9
    for x, y in zip(jax.tree.leaves(ours.state), jax.tree.leaves(theirs.state), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_signal_in_the_final_evaluation_ends_with_one_line_that_says_what_is_saved(copy, start):
    copy.results_json.unlink()
    shutil.rmtree(copy.path / "evaluation")
    with start(*SMALL, "--workdir", copy.path) as process:
        while not (copy.path / "evaluation").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130 and "Traceback" not in err, err
    saved = f"saved: the state after step {EPOCHS * 9} in {copy.path}; resume with: python main.py"
    assert err.splitlines()[-1].startswith(f"error: stopped by SIGINT; {saved}") and err.count("error: ") == 1


@pytest.mark.parametrize(
    "number, options, fsdp", [(2, (), 1), (4, (), 1), (4, SGD, 4)], ids=["two", "four", "four with split parameters"]
)
def test_several_processes_share_one_run(start, main, number, options, fsdp, tmp_path):
    """Each process has one device. All print the result, the first writes the run folder."""
    small = (*OF_SEVERAL, *options, "--config.mesh.cpu_devices=1")
    code, _, err = main(*small, "--workdir", tmp_path / "alone")
    assert code == 0, err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without no_proxy the processes would connect to each other through the unreachable proxy of `environment`.
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(number),
        "no_proxy": "127.0.0.1",
    }
    shared = (*small, f"--config.mesh.fsdp={fsdp}", "--workdir", tmp_path / "run")
    processes = [start(*shared, **variables, JAX_PROCESS_ID=str(process_id)) for process_id in range(number)]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), outputs
    results = read_json(RunFolder(tmp_path / "run").results_json)
    assert results["environment"]["processes"] == number and results["environment"]["devices"] == f"{number} x cpu"
    assert f"accuracy {results['test']['accuracy']:.2%}" in outputs[0][0]
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1
    assert len(read_json(tmp_path / "run" / "history.json")["epoch"]) == 2
    assert_same_parameters(tmp_path / "run", tmp_path / "alone", tolerance=1e-5)


def assert_same_parameters(workdir, other, *, tolerance: float) -> None:
    """Restores the last checkpoint of both on the devices of this process."""
    trees = [restore_run(path, checkpoint="latest")[1].state.params for path in (workdir, other)]
    for ours, theirs in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_reproduces_the_results_of_training_exactly(finished, main, split):
    code, _, err = main("--mode=evaluate", "--workdir", finished.path, "--split", split)
    assert code == 0, err
    metrics = read_json(finished.evaluation_dir(split) / "metrics.json")
    results = read_json(finished.results_json)
    assert (metrics["accuracy"], metrics["loss"]) == (results[split]["accuracy"], results[split]["loss"])
    assert metrics["checkpoint_step"] == results["best_step"]


def test_evaluating_another_checkpoint_does_not_change_the_final_evaluation(copy, main):
    files = [copy.evaluation_dir("test") / "metrics.json", *copy.figures_dir.glob("*.png")]
    before = {file: file.read_bytes() for file in files}
    code, out, err = main("--mode=evaluate", "--workdir", copy.path, "--checkpoint=latest", "--tta")
    assert code == 0, err
    assert "without test-time augmentation" in out
    directory = copy.evaluation_dir("test") / f"step_{EPOCHS * 9}_tta"
    metrics = read_json(directory / "metrics.json")
    assert metrics["checkpoint_step"] == EPOCHS * 9 and metrics["tta"] and metrics["without_tta"]["n"] == 500
    assert (directory / "predictions.npz").exists() and (directory / "confusion_matrix.png").exists()
    assert {file: file.read_bytes() for file in files} == before


def test_a_damaged_checkpoint_is_skipped_unless_all_are_damaged(copy, main):
    evaluate = ("--mode=evaluate", "--workdir", copy.path, "--checkpoint=latest")
    *older, newest = steps(copy)
    damage(copy, newest)
    code, _, err = main(*evaluate)
    assert code == 0, err
    assert f"step {newest}" in err and f"using step {older[-1]}" in err and "Traceback" not in err
    evaluations = [read_json(file) for file in copy.evaluation_dir("test").glob("**/metrics.json")]
    assert older[-1] in {metrics["checkpoint_step"] for metrics in evaluations}
    for step in older:
        damage(copy, step)
    assert "no checkpoint in" in assert_one_error(main(*evaluate), 1)
    assert steps(copy) == [*older, newest]


def test_a_run_folder_of_another_configuration_is_rejected_and_unchanged(copy, main):
    before = copy.config_json.read_bytes()
    call = main(*SMALL, "--config.data.limit=400", "--config.train.seed=1", "--workdir", copy.path)
    message = assert_one_error(call, 2)
    assert "data.limit: 500 -> 400" in message and "train.seed: 0 -> 1" in message
    assert copy.config_json.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RECIPE, "--config.train.epoch=3"), ["'train.epoch'", "nearest is 'train.epochs'"]),
        (
            (*RECIPE, "--config.train.epochs=-1", "--config.optimizer.learning_rate=nan"),
            ["--config.train.epochs=-1", "--config.optimizer.learning_rate=nan"],
        ),
        ((*RECIPE, "stray"), ["stray argument 'stray'"]),
        ((*RECIPE, "--worgdir=x"), ["unknown flag --worgdir", "--workdir"]),
        (("--config=configs/cnn_scrach.py",), ["no such recipe", "cnn_scratch"]),
        ((), ["--config"]),
        (("--mode=evaluate",), ["--workdir"]),
        (("--mode=evaluate", "--workdir=/nowhere/run"), ["/nowhere/run", "config.json"]),
    ],
)
def test_a_wrong_command_line_prints_one_line_and_exits_with_2(main, tmp_path, arguments, words):
    workdir = () if "--mode=evaluate" in arguments else ("--workdir", tmp_path / "run")
    message = assert_one_error(main(*arguments, *workdir), 2)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_without_network_and_fallback_data_set_training_is_an_error(main, tmp_path):
    message = assert_one_error(main(*RECIPE, "--config.data.fallback=", "--workdir", tmp_path / "run"), 1)
    assert "cifar10 was not found and cannot be downloaded" in message and "CIFAR_JAX_DATA" in message


def test_inspect_prints_the_layers_without_data(main):
    code, out, err = main(*RECIPE, "--mode=inspect")
    assert code == 0, err
    assert "parameters" in out and "whiten" in out and "frozen" in out and "14 epochs" in out
