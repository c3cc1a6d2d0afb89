import numpy as np
import pytest

from cifar_jax.data import ImageSet, split_train_validation
from cifar_jax.data.splits import assemble, stratified_subset


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_splits_into_exactly_45000_and_5000_stratified(classes):
    labels_N = np.random.default_rng(0).permutation(np.arange(50_000) % classes)
    train, validation = split_train_validation(labels_N, fraction=0.1, seed=0)
    assert (len(train), len(validation)) == (45_000, 5_000)
    np.testing.assert_array_equal(np.bincount(labels_N[validation]), 5_000 // classes)


def test_remainders_are_handed_out_so_that_the_sum_is_exact():
    labels_N = np.repeat(np.arange(30), 7)
    _, validation = split_train_validation(labels_N, fraction=0.1, seed=0)
    assert len(validation) == 21
    counts = np.bincount(labels_N[validation], minlength=30)
    assert set(counts) == {0, 1}
    assert len(stratified_subset(labels_N, count=101, seed=0)) == 101


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 1 / 6, 0.5, 0.99])
def test_any_sizes_are_split_completely_and_within_one_of_their_share(fraction):
    sizes = [1, 2, 3, 10, 57, 0, 400]
    labels_N = np.random.default_rng(1).permutation(np.repeat(np.arange(7), sizes))
    train, validation = split_train_validation(labels_N, fraction=fraction, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(sum(sizes)))
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()
    counts = np.bincount(labels_N[validation], minlength=7)
    for size, count in zip(sizes, counts, strict=True):
        assert abs(count - size * fraction) <= 1
        assert size == 0 or size - count >= 1


def test_the_split_depends_on_the_seed_alone_and_never_changes():
    labels_N = np.arange(40) % 4
    first, again = (split_train_validation(labels_N, fraction=0.1, seed=7)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [tuple(split_train_validation(labels_N, fraction=0.1, seed=seed)[1]) for seed in range(20)]
    assert len(set(others)) > 15
    # Recorded: a change moves images between training and validation of every finished run.
    assert first.tolist() == [8, 13, 14, 15]


def test_subset_has_the_count_and_keeps_the_shares():
    labels_N = np.repeat([0, 1, 2], [100, 50, 50])
    chosen = stratified_subset(labels_N, count=20, seed=0)
    np.testing.assert_array_equal(np.bincount(labels_N[chosen]), [10, 5, 5])
    np.testing.assert_array_equal(stratified_subset(labels_N, count=10**6, seed=0), np.arange(200))


def _images(count):
    return ImageSet(np.zeros((count, 2, 2, 3), np.uint8), np.arange(count, dtype=np.int32) % 2, ("a", "b"))


def test_test_split_is_the_sources_own_else_validation_else_a_sixth():
    place = {"name": "n", "source": "s", "train": _images(60)}
    own = assemble(**place, validation=_images(4), test=_images(6))
    assert (len(own.train), len(own.validation), len(own.test)) == (60, 4, 6)
    assert own.origin == "from the splits of the source"
    from_validation = assemble(**place, validation=_images(4), test=None)
    assert (len(from_validation.train), from_validation.validation, len(from_validation.test)) == (
        60,
        None,
        4,
    )
    assert from_validation.origin == "from the splits of the source, the validation images used as test"
    held_out = assemble(**place, validation=None, test=None)
    assert (len(held_out.train), held_out.validation, len(held_out.test)) == (50, None, 10)
    assert held_out.origin == "from the splits of the source, a sixth of train held out as test"
