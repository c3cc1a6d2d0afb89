"""Parameters that are split over devices (fully sharded data parallelism; ZeRO stage 3, Rajbhandari et al. 2020).

The `mesh.fsdp` devices along an axis of the mesh share one copy of each parameter whose path matches
`mesh.fsdp_parameters`: each has an equal part of it, of its momentum and of its averages. A step gathers the
parameters, and each device gets the gradient of its part, which it updates.
"""

import re

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.devices import DATA_AXIS, FSDP_AXIS, REPLICATED, split_along
from cifar_jax.experiment import Experiment

WHOLE = -1  # instead of a dimension: every device has the whole array


def split_dimensions(experiment: Experiment):
    """A tree like params: the dimension along which each is split, or `WHOLE`.

    It is the largest that divides by the number of devices; of equal ones the last. Without one, a parameter is whole.
    """
    devices, pattern = experiment.mesh.shape[FSDP_AXIS], experiment.config.mesh.fsdp_parameters

    def dimension(path, value) -> int:
        name = "/".join(key.key for key in path)
        possible = [(size, number) for number, size in enumerate(value.shape) if size % devices == 0]
        return max(possible)[1] if devices > 1 and re.search(pattern, name) and possible else WHOLE

    return jax.tree_util.tree_map_with_path(dimension, experiment.abstract_variables["params"])


def partition_specs(experiment: Experiment, state):
    """A tree like `state` (a `TrainState`): the partition spec of each array.

    Those that belong to a parameter, such as its momentum, have its path at the end of theirs, and are split like it.
    """
    dimensions = dict(jax.tree.leaves_with_path(split_dimensions(experiment)))

    def spec(path, _):
        ends = (path[start:] for start in range(len(path)))
        dimension = next((dimensions[end] for end in ends if end in dimensions), WHOLE)
        return REPLICATED if dimension == WHOLE else split_along(dimension)

    return jax.tree_util.tree_map_with_path(spec, state)


def gather(params, dimensions):
    """The whole parameters, from this device's parts (inside `split_over_devices`)."""

    def gathered(part, dimension):
        return part if dimension == WHOLE else lax.all_gather(part, FSDP_AXIS, axis=dimension, tiled=True)

    return jax.tree.map(gathered, params, dimensions)


def mean_gradients(gradients, dimensions):
    """The mean over all devices, of the parts that this device has.

    Args:
        gradients: of this device's loss; where `gather` was differentiated, summed over the devices that share a copy.
    """

    def mean(gradient, dimension):
        if dimension == WHOLE:
            return lax.pmean(gradient, DATA_AXIS)
        return lax.psum(gradient, DATA_AXIS[:-1]) / lax.axis_size(DATA_AXIS)

    return jax.tree.map(mean, gradients, dimensions)


def global_norm(tree, dimensions) -> jax.Array:
    """The L2 norm of all values of a tree like params, float32 (), the same on every device."""

    def square(part, dimension):
        of_part = jnp.square(part).sum()
        return of_part if dimension == WHOLE else lax.psum(of_part, FSDP_AXIS)

    return jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(square, tree, dimensions))))
