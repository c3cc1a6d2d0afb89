"""The facts of programs written by hand: a loop of a GPU's kernels, and one of a TPU."""

from types import SimpleNamespace

import pytest

from cifar_jax.targets import catalog, facts
from cifar_jax.targets.programs import Compiled, Step

GPU = """\
HloModule jit_run, input_output_alias={ {0}: (0, {}, may-alias) }, entry_computation_layout={()->()}

%pick (split: u8[1000,8], row: s32[]) -> u8[4,8] {
  %split = u8[1000,8]{1,0} parameter(0)
  %row = s32[] parameter(1)
  ROOT %rows = u8[4,8]{1,0} gather(%split, %row), slice_sizes={1,8}
}

%condition (x: (u8[1000,8])) -> pred[] {
  ROOT %more = pred[] constant(true)
}

%body (x.1: (u8[1000,8])) -> (u8[1000,8]) {
  %x.1 = (u8[1000,8]{1,0}) parameter(0)
  %all = u8[1000,8]{1,0} get-tuple-element(%x.1), index=0
  %zero = s32[] constant(0)
  %batch = u8[4,8]{1,0} fusion(%all, %zero), kind=kLoop, calls=%pick
  %images = bf16[4,8]{1,0} convert(%batch)
  %one = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%images), window={size=3x3}, custom_call_target="__cudnn$convForward"
  %two = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%images), window={}, custom_call_target="__cudnn$convBackwardInput"
  %three = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%images), window={}, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %next = (u8[1000,8]{1,0}) tuple(%all)
}

ENTRY %main (a: u8[1000,8]) -> (u8[1000,8]) {
  %a = u8[1000,8]{1,0} parameter(0)
  %double = f64[2]{0} custom-call(%a), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %loop = (u8[1000,8]{1,0}) while(%a), condition=%condition, body=%body
}
"""
TPU = """\
HloModule jit_run, entry_computation_layout={()->()}

%inside (i: bf16[512,8,8,24], k: bf16[3,3,24,48]) -> bf16[512,8,8,48] {
  %i = bf16[512,8,8,24]{0,3,2,1:T(8,128)(2,1)} parameter(0)
  %k = bf16[3,3,24,48]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[512,8,8,48]{3,2,1,0:T(8,128)(2,1)} convolution(%i, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(run)/NAME/conv_general_dilated"}
}

ENTRY %main (a: bf16[512,8,8,24], b: bf16[3,3,24,48]) -> bf16[512,8,8,48] {
  %a = bf16[512,8,8,24]{0,3,2,1:T(8,128)(2,1)} parameter(0)
  %b = bf16[3,3,24,48]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %f = bf16[512,8,8,48]{3,2,1,0:T(8,128)(2,1)} fusion(%a, %b), kind=kOutput, calls=%inside
}
"""


def described(text: str, target: str, *, steps: int, temporaries: int = 10, costs: dict | None = None) -> dict:
    usage = SimpleNamespace(
        argument_size_in_bytes=1000,
        output_size_in_bytes=300,
        alias_size_in_bytes=200,
        temp_size_in_bytes=temporaries,
        generated_code_size_in_bytes=5,
    )
    program = SimpleNamespace(
        as_text=lambda: text, memory_analysis=lambda: usage, cost_analysis=lambda: [costs] if costs else None
    )
    step = Step("training", None, "train.batch_size", 4, steps, flops=8000, other_bytes=7, donated=1)
    return facts.describe(Compiled(step, 1.5, program), catalog.find(target), devices=8)


def test_kernels_bytes_and_convolutions_of_a_gpu():
    program = described(GPU, "h100", steps=2)
    assert program["kernels"] == 5
    assert program["convolutions"] == {"forward bf16": 1, "image gradient bf16": 1, "kernel gradient bf16": 1}
    picked, converted, convolved = (32 + 4) + 32, 32 + 64, 3 * (64 + 64)  # operands and results; not the whole split
    assert program["bytes_accessed"] == picked + converted + convolved
    assert program["flops_analytic"] == 1000 and program["flops_compiler"] is None
    assert program["roofline"]["limited_by"] == "launches"
    assert program["roofline"]["images_per_second_at_most"] == pytest.approx(4 / (5 * 2e-6))


def test_what_must_not_be_in_a_program_is_counted():
    program = described(GPU, "h100", steps=2)
    assert (program["host_transfers"], program["float64_arrays"]) == (1, 1)
    assert (program["arguments_donated"], program["arguments_to_donate"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "result", "kind"),
    [
        ("jvp(CNN)", "b01f", "forward"),
        ("transpose(jvp(CNN))", "b01f", "image gradient"),
        ("transpose(jvp(CNN))", "01bf", "kernel gradient"),
        ("transpose(jvp(CNN))/rematted_computation", "b01f", "forward"),
    ],
)
def test_kinds_of_convolutions_in_the_fusions_of_a_tpu(name, result, kind):
    program = described(TPU.replace("NAME", name).replace("->b01f,", f"->{result},"), "v5e-1", steps=1)
    assert program["convolutions"] == {f"{kind} bf16": 1}


def test_matrix_products_of_a_tpu_are_no_convolutions():
    text = TPU.replace("NAME", "jvp(CNN)").replace("conv_general_dilated", "dot_general")
    assert described(text, "v5e-1", steps=1)["convolutions"] == {}


def test_padding_and_costs_of_a_tpu():
    costs = {"flops": 2000.0, "bytes accessed": 819e9}
    program = described(TPU, "v5e-1", steps=1, costs=costs)
    assert program["padding"]["waste"] == pytest.approx(1 - 48 / 128)
    (array,) = program["padding"]["arrays"]
    assert array["lanes"] == 48 and array["bytes_with_padding"] * 48 == array["bytes"] * 128
    assert program["bytes_accessed"] == 819e9
    assert program["roofline"]["images_per_second_at_most"] == pytest.approx(4)
    assert program["roofline"]["limited_by"] == "bytes"


def test_a_program_fits_if_all_that_the_run_keeps_fits():
    usable = catalog.find("v5e-1").usable_memory
    room = usable - 1000 - 100 - 5 - 7
    assert described(TPU, "v5e-1", steps=1, temporaries=room)["memory"]["needed"] == usable
    assert described(TPU, "v5e-1", steps=1, temporaries=room)["fits"]
    assert not described(TPU, "v5e-1", steps=1, temporaries=room + 1)["fits"]


def test_a_program_that_the_compiler_cannot_place_does_not_fit():
    step = Step("training", None, "train.batch_size", 4, 1, flops=8, other_bytes=7)
    program = facts.describe(Compiled(step, 1.5, None, "out of memory"), catalog.find("v5e-1"), devices=1)
    assert not program["fits"] and program["compiler"] == "out of memory"
