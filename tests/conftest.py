"""Eight CPU devices for every test."""

import os
import signal

# XLA's thread pool has one thread per core. A device that waits in a collective holds a thread, so fewer threads than
# devices deadlock (see `cifar_jax/devices.py`). The variable is read when JAX starts its backend.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import pytest

# The shell of a script ignores Ctrl-C for its jobs in the background, and every program that they start inherits that.
# SIGHUP stays as it is: `nohup` must keep the tests running.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def devices():
    return jax.devices()
