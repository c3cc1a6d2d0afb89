"""Freezing: which parameters `config.optimizer.rules` trains, and which running statistics stay with frozen ones."""

import contextlib
import re
from collections.abc import Sequence

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from cifar_jax.errors import UsageError

Rules = Sequence[tuple[str, float]]


def multipliers(rules: Rules, params):
    """A tree like `params` with the multiplier of each parameter's learning rate; 0 freezes.

    Args:
        rules: pairs of a regular expression, searched for in paths such as 'stage1_block1/conv1/kernel', and a
            multiplier; the first match decides.

    Raises:
        UsageError: a parameter that no rule matches, or a rule that no parameter matches.
    """
    used = set()

    def multiplier(path, _) -> float:
        name = "/".join(key.key for key in path)
        for number, (pattern, value) in enumerate(rules):
            if re.search(pattern, name):
                used.add(number)
                return float(value)
        raise UsageError(f"--config.optimizer.rules: no rule matches the parameter {name}; end with ('.*', 1.0)")

    matched = jax.tree_util.tree_map_with_path(multiplier, params)
    idle = [pattern for number, (pattern, _) in enumerate(rules) if number not in used and pattern != ".*"]
    if idle:
        raise UsageError(f"--config.optimizer.rules: {idle[0]!r} matches no parameter; see --mode inspect for names")
    return matched


def frozen_layers(rules: Rules, params) -> tuple[str, ...]:
    """Paths of the layers whose parameters are all frozen, e.g. 'stage1_block1/norm1'."""
    by_path = flatten_dict(multipliers(rules, params))
    trained = {path[:-1] for path, value in by_path.items() if value}
    return tuple(dict.fromkeys("/".join(path[:-1]) for path in by_path if path[:-1] not in trained))


def frozen_norms(rules: Rules, variables: dict) -> tuple[str, ...]:
    """Paths of the frozen layers with running statistics."""
    norms = {"/".join(path[:-1]) for path in flatten_dict(variables.get("batch_stats", {}))}
    return tuple(layer for layer in frozen_layers(rules, variables["params"]) if layer in norms)


def keep_statistics(norms: Sequence[str]) -> contextlib.AbstractContextManager:
    """The BatchNorms at these paths normalize with their running statistics in training too, and do not update them."""

    def evaluate_frozen(call, arguments, keywords, context):
        if isinstance(context.module, nn.BatchNorm) and "/".join(context.module.path) in norms:
            keywords = keywords | {"use_running_average": True}
        return call(*arguments, **keywords)

    return nn.intercept_methods(evaluate_frozen)
