"""The optimizer and its learning-rate schedule, from the configuration."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cifar_jax.errors import UsageError
from cifar_jax.models.freezing import multipliers


@dataclasses.dataclass(frozen=True, order=True)
class Rule:
    """How one parameter is updated."""

    multiplier: float  # of its learning rate; 0 = frozen
    by_muon: bool  # else by the optimizer `optimizer.name`; by AdamW if that is muon, by SGD if it is muon_sgd
    in_head: bool  # trains from the first step, during `schedule.head_epochs` too
    # Trains only during `schedule.whiten_bias_epochs`. Not hashed: the order of `set(rules)` orders the program.
    is_early: bool = dataclasses.field(default=False, hash=False)

    def __repr__(self) -> str:
        """Part of the names of a checkpoint's arrays: where `is_early` is False, as in checkpoints without it."""
        early = ", is_early=True" if self.is_early else ""
        return f"Rule(multiplier={self.multiplier}, by_muon={self.by_muon}, in_head={self.in_head}{early})"


class Coefficients(NamedTuple):
    """What scales the updates of one rule: floats, or float32 arguments of a program that all their values share."""

    rate: float | jax.Array  # the peak of its learning rate
    decay: float | jax.Array  # its weight decay


def learning_rate_schedule(schedule, *, updates_per_epoch: float, total_updates: int) -> optax.Schedule:
    """The multiplier (0..1) of the peak learning rate at each update: linear warm-up, then `schedule.name`.

    `schedule` is `config.schedule`.
    """

    def in_updates(name):
        """The value of NAME_steps, NAME_epochs or NAME_percent as a number of updates, or a list of them."""
        for unit, factor in (("steps", 1.0), ("epochs", updates_per_epoch), ("percent", total_updates / 100)):
            value = schedule[f"{name}_{unit}"]
            if value:
                return [round(v * factor) for v in value] if isinstance(value, tuple) else round(value * factor)
        return 0

    warmup = in_updates("warmup")
    rest = max(total_updates - warmup, 1)
    if schedule.name == "cosine":
        after = optax.cosine_decay_schedule(1.0, rest, alpha=schedule.final_fraction)
    elif schedule.name == "linear":
        after = optax.linear_schedule(1.0, schedule.final_fraction, rest)
    elif schedule.name == "step":
        boundaries = {step - warmup: schedule.decay_factor for step in in_updates("decay")}
        after = optax.piecewise_constant_schedule(1.0, boundaries)
    else:
        after = optax.constant_schedule(1.0)
    if not warmup:
        return after
    before = optax.linear_schedule(1 / warmup, 1.0, warmup - 1)
    if schedule.initial_fraction:
        before = optax.linear_schedule(schedule.initial_fraction, 1.0, warmup)
    return optax.join_schedules([before, after], [warmup])


def match_rules(settings, params, *, early_layer: str = ""):
    """A tree like `params` of `Rule`; for errors see `models.freezing.multipliers`.

    With `settings.layer_decay` below 1 the rates shrink from the head towards the input, by this factor per stage
    (Howard and Ruder, Universal language model fine-tuning, 2018).
    """
    stages = max(map(_stage, params))

    def rule(path, multiplier, value) -> Rule:
        layer = path[0].key
        in_head = layer == "head"
        distance = 0 if in_head else 1 if layer.startswith("final_") else stages - _stage(layer) + 1
        by_muon = settings.name in ("muon", "muon_sgd") and value.ndim == 4 and value.shape[-1] > 1
        return Rule(multiplier * settings.layer_decay**distance, by_muon, in_head, layer == early_layer)

    return jax.tree_util.tree_map_with_path(rule, multipliers(settings.rules, params), params)


def _stage(layer: str) -> int:
    """The number of the stage of a top-level layer, by the names of `cifar_jax.models`; 0 before the first."""
    match = re.match(r"(?:stage|block)(\d+)_", layer)
    return int(match[1]) if match else 0


def coefficients(settings, rules) -> dict[Rule, Coefficients]:
    """Those of each rule that trains, from `settings` (`config.optimizer`) and the tree of `match_rules`."""
    others = {"muon": settings.adam_learning_rate, "muon_sgd": settings.sgd_learning_rate}
    uniform = settings.uniform_decay and settings.name in ("sgd", "muon_sgd")

    def of(rule: Rule) -> Coefficients:
        peak = settings.learning_rate if rule.by_muon else others.get(settings.name, settings.learning_rate)
        return Coefficients(
            rate=peak * rule.multiplier, decay=settings.weight_decay / (rule.multiplier if uniform else 1.0)
        )

    return {rule: of(rule) for rule in set(jax.tree.leaves(rules)) if rule.multiplier}


def build(
    settings,
    params,
    *,
    schedule: optax.Schedule,
    head_updates: int = 0,
    whiten_bias_updates: int = 0,
    given: Mapping[Rule, Coefficients] | None = None,
    norm: Callable = optax.tree.norm,
) -> optax.GradientTransformation:
    """The optax optimizer of `settings` (`config.optimizer`) for parameters shaped like `params`.

    Weight decay acts on kernels only, unless `uniform_decay` is set. Frozen parameters do not count in the norm that
    `clip_norm` bounds. In the first `head_updates` updates, only the head trains. Unless `whiten_bias_updates` is 0,
    the rate of the layer `whiten_bias` falls linearly to 0 in that number of updates, whatever the schedule. Learning
    rates and weight decay are those of `settings`, or `given`; no weight decay in `settings` is none in `given`. The
    `norm` is that of a tree like `params`.
    """
    if settings.name == "lbfgs":
        return optax.set_to_zero()  # the probe is fitted outside of the training step: see `probe/fit_head.py`
    if whiten_bias_updates and "whiten_bias" not in params:
        raise UsageError("--config.schedule.whiten_bias_epochs: this model has no layer whiten_bias; leave it out")
    rules = match_rules(settings, params, early_layer="whiten_bias" if whiten_bias_updates else "")
    given = coefficients(settings, rules) if given is None else given
    by_sgd = settings.name in ("sgd", "muon_sgd")

    def early_schedule(step):
        """Exactly 0 in the end: compiled, `optax.linear_schedule` may leave 1e-8."""
        return jnp.where(step < whiten_bias_updates, 1 - step / whiten_bias_updates, 0.0)

    def transformation(rule: Rule) -> optax.GradientTransformation:
        if rule.multiplier == 0:
            return optax.set_to_zero()

        def rate(step):
            moves = jnp.logical_or(step >= head_updates, rule.in_head)
            return given[rule].rate * (early_schedule if rule.is_early else schedule)(step) * moves

        if rule.by_muon:
            return _muon(rate, momentum=settings.momentum, sums_gradients=settings.name == "muon_sgd")
        are_kernels = functools.partial(jax.tree.map, lambda value: value.ndim > 1)
        decays = None if by_sgd and settings.uniform_decay else are_kernels
        decay = optax.add_decayed_weights(given[rule].decay if settings.weight_decay else 0.0, mask=decays)
        if by_sgd:
            momentum = settings.momentum if settings.name == "sgd" else settings.sgd_momentum
            return optax.chain(decay, optax.trace(momentum, nesterov=True), optax.scale_by_learning_rate(rate))
        b1 = 0.9 if settings.name == "muon" else settings.momentum
        return optax.chain(optax.scale_by_adam(b1=b1), decay, optax.scale_by_learning_rate(rate))

    optimizer = optax.partition({rule: transformation(rule) for rule in set(jax.tree.leaves(rules))}, rules)
    if settings.clip_norm:
        frozen = jax.tree.map(lambda rule: rule.multiplier == 0, rules)
        clip = _clip(settings.clip_norm, norm)
        optimizer = optax.chain(optax.masked(optax.set_to_zero(), frozen), clip, optimizer)
    if settings.accumulate_steps > 1:
        optimizer = optax.MultiSteps(optimizer, settings.accumulate_steps)
    return optimizer


def _clip(largest: float, norm: Callable) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`, with this `norm` of the gradients."""

    def clipped(gradients, _):
        scale = jnp.minimum(1.0, largest / norm(gradients))
        return jax.tree.map(lambda gradient: scale * gradient, gradients)

    return optax.stateless(clipped)


def _muon(rate: optax.Schedule, *, momentum: float, sums_gradients: bool) -> optax.GradientTransformation:
    """Muon on convolution kernels (height x width x in, out), rescaled to a fixed norm instead of decayed.

    K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; three Newton-Schulz iterations and
    the fixed norm as in cifar10-airbench.

    Args:
        sums_gradients: the momentum is a sum, as in cifar10-airbench; else Optax's average without its initial bias,
            which weighs the latest gradient a little more in the first steps.
    """
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    of_all = functools.partial(jax.tree.map, lambda _: dimensions)
    settings = {"beta": 0.0, "nesterov": False} if sums_gradients else {"beta": momentum}
    orthogonalize = optax.contrib.scale_by_muon(ns_steps=3, weight_dimension_numbers=of_all, **settings)
    if sums_gradients:
        orthogonalize = optax.chain(optax.trace(momentum, nesterov=True), orthogonalize)

    def rescaled(update, kernel):
        """The kernel gets Frobenius norm sqrt(out) before the update is added."""
        return update + kernel * (math.sqrt(kernel.shape[-1]) / (jnp.linalg.norm(kernel) + 1e-7) - 1)

    fixed_norm = optax.stateless_with_tree_map(rescaled)
    return optax.chain(orthogonalize, optax.scale_by_learning_rate(rate), fixed_norm)
