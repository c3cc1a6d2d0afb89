"""Several processes that train together: how they find each other, and what the others do when one of them is gone.

JAX's own check takes 100 seconds and ends the process from C++. Therefore each process keeps a TCP connection to
process 0. The system closes it when a process ends, however it ends, and keepalive packets, which the system answers
even if the process is suspended or compiles, reveal within 25 seconds that a machine is gone.
"""

import atexit
import contextlib
import ctypes
import importlib.util
import itertools
import logging
import os
import re
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable

from cifar_jax.errors import DataError, UsageError, one_line
from cifar_jax.memory import is_glibc

WAIT_SECONDS = 300  # for the other processes to start
LONGEST_SECONDS = 3600  # for a slower process to compile
_DONE, _FAILED = b"done", b"failed"

_watch: "_Watch | None" = None
Settings = tuple[str, int, int, list[int] | None]  # address of process 0, number of processes, process, its devices

resume: Callable[[], str] = "start all again".format  # what to do when a process is gone; the training loop sets it


def join() -> None:
    """Calls `jax.distributed.initialize` if this process is one of several, and watches the others from then on.

    Raises:
        UsageError: a variable has no valid value.
        DataError: the other processes cannot be reached.
    """
    global _watch
    if _watch or not (settings := _explicit() or _detected()):
        return
    import jax  # here: the command line imports this module

    address, number, process_id, local_device_ids = settings
    others = f"{number - 1} other process{'es' if number > 2 else ''}"
    logging.info("waiting for %s at %s, at most %d s", others, address, WAIT_SECONDS)
    connections = _meet(address, number, process_id)
    try:  # all processes are there: where this fails, JAX would abort this process from C++
        jax.distributed.initialize(address, number, process_id, local_device_ids, cluster_detection_method="deactivate")
    except (RuntimeError, ValueError) as error:
        raise DataError(f"process {process_id} of {number} at {address}: {one_line(error)}") from error
    _watch = _Watch(connections, is_first=process_id == 0)


def _explicit() -> Settings | None:
    """Started by hand, with all three variables; None without them."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if names[0] not in os.environ:
        return None
    if missing := [name for name in names[1:] if name not in os.environ]:
        raise UsageError(f"{names[0]} is set but {' and '.join(missing)} is not: set all three")
    address = os.environ[names[0]]
    host, _, port = address.rpartition(":")
    if not host or not (port.isdecimal() and port.isascii() and 0 < int(port) < 2**16):
        raise UsageError(f"{names[0]}={address}: must be HOST:PORT of process 0, such as 10.0.0.1:1234")
    number, process_id = _integer(names[1], 1), _integer(names[2], 0)
    if process_id >= number:
        raise UsageError(f"{names[2]}={process_id}: must be below {names[1]}={number}, beginning with 0")
    if number == 1:
        return None
    local = os.environ.get("SLURM_LOCALID") or os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK") or ""  # one GPU per process
    return address, number, process_id, [int(local)] if local.isdecimal() else None


def _detected() -> Settings | None:
    """Started by SLURM's srun, by Open MPI or on a TPU pod; None in one process.

    An allocation sets SLURM_NTASKS in its shell too: only the number of tasks of the job step counts.
    """
    step = {"SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID"}
    if step <= os.environ.keys() and _integer("SLURM_STEP_NUM_TASKS", 1) > 1:
        os.environ.setdefault("SLURM_NTASKS", os.environ["SLURM_STEP_NUM_TASKS"])  # JAX requires it
        number, process_id = _integer("SLURM_STEP_NUM_TASKS", 1), _integer("SLURM_PROCID", 0)
        return _in_cluster("slurm", number, process_id)
    mpi = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}
    if mpi <= os.environ.keys() and _integer("OMPI_COMM_WORLD_SIZE", 1) > 1:
        number, process_id = _integer("OMPI_COMM_WORLD_SIZE", 1), _integer("OMPI_COMM_WORLD_RANK", 0)
        if "OMPI_MCA_orte_hnp_uri" in os.environ:
            return _in_cluster("ompi", number, process_id)
        if "PMIX_RANK" in os.environ:  # Open MPI 5; without it, these variables are left from another program
            raise UsageError(
                "this version of Open MPI does not name the first machine: set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
                "JAX_NUM_PROCESSES=$OMPI_COMM_WORLD_SIZE and JAX_PROCESS_ID=$OMPI_COMM_WORLD_RANK in each process"
            )
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(workers) > 1 and "TPU_WORKER_ID" in os.environ and importlib.util.find_spec("libtpu"):
        return f"{workers[0]}:8482", len(workers), _integer("TPU_WORKER_ID", 0), None  # the port is JAX's
    return None


def _in_cluster(method: str, number: int, process_id: int) -> Settings:
    from jax._src import clusters  # the only interface to what `jax.distributed.initialize` detects

    try:
        detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
        return tuple(detect(None, number, process_id, None, method, WAIT_SECONDS))
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataError(f"{method}: the first machine is not known ({one_line(error)})") from error


def _integer(name: str, minimum: int) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and minimum <= int(text) < 2**31):
        raise UsageError(f"{name}={text[:100]!r}: must be an integer of at least {minimum}")
    return int(text)


def _meet(address: str, number: int, process_id: int) -> dict[socket.socket, int]:
    """Waits until all processes are there. Process 0 listens at the address, where JAX will listen afterwards.

    Returns:
        Open connections, with the number of the process at the other end: to process 0, or from it to all others.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + WAIT_SECONDS
    if process_id:
        return {_call(host.strip("[]"), int(port), b"cifar_jax %d %d\n" % (process_id, number), end): 0}
    try:
        if socket.has_dualstack_ipv6():
            server = socket.create_server(("", int(port)), family=socket.AF_INET6, backlog=number, dualstack_ipv6=True)
        else:
            server = socket.create_server(("", int(port)), backlog=number)
    except OSError as error:
        raise DataError(
            f"{address}: port {port} cannot be opened ({os.strerror(error.errno)}): use another one"
        ) from error
    connections = {}
    with contextlib.ExitStack() as opened:  # closes them unless all is well
        opened.enter_context(server)
        while len(connections) < number - 1:
            server.settimeout(max(end - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
                connection.settimeout(5)
                words = connection.recv(100).split()
            except OSError as error:
                if time.monotonic() < end:
                    continue
                missing = sorted(set(range(1, number)) - set(connections.values()))
                fix = f"start all within {WAIT_SECONDS} s, with JAX_PROCESS_ID 0 to {number - 1}"
                raise DataError(f"processes that did not come to {address}: {_listed(missing)}; {fix}") from error
            if not re.fullmatch(rb"cifar_jax \d{1,9} \d{1,9}", b" ".join(words)):
                connection.close()  # of another program
                continue
            connections[opened.enter_context(connection)] = other = int(words[1])
            if int(words[2]) != number or list(connections.values()).count(other) > 1 or not 0 < other < number:
                problem = f"process {other} of {int(words[2])} came twice, or to one of {number}"
                for connection in connections:
                    connection.sendall(f"{problem}\n".encode())
                raise DataError(f"{address}: {problem}: give each process another id and all the same number")
        server.close()
        for connection in connections:
            connection.sendall(b"go\n")
        opened.pop_all()
    return connections


def _call(host: str, port: int, hello: bytes, end: float) -> socket.socket:
    """A connection to process 0, once it and all others are there."""
    failure, answer = "no answer", ""
    while time.monotonic() < end and not answer:
        try:
            connection = socket.create_connection((host, port), timeout=max(end - time.monotonic(), 0.01))
        except OSError as error:
            failure = error.strerror or str(error)
        else:
            with contextlib.suppress(OSError):
                connection.sendall(hello)
                answer = connection.recv(200).decode(errors="replace").strip()
            if answer == "go":
                return connection
            failure = "it ended, or others did not come"
            connection.close()
        if not answer:
            time.sleep(0.5)
    fix = "start all processes, each with another id, and open this port between their machines"
    raise DataError(f"process 0 at {host}:{port}: {one_line(answer or failure)}: {fix}")


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")


class _Watch:
    """The connections of this process: to process 0, or of process 0 to all others. A thread waits for their end."""

    def __init__(self, connections: dict[socket.socket, int], *, is_first: bool):
        self.is_first = is_first
        self._ids: dict[socket.socket, int] = {}
        self._selector = selectors.DefaultSelector()
        self._barriers = itertools.count()
        for connection, process_id in connections.items():
            self._add(connection, process_id)
        if not is_first and is_glibc():
            # When process 0 is gone, JAX aborts this one from C++ at the same moment. The handler sleep(SIGABRT)
            # delays that by 6 seconds, in which the thread below reports the cause.
            ctypes.CDLL(None).signal(signal.SIGABRT, ctypes.CDLL(None).sleep)
        threading.Thread(target=self._wait, daemon=True).start()
        atexit.register(self.send, _DONE)

    def _add(self, connection: socket.socket, process_id: int) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._ids[connection] = process_id
        self._selector.register(connection, selectors.EVENT_READ)

    def wait_for_all(self, name: str) -> None:
        from jax._src import distributed  # the only interface to JAX's barriers without a device, which Orbax uses too

        barrier = f"cifar_jax/{name}/{next(self._barriers)}"
        distributed.global_state.client.wait_at_barrier(barrier, 1000 * LONGEST_SECONDS)

    def send(self, message: bytes) -> None:
        """Sends a line to all connected processes."""
        for connection in list(self._ids):
            with contextlib.suppress(OSError):  # it ends at this moment
                connection.sendall(message + b"\n")

    def _wait(self) -> None:
        while self._selector.get_map():
            for key, _ in self._selector.select():
                self._receive(key.fileobj)

    def _receive(self, connection: socket.socket) -> None:
        try:
            lines = connection.recv(1024).split(b"\n")
        except OSError:  # reset, or no answer to keepalive
            lines = [b""]
        process_id = self._ids[connection]
        if lines[0] == _DONE:  # the connection remains: without it, the other process would take this one for lost
            self._selector.unregister(connection)
        elif lines[0].startswith(b"lost "):  # from process 0
            self._end(int(lines[0].split()[1]), "is gone")
        elif lines[0] == _FAILED:
            self._end(process_id, "ended with an error, see its output")
        else:
            self._end(process_id, "is gone")

    def _end(self, process_id: int, what: str) -> None:
        """Ends this process. JAX would wait for the lost one, and then abort."""
        self.send(b"lost %d" % process_id)
        if what != "is gone":
            time.sleep(1)  # all processes may have the same error, which is the better message
        try:
            terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)  # JAX and the main thread report the same loss at this moment, in many lines
            os.write(terminal, f"error: process {process_id} {what}; {resume()}\n".encode(errors="backslashreplace"))
        finally:
            os._exit(1)


def wait_for_all(name: str) -> None:
    """Waits until all processes have called it, if there are several."""
    if _watch:
        _watch.wait_for_all(name)


def wait_for_watch() -> None:
    """Call it before an error is printed: if it comes from the loss of another process, this process ends here.

    JAX reports the loss as one of many errors. The thread that watches the processes knows the cause.
    """
    if _watch:
        time.sleep(2)


def end_with_error(code: int, message: Callable[[], None]) -> None:
    """Reports an error and ends this process at once if it is one of several; else it does nothing.

    Args:
        message: prints the error.
    """
    if _watch:
        wait_for_watch()
        message()
        _watch.send(_FAILED)
        time.sleep(2 if _watch.is_first else 0)  # JAX aborts the others if the first process ends before them
        os._exit(code)


def explains(error: BaseException) -> str:
    """The message for an error of JAX that means that the processes lost contact; '' for another error."""
    text = one_line(error)
    signs = ("Gloo", "DEADLINE_EXCEEDED", "UNAVAILABLE", "Connection closed", "coordination", "barrier")
    if not _watch or not any(sign in str(error) for sign in signs):
        return ""
    return f"another process is too slow or cannot be reached ({text[:100]}); {resume()}"
