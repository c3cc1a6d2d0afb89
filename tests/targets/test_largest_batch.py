"""The search for the largest batch, against memories of every size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax.targets.largest_batch import largest_batch


@settings(deadline=None)  # a busy machine is no failure
@given(
    largest=st.integers(0, 50_000),
    start=st.integers(1, 2000).map(lambda n: 8 * n),
    guess=st.integers(1, 60_000),
    multiple=st.sampled_from([8, 64]),
    limit=st.integers(64, 45_000),
)
def test_the_bracket_is_right_narrow_and_cheap(largest, start, guess, multiple, limit):
    tried = []

    def fits(batch_size: int) -> bool:
        tried.append(batch_size)
        return batch_size <= largest

    start = min(start, limit)
    known = {"fitting": start, "failing": None} if start <= largest else {"fitting": 0, "failing": start}
    low, high = largest_batch(fits, **known, guess=guess, multiple=multiple, limit=limit)
    assert low <= largest
    assert high is None or high > largest
    assert all(size % multiple == 0 and 0 < size <= limit for size in tried)
    if high is None:
        assert low > limit - multiple
    else:
        assert high - low <= max(multiple, low // 8)
    assert len(tried) <= 25 and len(set(tried)) == len(tried)


def test_a_good_guess_takes_two_compilations():
    tried = []
    bracket = largest_batch(
        lambda size: tried.append(size) or size <= 8500,
        fitting=512,
        failing=None,
        guess=8200,
        multiple=8,
        limit=45_000,
    )
    assert bracket == (8200, 9224) and len(tried) == 2
