"""The largest batch that fits into the memory of a device, by bisection over compiled programs."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


def largest_batch(
    fits: Callable[[int], bool], *, fitting: int, failing: int | None, guess: int, multiple: int, limit: int
) -> tuple[int, int | None]:
    """Brackets the largest batch, to within an eighth.

    Every call of `fits` compiles a program, which takes from seconds to minutes: the search starts at a guess and
    doubles its steps until it has a bracket, which it then halves.

    Args:
        fits: whether a batch of this size fits.
        fitting: a size that is known to fit, or 0.
        failing: a size that is known not to fit, or None.
        guess: the expected answer.
        multiple: sizes are multiples of this.
        limit: no larger size is tried.

    Returns:
        The largest size found to fit, and the smallest found not to; None if that of `limit` fits.
    """
    low, high, probe, step = fitting, failing, guess, max(multiple, guess // 8)
    while high is None or high - low > max(multiple, low // 8):
        first = (low // multiple + 1) * multiple
        last = (limit if high is None else high - 1) // multiple * multiple
        if first > last:
            break
        probe = min(max(probe // multiple * multiple, first), last)
        if fits(probe):
            low = probe
            probe = low + step if high is None else (low + high) // 2
        else:
            high = probe
            probe = high - step if high - step > low else (low + high) // 2
        step *= 2
    return low, high
