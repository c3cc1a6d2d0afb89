"""A signal in the middle of training, at a known step."""

import signal

from cifar_jax.signals import StopSignal


def stop_after(monkeypatch, *steps: int) -> None:
    """Simulates a SIGTERM during each of these steps, counted from now on over all calls; the loop asks once a step."""
    calls = []

    def number(self, *, agree):
        calls.append(agree)
        return signal.SIGTERM if len(calls) in steps else 0

    monkeypatch.setattr(StopSignal, "number", number)
