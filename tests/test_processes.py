"""Processes find each other, or say in one line why not; a process that is gone is named by the others."""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cifar_jax import processes
from cifar_jax.errors import DataError, UsageError

ROOT = Path(__file__).parents[1]
STEP = {"SLURM_STEP_NODELIST": "node[001-002]", "SLURM_JOB_ID": "5", "SLURM_LOCALID": "0", "SLURM_PROCID": "1"}
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
PREFIXES = ("SLURM_", "OMPI_", "PMI", "JAX_COORD", "JAX_NUM_PROC", "JAX_PROCESS", "TPU_", "KUBERNETES")


@pytest.fixture
def environment(monkeypatch):
    """Sets the environment variables of a cluster, and no others."""

    def set_variables(variables: dict[str, str]) -> None:
        for name in [name for name in os.environ if name.startswith(PREFIXES)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def settings():
    return processes._explicit() or processes._detected()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "5"},  # the shell of an allocation
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "5"},  # a batch script
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", **STEP},  # srun --pty bash
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "4", "PMI_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {**BY_HAND, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_variables_outside_a_job_step_mean_one_process(environment, variables):
    environment(variables)
    assert settings() is None


def test_a_job_step_of_several_tasks_and_variables_set_by_hand_are_recognized(environment):
    environment({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", **STEP})
    address, number, process_id, local_device_ids = settings()
    assert address.startswith("node001:") and (number, process_id, local_device_ids) == (2, 1, [0])
    environment(
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
        | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    )
    address, number, process_id, local_device_ids = settings()
    assert address.startswith("10.96.0.1:") and (number, process_id, local_device_ids) == (4, 3, [1])
    environment(BY_HAND)
    assert settings() == ("127.0.0.1:1234", 2, 1, None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two': must be an integer of at least 1"),
        ({"JAX_NUM_PROCESSES": "0"}, "JAX_NUM_PROCESSES='0': must be"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1': must be an integer of at least 0"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2: must be below JAX_NUM_PROCESSES=2, beginning with 0"),
        ({"JAX_PROCESS_ID": "１"}, "must be an integer"),
        ({"JAX_COORDINATOR_ADDRESS": "node"}, "JAX_COORDINATOR_ADDRESS=node: must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "node:99999"}, "must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": ":1234"}, "must be HOST:PORT"),
    ],
)
def test_wrong_variables_are_one_line(environment, changes, message):
    environment(BY_HAND | changes)
    with pytest.raises(UsageError) as error:
        settings()
    assert message in str(error.value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def meet(number: int, ids: list[int], *, numbers: dict[int, int] | None = None) -> list[str]:
    """What each of these processes gets: the numbers at the other ends, or the error."""
    address, answers = f"127.0.0.1:{free_port()}", [""] * len(ids)

    def run(place: int) -> None:
        try:
            connections = processes._meet(address, (numbers or {}).get(place, number), ids[place])
            answers[place] = ",".join(map(str, sorted(connections.values())))
            for connection in connections:
                connection.close()
        except DataError as error:
            answers[place] = str(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_processes_meet_at_the_port_of_the_first(monkeypatch):
    monkeypatch.setattr(processes, "WAIT_SECONDS", 20)
    assert meet(3, [0, 1, 2]) == ["1,2", "0", "0"]


def test_processes_that_do_not_come_are_named_after_a_bounded_wait(monkeypatch):
    monkeypatch.setattr(processes, "WAIT_SECONDS", 1)
    first, second = meet(3, [0, 1])
    assert "processes that did not come to 127.0.0.1:" in first and ": 2; start all within 1 s" in first
    assert second.startswith("process 0 at 127.0.0.1:")
    assert "Connection refused" in meet(2, [1])[0]


def test_an_id_that_is_used_twice_is_an_error_in_all_processes(monkeypatch):
    monkeypatch.setattr(processes, "WAIT_SECONDS", 5)
    assert all("process 1 of 3 came twice" in answer for answer in meet(3, [0, 1, 1]))
    assert all("process 1 of 4 came twice, or to one of 2" in answer for answer in meet(2, [0, 1], numbers={1: 4}))


def test_a_port_in_use_is_one_line():
    with socket.create_server(("", 0)) as server, pytest.raises(DataError, match=r"in use.*: use another one"):
        processes._meet(f"127.0.0.1:{server.getsockname()[1]}", 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_by_the_other_with_the_step_to_resume_from(victim, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable,
        "main.py",
        "--config=cnn_scratch",
        "--config.data.name=shapes",
        "--config.data.limit=500",
    ]
    command += ["--config.model.widths=(8,)", "--config.train.batch_size=50", "--config.train.epochs=1000"]
    command += ["--config.mesh.cpu_devices=1", "--noconfig.evaluation.tta", "--workdir", str(run)]
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
    }
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    kept |= variables | {"no_proxy": "127.0.0.1", "CIFAR_JAX_CACHE": str(tmp_path / "cache")}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as opened:
        both = [
            opened.enter_context(
                subprocess.Popen(command, cwd=ROOT, env=kept | {"JAX_PROCESS_ID": str(number)}, **pipes)
            )
            for number in range(2)
        ]
        for process in both:
            opened.callback(process.kill)
        end = time.monotonic() + 500
        while not any(path.name.isdecimal() for path in (run / "checkpoints").glob("*")):
            assert time.monotonic() < end and both[0].poll() is None and both[1].poll() is None, both[0].communicate()
            time.sleep(0.05)
        both[victim].send_signal(signal.SIGKILL)
        _, err = both[1 - victim].communicate(timeout=30)
    assert both[1 - victim].returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith(f"error: process {victim} is gone; start all again, they resume from step "), err
    assert "Traceback" not in err and "checkpoint" not in last


def test_a_process_that_is_done_does_not_look_lost():
    """The connection stays open until process 0 is done as well."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    with here, there:
        watch = processes._Watch({here: 1}, is_first=True)
        atexit.unregister(watch.send)
        there.sendall(b"done\n")
        there.settimeout(0.5)
        with pytest.raises(TimeoutError):
            there.recv(1)
        watch.send(b"done")
        assert there.recv(100) == b"done\n"
