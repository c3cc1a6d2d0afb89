"""Stratified choices of pictures: the validation split, a held-out test split, a smaller data set."""

import logging

import numpy as np

from cifar_jax.data.record import Dataset, ImageSet

log = logging.getLogger(__name__)


def split_train_validation(labels_N: np.ndarray, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits pictures into training and validation, class by class.

    Args:
        labels_N: integers >= 0.
        fraction: of the pictures that go to validation, in [0, 1). A class keeps at least one for training.
        seed: >= 0; the same labels, fraction and seed give the same split on every machine.

    Returns:
        (train_indices, validation_indices): sorted int64, disjoint, together every index once. For CIFAR
        and a fraction of 0.1 exactly 45,000 and 5,000.
    """
    chosen_N = _choose(labels_N, count=round(fraction * len(labels_N)), leave=1, seed=seed)
    return np.flatnonzero(~chosen_N), np.flatnonzero(chosen_N)


def stratified_subset(labels_N: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` pictures (all, if there are fewer) in which each class keeps its share."""
    return np.flatnonzero(_choose(labels_N, count=min(count, len(labels_N)), leave=0, seed=seed))


def _choose(labels_N: np.ndarray, *, count: int, leave: int, seed: int) -> np.ndarray:
    """A bool mask of about `count` pictures, of no class more than all but `leave`.

    Which ones: those with the smallest random keys of their class. Raw bits of Philox, because numpy promises
    the same stream for ever only for bit generators, not for `Generator.permutation`.
    """
    if not len(labels_N):
        return np.zeros(0, bool)
    sizes_C = np.bincount(labels_N)
    quotas_C = np.minimum(_apportion(sizes_C, count), np.maximum(sizes_C - leave, 0))
    keys_N = np.random.Philox(seed).random_raw(len(labels_N))
    order_N = np.lexsort((keys_N, labels_N))
    first_C = np.cumsum(sizes_C) - sizes_C
    rank_N = np.arange(len(labels_N)) - first_C[labels_N[order_N]]
    chosen_N = np.zeros(len(labels_N), bool)
    chosen_N[order_N] = rank_N < quotas_C[labels_N[order_N]]
    return chosen_N


def _apportion(sizes_C: np.ndarray, count: int) -> np.ndarray:
    """Shares out `count` in proportion to the sizes by largest remainders, so that the sum is exact."""
    whole_C, remainder_C = np.divmod(sizes_C * count, sizes_C.sum())
    by_remainder_C = np.argsort(-remainder_C, kind="stable")
    whole_C[by_remainder_C[: count - whole_C.sum()]] += 1
    return whole_C


def assemble(*, name: str, source: str, train: ImageSet, validation: ImageSet | None, test: ImageSet | None) -> Dataset:
    """A data set that has a test split even where its source has none.

    Without `test`, `validation` is the test split; without either, a stratified sixth of `train` is held
    out as test (CIFAR's share), the same pictures at every call. A line of the log says so.
    """
    if test is None and validation is not None:
        log.info("%s: no test split; its validation pictures are the test split", source)
        test, validation = validation, None
    elif test is None:
        kept, held_out = split_train_validation(train.labels_N, fraction=1 / 6, seed=0)
        log.info("%s: no test split; a stratified sixth, %d pictures, is held out", source, len(held_out))
        train, test = train.take(kept), train.take(held_out)
    return Dataset(name=name, source=source, train=train, test=test, validation=validation)
