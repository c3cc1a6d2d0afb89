"""Reading the text of compiled programs: one written by hand, and one that XLA:CPU compiles."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from cifar_jax.targets import hlo

TEXT = """\
HloModule jit_run, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, may-alias) }, \
entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (p: bf16[4,32,24], i: s32[]) -> bf16[1,32,24] {
  %p = bf16[4,32,24]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  ROOT %slice = bf16[1,32,24]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p, %i), dynamic_slice_sizes={1,32,24}
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %less = pred[]{:T(512)} constant(true)
}

%inner (state.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %copy.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) copy(%state.1)
}

%body (state.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.2 = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(128)}) parameter(0)
  %part = bf16[1,32,24]{2,1,0:T(8,128)(2,1)S(1)} fusion(%images, %state.2), kind=kLoop, calls=%fused
  ROOT %loop = (s32[], f32[8]{0}) while(%state.2), condition=%condition, body=%inner, \
backend_config={"known_trip_count":{"n":"5"},"x":[]}
}

ENTRY %main (a: f32[8], b: f32[8]) -> f32[8] {
  %images = bf16[4,32,24]{0,2,1:T(8,128)(2,1)} parameter(0)
  %outside = f32[8]{0:T(128)S(5)} copy(%images)
  ROOT %steps = (s32[], f32[8]{0}) while(%outside), condition=%condition, body=%body
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


def test_the_step_is_the_body_of_the_longest_loop_with_its_inner_loops(program):
    counts = {instruction.name: times for instruction, times in program.step(steps=8)}
    assert counts == {"state.2": 1, "part": 1, "loop": 1, "state.1": 5, "copy.1": 5}


def test_the_step_of_a_call_with_one_step_is_the_entry(program):
    assert {"images", "outside", "steps", "part", "copy.1"} <= {one.name for one, _ in program.step(steps=1)}


def test_aliases_operands_and_host_memory(program):
    assert program.donated == 2
    assert program.by_name["part"].operands == ("images", "state.2")
    assert [one.name for one in program.all() if one.in_host_memory] == ["outside"]
    assert [str(array) for array in program.by_name["state.2"].results] == ["s32[]", "f32[8]"]


@pytest.mark.parametrize(
    ("name", "lanes", "padded_elements"),
    [
        ("part", 24, 1 * 32 * 128),  # 24 -> 128 lanes
        ("images", 4, 32 * 24 * 128),  # the batch of 4 is in the lanes, 24 channels in 3 times 8 rows
        ("p", 24, 4 * 32 * 128),
    ],
)
def test_padding_of_tiled_layouts(program, name, lanes, padded_elements):
    (array,) = program.by_name[name].results
    assert array.lanes == lanes
    assert array.padded_bytes == 2 * padded_elements


@pytest.mark.parametrize("steps", [1, 5])
def test_a_program_of_this_machine(steps):
    @functools.partial(jax.jit, donate_argnums=0)
    def run(x, y):
        return lax.scan(lambda x, _: (jnp.sin(x @ y), None), x, length=steps)[0] if steps > 1 else jnp.sin(x @ y)

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    program = hlo.parse(run.lower(shape, shape).compile().as_text())
    assert program.donated == 1
    assert sum(array.bytes for array in program.computations[program.entry][0].results) == 4 * 64 * 64
    inside = (one for step, _ in program.step(steps) for name in hlo.called(step) for one in program.computations[name])
    assert sum(one.opcode == "dot" for one in inside) == 1
