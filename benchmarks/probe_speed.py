"""Speed of the linear probe on the CPU, compared with scikit-learn's LogisticRegression(solver="lbfgs").

    python benchmarks/probe_speed.py [--examples 50000] [--features 2048] [--classes 10] [--l2 100 1 0.01]

Features are synthetic: a low-rank signal plus noise behind a ReLU, each feature with a random scale, so that they are
non-negative and correlated like those of a ResNet. Ours solves each problem from zero, including the rotation of the
axes; scikit-learn starts from the previous solution. Ours is also timed on the whole path of 45 L2 strengths, with
compilation, validation and refit. The time of scikit-learn for the path is estimated as 45 times its mean over
`--l2`, without validation and refit; the default has five strengths, from the middles of five equal parts of the
path. Objectives are computed in float64 for both, because scikit-learn stops at `--peer-tolerance` and may be less
converged.
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
    """Mean cross-entropy + l2 / 2 * ||kernel||^2 in float64, in chunks of 10,000 rows."""
    kernel_CK, bias_K = np.asarray(kernel_CK, np.float64), np.asarray(bias_K, np.float64)
    loss_sum = 0.0
    for start in range(0, len(labels_N), 10_000):
        logits_NK = features_NC[start : start + 10_000].astype(np.float64) @ kernel_CK + bias_K
        true_N = logits_NK[np.arange(len(logits_NK)), labels_N[start : start + 10_000]]
        loss_sum += (np.logaddexp.reduce(logits_NK, axis=1) - true_N).sum()
    return loss_sum / len(labels_N) + l2 / 2 * (kernel_CK**2).sum()


def timed(call: Callable) -> tuple[object, dict]:
    """The result of `call`, with wall-clock seconds and CPU seconds of all threads (robust to other load)."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def ours(features_NC, labels_N, arguments: argparse.Namespace) -> list[dict]:
    def solve(l2):
        head = logistic_regression.fit(features_NC, labels_N, l2=l2, num_classes=arguments.classes)
        return np.asarray(head.kernel_CK), np.asarray(head.bias_K)

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
    """Fits all L2 strengths, chooses one on a held-out tenth, then refits on all examples."""
    held_out = len(labels_N) // 10
    train, validation = (features_NC[held_out:], labels_N[held_out:]), (features_NC[:held_out], labels_N[:held_out])

    def solve():
        head = logistic_regression.fit_path(*train, *validation, num_classes=arguments.classes)
        jax.block_until_ready(head.kernel_CK)
        return head

    head, seconds = timed(solve)
    iterations = sum(entry["iterations"] for entry in head.path)
    return {**seconds, "iterations": iterations, "chosen_l2": head.l2, "path": head.path}


def path_times(measured: dict, unit: str) -> dict:
    """Seconds for all 45 strengths: measured for ours, estimated for scikit-learn."""
    peer = len(logistic_regression.L2_VALUES) * statistics.fmean(fit[unit] for fit in measured["scikit_learn"])
    mine = measured["whole_path"][unit]
    return {"ours": mine, "scikit_learn_estimated": peer, "ratio": peer / mine}


def table(measured: dict) -> str:
    rows = [f"{'l2':>8}{'ours':>9}{'sklearn':>9}{'ratio':>8}{'CPU':>8}   seconds; objective of scikit-learn - ours"]
    for mine, peer in zip(measured["ours"], measured["scikit_learn"], strict=True):
        ratios = [peer[unit] / mine[unit] for unit in ("seconds", "cpu_seconds")]
        times = f"{mine['l2']:8.2g}{mine['seconds']:9.2f}{peer['seconds']:9.2f}{ratios[0]:8.1f}{ratios[1]:8.1f}"
        rows.append(f"{times}   {peer['objective'] - mine['objective']:+.1e} nats")
    for unit, path in measured["path_of_45"].items():
        times = f"ours {path['ours']:.0f}, scikit-learn about {path['scikit_learn_estimated']:.0f}"
        rows.append(f"45 strengths, {unit}: {times}, ratio {path['ratio']:.1f}")
    return "\n".join(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=positive, default=50_000)
    parser.add_argument("--features", type=positive, default=2048)
    parser.add_argument("--classes", type=positive, default=10)
    parser.add_argument("--separation", type=float, default=0.4, help="distance between class means")
    parser.add_argument(
        "--l2", type=float, nargs="+", default=logistic_regression.L2_VALUES[4::9][::-1], help="strongest first"
    )
    parser.add_argument(
        "--peer-tolerance", type=float, default=1e-4, help="largest entry of the gradient at which scikit-learn stops"
    )
    parser.add_argument("--peer-max-iterations", type=positive, default=20_000)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "probe_speed.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    before = surroundings()
    features_NC, labels_N = synthetic(arguments)
    measured = {}
    for measure in (ours, whole_path, scikit_learn):
        print(f"{measure.__name__}: running", file=sys.stderr)
        measured[measure.__name__] = measure(features_NC, labels_N, arguments)
    measured["path_of_45"] = {unit: path_times(measured, unit) for unit in ("seconds", "cpu_seconds")}
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
