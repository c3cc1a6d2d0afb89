"""Rules for parameters: ordered pairs of a regular expression and a number, of which the first that matches decides."""

import re
from collections.abc import Sequence

import jax

from cifar_jax.errors import UsageError


def multipliers(rules: Sequence[tuple[str, float]], params):
    """A tree like `params` of what each parameter's learning rate is multiplied by; 0 freezes it.

    Args:
        rules: `config.optimizer.rules`; expressions are searched for in paths such as 'stage1_block1/conv1/kernel'.
        params: nested dicts of anything.

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


def frozen_layers(rules: Sequence[tuple[str, float]], params) -> tuple[str, ...]:
    """Paths of the layers whose parameters are all frozen, e.g. 'stage1_block1/norm1'."""
    trained, layers = set(), []
    for path, value in jax.tree_util.tree_leaves_with_path(multipliers(rules, params)):
        layer = "/".join(key.key for key in path[:-1])
        layers.append(layer)
        if value:
            trained.add(layer)
    return tuple(dict.fromkeys(layer for layer in layers if layer not in trained))
