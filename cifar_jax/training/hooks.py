"""Hooks: they observe the training loop without changing it."""

import contextlib
import logging
from collections.abc import Iterable, Iterator

import jax

log = logging.getLogger(__name__)


class Hook:
    """Called by the training loop in the first process; override the methods you need.

    Steps count batches from 0 over the whole run. Pass hooks to `cifar_jax.train(config, workdir, hooks=[...])`.

    Attributes:
        optional: what the run loses without this hook, for the warning. If it is set, an OSError (a full disk, a closed
            terminal) ends the hook, but not the run.
    """

    optional = ""

    def on_start(self, *, first_step: int, total_steps: int, steps_per_epoch: int) -> None:
        """Before the first step of this call; `first_step` is above 0 where a run resumes."""

    def on_compile(self) -> None:
        """Before a training program is compiled."""

    def before_steps(self, step: int) -> None:
        """Before each dispatch; `step` is its first batch."""

    def after_steps(self, step: int, metrics: jax.Array) -> None:
        """After each dispatch; `step` is the next batch. `metrics` (`state.Metrics`) may still be computing."""

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Ten times an epoch by default: loss, accuracy (0 to 1), learning_rate and images_per_second."""

    def on_epoch(self, step: int, row: dict[str, float]) -> None:
        """After validation: the epoch's row of history.json; without a validation split, without val_*."""

    def close(self) -> None:
        """After the last step, or when the loop ends with an error."""


class Hooks:
    """All hooks of a run; an optional one that cannot write is not called again."""

    def __init__(self, hooks: Iterable[Hook]):
        self._hooks = list(hooks)

    @contextlib.contextmanager
    def running(self, **steps: int) -> Iterator[None]:
        """Calls `on_start` with these arguments, and `close` in the end of each hook that has started."""
        with contextlib.ExitStack() as stack:
            for hook in list(self._hooks):
                self._call_one(hook, "on_start", **steps)
                stack.callback(self._call_one, hook, "close")
            yield

    def call(self, event: str, *arguments) -> None:
        """Calls the method `event` of each hook."""
        for hook in list(self._hooks):
            self._call_one(hook, event, *arguments)

    def _call_one(self, hook: Hook, event: str, *arguments, **steps: int) -> None:
        try:
            if hook in self._hooks:
                getattr(hook, event)(*arguments, **steps)
        except OSError as error:
            if not hook.optional:
                raise
            self._hooks.remove(hook)
            log.warning("%s cannot be written (%s): the run continues without", hook.optional, error.strerror)
