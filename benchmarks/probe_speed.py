"""Speed of the linear probe on the CPU beside scikit-learn's LogisticRegression(solver="lbfgs").

    python benchmarks/probe_speed.py [--examples 50000] [--features 2048] [--classes 10] [--l2 100 1 0.01]

Features are synthetic: a low-rank signal and noise behind a ReLU, each with a scale of its own, so that they are
non-negative and correlated as those of a ResNet are. Ours solves each problem from zero, the turning of the axes
included; the peer may start each from the solution of the one before. Then ours goes the whole path of 45 strengths,
with compilation, validation and refit; the time of the peer for a path is its mean over a few strengths, times 45,
without any of these: meant for the default, five strengths from the middles of five equal parts of the path.
Objectives are computed in float64 for both: the peer stops at `--peer-tolerance`, and may not have come as far down.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from training_speed import positive, surroundings

from cifar_jax.probe import logistic_regression

HERE = Path(__file__).resolve().parent
RANK = 200


def synthetic(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, C) and int32 (N,)."""
    random = np.random.default_rng(0)
    labels_N = random.integers(0, arguments.classes, arguments.examples, dtype=np.int32)
    spectrum_R = (1 + np.arange(RANK, dtype=np.float32)) ** -0.5
    means_KR = arguments.separation * random.standard_normal((arguments.classes, RANK), dtype=np.float32)
    hidden_NR = means_KR[labels_N] + random.standard_normal((arguments.examples, RANK), dtype=np.float32)
    mixing_RC = random.standard_normal((RANK, arguments.features), dtype=np.float32) / np.linalg.norm(spectrum_R)
    features_NC = (hidden_NR * spectrum_R) @ mixing_RC - np.float32(0.5)
    features_NC += random.standard_normal(features_NC.shape, dtype=np.float32)
    np.maximum(features_NC, 0, out=features_NC)
    features_NC *= random.gamma(1.0, 0.5, arguments.features).astype(np.float32)
    return features_NC, labels_N


def objective(features_NC, labels_N, kernel_CK, bias_K, l2: float) -> float:
    """Mean cross-entropy + l2 / 2 * (sum of the kernel's squares) in float64, ten thousand rows at a time."""
    kernel_CK, bias_K = np.asarray(kernel_CK, np.float64), np.asarray(bias_K, np.float64)
    loss_sum = 0.0
    for start in range(0, len(labels_N), 10_000):
        logits_NK = features_NC[start : start + 10_000].astype(np.float64) @ kernel_CK + bias_K
        true_N = logits_NK[np.arange(len(logits_NK)), labels_N[start : start + 10_000]]
        loss_sum += (np.logaddexp.reduce(logits_NK, axis=1) - true_N).sum()
    return loss_sum / len(labels_N) + l2 / 2 * (kernel_CK**2).sum()


def timed(call: Callable) -> tuple[object, dict]:
    """What `call` returns, and its seconds; those of the CPU, of all threads, tell the same on a busy machine."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def ours(features_NC, labels_N, arguments: argparse.Namespace) -> list[dict]:
    def solve(l2):
        found = logistic_regression.fit(features_NC, labels_N, l2=l2, num_classes=arguments.classes)
        return np.asarray(found.kernel_CK), np.asarray(found.bias_K)

    solve(arguments.l2[0])  # compiles
    measured = []
    for l2 in arguments.l2:
        head, seconds = timed(lambda l2=l2: solve(l2))
        measured.append({"l2": l2, **seconds, "objective": objective(features_NC, labels_N, *head, l2)})
    return measured


def scikit_learn(features_NC, labels_N, arguments: argparse.Namespace) -> list[dict]:
    model = LogisticRegression(
        tol=arguments.peer_tolerance, max_iter=arguments.peer_max_iterations, warm_start=True, solver="lbfgs"
    )
    measured = []
    for l2 in arguments.l2:
        model.set_params(C=1 / (l2 * len(labels_N)))
        _, seconds = timed(lambda: model.fit(features_NC, labels_N))
        reached = objective(features_NC, labels_N, model.coef_.T, model.intercept_, l2)
        measured.append({"l2": l2, **seconds, "objective": reached, "iterations": int(model.n_iter_[0])})
    return measured


def whole_path(features_NC, labels_N, arguments: argparse.Namespace) -> dict:
    """The published protocol: a tenth held out for choosing, then a fit on all."""
    held_out = len(labels_N) // 10
    train, validation = (features_NC[held_out:], labels_N[held_out:]), (features_NC[:held_out], labels_N[:held_out])

    def solve():
        found = logistic_regression.fit_path(*train, *validation, num_classes=arguments.classes)
        jax.block_until_ready(found.kernel_CK)
        return found

    found, seconds = timed(solve)
    iterations = sum(entry["iterations"] for entry in found.path)
    return {**seconds, "iterations": iterations, "chosen_l2": found.l2, "path": found.path}


def of_path(measured: dict, unit: str) -> dict:
    """Seconds of all 45 strengths: ours as measured, the peer's estimated from its few."""
    peer = len(logistic_regression.L2_VALUES) * statistics.fmean(found[unit] for found in measured["scikit_learn"])
    mine = measured["whole_path"][unit]
    return {"ours": mine, "scikit_learn_estimated": peer, "ratio": peer / mine}


def table(measured: dict) -> str:
    rows = [f"{'l2':>8}{'ours':>9}{'sklearn':>9}{'ratio':>8}{'of CPU':>8}   seconds; objective of the peer less ours"]
    for mine, peer in zip(measured["ours"], measured["scikit_learn"], strict=True):
        ratios = [peer[unit] / mine[unit] for unit in ("seconds", "cpu_seconds")]
        times = f"{mine['l2']:8.2g}{mine['seconds']:9.2f}{peer['seconds']:9.2f}{ratios[0]:8.1f}{ratios[1]:8.1f}"
        rows.append(f"{times}   {peer['objective'] - mine['objective']:+.1e} nats")
    for unit, path in measured["path_of_45"].items():
        times = f"ours {path['ours']:.0f}, the peer about {path['scikit_learn_estimated']:.0f}"
        rows.append(f"45 strengths, {unit}: {times}, {path['ratio']:.1f} times as much")
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=positive, default=50_000)
    parser.add_argument("--features", type=positive, default=2048)
    parser.add_argument("--classes", type=positive, default=10)
    parser.add_argument("--separation", type=float, default=0.4, help="distance of the classes: how hard it is")
    parser.add_argument(
        "--l2", type=float, nargs="+", default=logistic_regression.L2_VALUES[4::9][::-1], help="strongest first"
    )
    parser.add_argument("--peer-tolerance", type=float, default=1e-4, help="largest entry of the gradient")
    parser.add_argument("--peer-max-iterations", type=positive, default=20_000)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "probe_speed.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    before = surroundings()
    features_NC, labels_N = synthetic(arguments)
    measured = {}
    for measure in (ours, whole_path, scikit_learn):
        print(f"{measure.__name__}: at work", file=sys.stderr)
        measured[measure.__name__] = measure(features_NC, labels_N, arguments)
    measured["path_of_45"] = {unit: of_path(measured, unit) for unit in ("seconds", "cpu_seconds")}
    report = {
        **before,
        "versions": {"jax": jax.__version__, "scikit-learn": sklearn.__version__},
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        **measured,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{table(measured)}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
