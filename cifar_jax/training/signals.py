"""On SIGINT and SIGTERM, training saves its state after the current step and stops."""

import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from cifar_jax.errors import CifarJaxError


class Interrupted(CifarJaxError):
    """A signal stopped the training; the state is saved. The exit code is 128 + the signal number, as in a shell."""

    def __init__(self, message: str, *, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignal:
    """Records a signal instead of ending the process; a second signal ends it as usual.

    Outside the main thread, Python does not allow signal handlers, so nothing is recorded.
    """

    def __init__(self):
        self._received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number, frame) -> None:
        self._received = number
        for handled, handler in self._before.items():
            signal.signal(handled, handler)

    def number(self, *, agree: bool) -> int:
        """The received signal, or 0.

        Args:
            agree: also ask the other processes, so that all stop at the same step; all processes must call it.
        """
        if jax.process_count() == 1:
            return self._received
        if not agree:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.int32(self._received))))
