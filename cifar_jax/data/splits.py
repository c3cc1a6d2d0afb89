"""Stratified subsets of images: the validation split, a held-out test split, a smaller data set."""

import numpy as np

from cifar_jax.data.dataset import ORIGIN, Dataset, ImageSet


def split_train_validation(labels_N: np.ndarray, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits images into training and validation, class by class: sorted int64 indices of both.

    For CIFAR and a fraction of 0.1 exactly 45,000 and 5,000.

    Args:
        labels_N: integers >= 0.
        fraction: of the images that go to validation, in [0, 1). A class keeps at least one for training.
        seed: >= 0; the same labels, fraction and seed give the same split on every machine.
    """
    chosen_N = _choose(labels_N, count=round(fraction * len(labels_N)), spare=1, seed=seed)
    return np.flatnonzero(~chosen_N), np.flatnonzero(chosen_N)


def stratified_subset(labels_N: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` images (all, if there are fewer) with the class proportions of `labels_N`."""
    return np.flatnonzero(_choose(labels_N, count=min(count, len(labels_N)), spare=0, seed=seed))


def _choose(labels_N: np.ndarray, *, count: int, spare: int, seed: int) -> np.ndarray:
    """A bool mask of about `count` images that leaves at least `spare` images of each class.

    The images with the smallest random keys of their class. The keys are raw bits of Philox, because NumPy guarantees
    the stream of bit generators across versions, but not `Generator.permutation`.
    """
    chosen_N = np.zeros(len(labels_N), bool)
    if not len(labels_N):
        return chosen_N
    sizes_K = np.bincount(labels_N)
    # Shares by the method of largest remainders: their sum is exactly `count`.
    share_K, remainder_K = np.divmod(sizes_K * count, sizes_K.sum())
    share_K[np.argsort(-remainder_K, kind="stable")[: count - share_K.sum()]] += 1
    share_K = np.minimum(share_K, np.maximum(sizes_K - spare, 0))
    keys_N = np.random.Philox(seed).random_raw(len(labels_N))
    order_N = np.lexsort((keys_N, labels_N))
    first_K = np.cumsum(sizes_K) - sizes_K
    rank_N = np.arange(len(labels_N)) - first_K[labels_N[order_N]]
    chosen_N[order_N] = rank_N < share_K[labels_N[order_N]]
    return chosen_N


def assemble(
    *,
    name: str,
    source: str,
    train: ImageSet,
    validation: ImageSet | None = None,
    test: ImageSet | None = None,
    origin: str = ORIGIN,
    **notes: tuple[str, ...],
) -> Dataset:
    """A data set with a test split, even if its source has none.

    Without `test`, `validation` is the test split; without both, a stratified sixth of `train` (as in CIFAR) is held
    out for test, the same images at every call. `origin` says so. `notes` are those of `Dataset`.
    """
    if test is None and validation is not None:
        origin += ", the validation images used as test"
        test, validation = validation, None
    elif test is None:
        origin += ", a sixth of train held out as test"
        kept, held_out = split_train_validation(train.labels_N, fraction=1 / 6, seed=0)
        train, test = train.take(kept), train.take(held_out)
    return Dataset(name, source, train=train, test=test, validation=validation, origin=origin, **notes)
