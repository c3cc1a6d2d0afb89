"""An architecture as a table: layers, shapes, parameters, FLOPs."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def layers(model: nn.Module, image_size: int) -> list[dict]:
    """One row for each layer with parameters, in the order in which they run; nothing is computed.

    Each row has `name`, `output_shape` (without the batch), `parameters` ({path: shape}), `parameter_count` and `flops`
    (of the forward pass of one image: two for each multiply-add of convolutions and dense layers; norms, activations
    and pooling are not counted, as is usual).
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    output_shapes = {}

    def note_output(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if context.method_name == "__call__":
            output_shapes[context.module.path] = output.shape[1:]
        return output

    with nn.intercept_methods(note_output):
        params = jax.eval_shape(functools.partial(model.init, train=False), key, images)["params"]
    return [
        _row("/".join(path), shape, _inside(params, path))
        for path, shape in output_shapes.items()
        if path and _inside(params, path)
    ]


def _inside(params: dict, path: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that a module itself holds, not those of modules within it."""
    for name in path:
        params = params.get(name, {})
    return {name: value.shape for name, value in params.items() if not isinstance(value, dict)}


def _row(name: str, output_shape: tuple[int, ...], parameters: dict[str, tuple[int, ...]]) -> dict:
    multiply_adds = math.prod(output_shape[:-1]) * math.prod(parameters["kernel"]) if "kernel" in parameters else 0
    return {
        "name": name,
        "output_shape": list(output_shape),
        "parameters": {name: list(shape) for name, shape in parameters.items()},
        "parameter_count": sum(math.prod(shape) for shape in parameters.values()),
        "flops": 2 * multiply_adds,
    }
