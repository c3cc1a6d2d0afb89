"""Signals in small programs; tests/test_main.py sends them to main.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_jax.signals import Interrupted, StopSignal

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The tests may run under `nohup`, or in the background of a script: signals that are ignored there are ignored here.
WATCHED = """
import os, signal, sys, time
from cifar_jax import signals
for number in {numbers}:
    signal.signal(number, signal.SIG_IGN if number in {ignored} else signal.SIG_DFL)
signals.watch()
signals.before_end(lambda: "; saved: nothing")
def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
"""


def ended(program: str, *, ignored: tuple[int, ...] = ()) -> tuple[int, str]:
    """Exit code and stderr of a program that calls `watch` and then runs `program`."""
    start = WATCHED.format(numbers=[*map(int, NUMBERS)], ignored=[*map(int, ignored)])
    command = [sys.executable, "-c", start + program]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_program_with_one_line(name):
    number = signal.Signals[name]
    code, err = ended(f"send({int(number)}); time.sleep(60)")
    assert (code, err) == (128 + number, f"error: stopped by {name}; saved: nothing\n")


@pytest.mark.parametrize(
    "busy",
    [
        "import ctypes; ctypes.CDLL(None).sleep(60)",  # as long as XLA compiles, Python calls no handler
        "while True:\n    try: time.sleep(60)\n    except BaseException: pass",  # as some modules do on import
        "with signals.StopSignal() as stop:\n    time.sleep(1); send(signal.SIGTERM); time.sleep(60)",
        "with signals.StopSignal() as stop: pass\ntime.sleep(60)",
    ],
)
def test_a_signal_is_neither_swallowed_nor_delayed(busy):
    sender = "import threading; threading.Timer(0.5, send).start()\n"
    code, err = ended(sender + busy)
    last = "SIGTERM" if "SIGTERM" in busy else "SIGINT"
    assert (code, err) == (128 + signal.Signals[last], f"error: stopped by {last}; saved: nothing\n")


def test_the_first_signal_in_the_block_is_recorded():
    program = "with signals.StopSignal() as stop:\n    send(); time.sleep(0.5); sys.exit(int(stop.number(agree=True)))"
    assert ended(program) == (signal.SIGINT, "")


def test_a_signal_after_the_last_message_adds_none():
    assert ended("signals.before_end(str); send(); time.sleep(60)") == (130, "")


def test_a_recorded_signal_that_is_not_read_ends_the_program_after_the_block():
    program = "with signals.StopSignal() as stop:\n    send(); time.sleep(0.5); print('saved')\ntime.sleep(60)"
    assert ended(program) == (130, "error: stopped by SIGINT; saved: nothing\n")


def test_a_signal_during_a_restart_arrives_after_it(tmp_path):
    """The signal is sent between `watch` and exec, where no thread waits for it."""
    (tmp_path / "program.py").write_text("""
import os, signal, sys, threading, time
from cifar_jax import signals
if sys.argv[1:]:
    signals.watch()
    time.sleep(60)
threading.Thread.start = lambda thread: None
signals.watch()
os.kill(os.getpid(), signal.SIGINT)
os.execv(sys.executable, [*sys.orig_argv, "again"])
""")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stderr) == (130, "error: stopped by SIGINT before it began\n")


def test_signals_that_the_parent_ignores_stay_ignored():
    program = "send(signal.SIGINT); send(signal.SIGHUP); time.sleep(0.5); send(signal.SIGTERM); time.sleep(60)"
    assert ended(program, ignored=(signal.SIGINT, signal.SIGHUP)) == (
        143,
        "error: stopped by SIGTERM; saved: nothing\n",
    )


def test_a_closed_terminal_does_not_delay_the_end():
    code, _ = ended("os.close(2); send(signal.SIGHUP); time.sleep(60)")
    assert code == 129


def test_without_watching_the_second_signal_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number(agree=True) == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_watching_a_signal_that_is_not_read_arrives_after_the_block():
    saved = []
    with pytest.raises(KeyboardInterrupt):
        with StopSignal():
            os.kill(os.getpid(), signal.SIGINT)
            saved.append(True)
        signal.pause()
    assert saved


def test_an_error_in_the_block_is_reported_instead_of_the_signal():
    with pytest.raises(Interrupted), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        raise Interrupted("stopped", signal_number=signal.SIGINT)
