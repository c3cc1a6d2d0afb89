"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal was closed) do.

In the block of a `StopSignal` (the training loop), the first signal is only recorded: the loop saves its state and ends
the run. Every other signal ends the program at once, with one line that says what is saved. On the command line a
thread waits for the signals, because Python's handlers would not run while modules are imported or XLA compiles.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable

from cifar_jax.errors import CifarJaxError

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_lock = threading.Lock()
_is_watched = False
_active: "StopSignal | None" = None  # where the signals are watched
_last_words: Callable[[], str] = " before it began".format


class Interrupted(CifarJaxError):
    """A signal stopped the training; the state is saved. The exit code is 128 + the signal number, as in a shell."""

    def __init__(self, message: str, *, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def watch() -> None:
    """Receives the signals in a thread from now on, except those that the parent process ignores (nohup, `command &`).

    They are blocked in this thread and in all that start later, also after exec, so that none is lost before the next
    call. Without `sigwait` (Windows) they have Python's meaning outside of the training loop.
    """
    global _is_watched
    if hasattr(signal, "sigwait"):
        numbers = _not_ignored()
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        _is_watched = True
        threading.Thread(target=_receive, args=(numbers,), daemon=True).start()
        atexit.register(_unblock, numbers)  # the thread ends with Python


def _unblock(numbers: list[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def before_end(last_words: Callable[[], str]) -> None:
    """Sets the function that is called before a signal ends the program at once, in the thread of `watch`.

    It returns what the message says after 'stopped by SIGINT': what is saved, and the command that continues. Without
    a text there is no message.
    """
    global _last_words
    _last_words = last_words


def _not_ignored() -> list[int]:
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _receive(numbers: list[int]) -> None:
    while True:
        number = signal.sigwait(numbers)
        with _lock:
            is_recorded = _active is not None and not _active.received
            if is_recorded:
                _active.received = number
        if not is_recorded:
            _end(number)
        if os.isatty(2):  # after a Ctrl-C, the training step or the compilation can take long
            _print(f"\r\x1b[K{_name(number)}: stopping as soon as the state is saved; again: at once, without saving\n")


def _end(number: int) -> None:
    show_cursor = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    try:
        words = _last_words()
        _print(show_cursor + (f"error: stopped by {_name(number)}{words}\n" if words else ""))
    finally:
        os._exit(128 + number)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed
        os.write(2, text.encode(errors="backslashreplace"))


def _name(number: int) -> str:
    return signal.Signals(number).name


class StopSignal:
    """Records the first signal in its block instead of ending the process; the next one has its usual effect.

    A signal that was recorded but not read with `number` has its usual effect at the end of the block. In a program
    that does not call `watch` (a notebook), signal handlers do the same; outside its main thread nothing is recorded.
    """

    def __init__(self):
        self.received = 0
        self._is_read = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        global _active
        if _is_watched:
            _active = self
        elif threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in _not_ignored()}
        return self

    def __exit__(self, kind, *exception) -> None:
        global _active
        with _lock:
            _active = None
        self._restore()
        if self.received and not self._is_read and kind is None:
            os.kill(os.getpid(), self.received)

    def _record(self, number, frame) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: a library installed it without Python
        self._before = {}

    def number(self, *, agree: bool) -> int:
        """The received signal, or 0.

        Args:
            agree: also ask the other processes, so that all stop at the same step; all processes must call it.
        """
        import jax  # here: signals are watched before the slow imports
        import numpy as np
        from jax.experimental import multihost_utils

        if jax.process_count() > 1:
            received = int(np.max(multihost_utils.process_allgather(np.int32(self.received)))) if agree else 0
        else:
            received = self.received
        self._is_read = bool(received)
        return received
