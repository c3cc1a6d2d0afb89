"""The figure of the corruptions shows the numbers of metrics.json."""

from cifar_jax.report import robustness


def test_every_accuracy_and_every_mean_is_in_the_figure(drawn, tmp_path):
    metrics = lambda share: {"accuracy": share, "ece": share / 10, "temperature_scaled": {"ece": share / 20}}  # noqa: E731
    sets = {
        "gaussian_noise": [metrics(0.9 - 0.1 * s) for s in range(5)],
        "fog": [metrics(0.8 - 0.1 * s) for s in range(5)],
    }
    result = {
        "data": "CIFAR-10",
        "suite": "two corruptions",
        "tta": False,
        "temperature": 0.5,
        "clean": metrics(0.95),
        "sets": sets,
        "severities": [metrics(0.85 - 0.1 * s) for s in range(5)],
        "mean": {"n": 10_000, "accuracy": 0.65, "accuracy_interval": [0.64, 0.66]},
    }
    robustness.corruptions(result, run="run", path=tmp_path / "corruptions.png")
    (figure,) = drawn
    above, below = figure.axes
    shown = [text.get_text() for text in above.texts]
    assert shown[:6] == ["90.0", "80.0", "70.0", "60.0", "50.0", "70.0"]
    assert shown[12:] == ["85.0", "75.0", "65.0", "55.0", "45.0", "65.0"]
    assert [label.get_text() for label in above.get_yticklabels()] == ["gaussian noise", "fog", "mean"]
    assert "65.0 [64.0, 66.0]" in above.get_title(loc="left") and "95.0" in above.get_title(loc="left")
    as_trained, scaled = (line.get_ydata() for line in below.lines)
    assert len(as_trained) == 6 and abs(as_trained[0] - 9.5) < 1e-9 and abs(scaled[5] - 2.25) < 1e-9
