import math

import numpy as np
import pytest
from scipy import stats

from cifar_jax.metrics import paired


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (0, 5), (5, 0), (3, 3), (10, 25), (121, 59), (400, 420)]
)
def test_mcnemar_counts_fair_coins(only_first, only_second):
    n, less = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(less + 1)) / 2**n
    assert paired.mcnemar(only_first, only_second) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_approaches_the_chi_squared_form_with_many_images():
    b, c = 1100, 1000
    chi_squared = stats.chi2.sf((abs(b - c) - 1) ** 2 / (b + c), df=1)
    assert paired.mcnemar(b, c) == pytest.approx(chi_squared, rel=0.02)


@pytest.mark.parametrize("rates", [(0.9, 0.85), (0.5, 0.5), (0.99, 0.6)])
def test_the_bootstrap_interval_equals_scipy(rates):
    random = np.random.default_rng(0)
    first_N, second_N = (random.random(400) < rate for rate in rates)
    result = paired.compare(first_N, second_N)
    expected = stats.bootstrap(
        (first_N.astype(float), second_N.astype(float)),
        lambda x, y, axis: (y - x).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=random,
    ).confidence_interval
    assert result["difference"] == pytest.approx(second_N.mean() - first_N.mean())
    assert result["interval"] == pytest.approx(tuple(expected), abs=0.004)  # the intervals are 0.06 to 0.14 wide


def test_swapping_the_classifiers_negates_the_difference():
    random = np.random.default_rng(1)
    first_N, second_N = random.random(1000) < 0.8, random.random(1000) < 0.7
    forward, backward = paired.compare(first_N, second_N), paired.compare(second_N, first_N)
    assert (forward["only_first"], forward["only_second"]) == (backward["only_second"], backward["only_first"])
    assert forward["difference"] == -backward["difference"] and forward["p_value"] == pytest.approx(backward["p_value"])
    assert forward["interval"] == pytest.approx(tuple(-bound for bound in backward["interval"][::-1]), abs=0.004)


def test_equal_classifiers_do_not_differ():
    result = paired.compare(np.array([True, False, True]), np.array([True, False, True]))
    expected = {"n": 3, "only_first": 0, "only_second": 0, "difference": 0.0, "interval": (0.0, 0.0), "p_value": 1.0}
    assert result == expected
