"""`--mode inspect` of every recipe, made small."""

import io

import pytest
from rich.console import Console

from cifar_jax.config import load_config, recipes
from cifar_jax.modes.inspect import inspect

SMALL = {"model.image_size": 32, "train.batch_size": 64}
SMALL_MODELS = {
    **{name: {"model.widths": (8, 8)} for name in ("airbench94", "airbench96", "cnn")},
    "resnet": {"model.stage_sizes": (1, 1, 1, 1), "model.width": 8},
    "wide_resnet": {"model.stage_sizes": (1, 1), "model.width": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_inspected(name):
    tables = inspect(load_config(name, **SMALL, **SMALL_MODELS[load_config(name).model.name]))
    output = io.StringIO()
    Console(width=120, file=output).print(*tables)
    text = output.getvalue()
    assert "parameters" in text and "learning rate" in text and "temporaries of a step" in text
