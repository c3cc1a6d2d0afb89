"""An architecture as a table: layers, shapes, parameters, FLOPs."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict


def layers(model: nn.Module, image_size: int) -> list[dict]:
    """One row for each layer with parameters, in the order in which they run; nothing is computed.

    Each row has `name`, `output_shape` (without the batch), `parameters` ({path: shape}), `parameter_count` and `flops`
    (of the forward pass of one image: two for each multiply-add of convolutions and dense layers; norms, activations
    and pooling are not counted, as is usual).
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    output_shapes = {}

    def note_output(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if context.method_name == "__call__":
            output_shapes[context.module.path] = output.shape[1:]
        return output

    with nn.intercept_methods(note_output):
        params = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)["params"]
    parameters = {}  # by the path of the module that holds them
    for path, value in flatten_dict(params).items():
        parameters.setdefault(path[:-1], {})[path[-1]] = list(value.shape)
    return [
        _row("/".join(path), shape, parameters[path]) for path, shape in output_shapes.items() if path in parameters
    ]


def _row(name: str, output_shape: tuple[int, ...], parameters: dict[str, list[int]]) -> dict:
    multiply_adds = math.prod(output_shape[:-1]) * math.prod(parameters["kernel"]) if "kernel" in parameters else 0
    return {
        "name": name,
        "output_shape": list(output_shape),
        "parameters": parameters,
        "parameter_count": sum(math.prod(shape) for shape in parameters.values()),
        "flops": 2 * multiply_adds,
    }
