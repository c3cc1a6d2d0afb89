"""What the compiler reports about one program: memory, work, kernels, padding, and the bound that follows."""

from collections import Counter
from collections.abc import Iterator

from cifar_jax.targets import hlo
from cifar_jax.targets.catalog import Target
from cifar_jax.targets.programs import Compiled

LABEL = "compiled, not run"
_NO_KERNEL = {  # opcodes that take no launch
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "call", "conditional"),
}
_PICKING = ("gather", "dynamic-slice", "slice")  # rows of their first operand
_ON_HOST = {"infeed", "outfeed", "send", "recv"}
_CUDNN_KINDS = {"Forward": "forward", "BackwardInput": "image gradient", "BackwardFilter": "kernel gradient"}


def describe(compiled: Compiled, target: Target, *, devices: int) -> dict:
    """The facts of one program as JSON values; bytes, FLOPs and kernels are those of one device and one step.

    Args:
        devices: in the mesh.
    """
    step = compiled.step
    facts = {
        "batch_key": step.batch_key,
        "batch_size": step.batch_size,
        "steps_per_call": step.steps,
        "compile_seconds": round(compiled.seconds, 1),
    }
    if compiled.program is None:
        return {**facts, "fits": False, "compiler": compiled.message}
    program = hlo.parse(compiled.program.as_text())
    running = list(program.step(step.steps))
    memory = memory_of(compiled)
    needed = sum(memory.values())
    costs = _costs(compiled)
    counted = costs.get("bytes accessed")
    work = {
        "flops_analytic": step.flops // devices,
        "flops_compiler": costs.get("flops"),
        "bytes_accessed": counted or sum(_bytes_moved(program, running)),
        "bytes_accessed_by": "the compiler's cost analysis" if counted else "operands and results of the kernels",
        "kernels": sum(times for _, times in _kernels(running)) if target.platform == "cuda" else None,
    }
    return {
        **facts,
        "fits": needed <= target.usable_memory,
        "memory": {**memory, "needed": needed},
        **work,
        "convolutions": dict(sorted(_convolutions(program, running).items())),
        "padding": _padding(running) if target.platform == "tpu" else None,
        "arguments_donated": program.donated,
        "arguments_to_donate": step.donated,
        "host_transfers": sum(_is_host_transfer(instruction) for instruction in program.all()),
        "float64_arrays": sum(array.dtype == "f64" for one in program.all() for array in one.results),
        "roofline": _roofline(work, target, batch_size=step.batch_size),
    }


def memory_of(compiled: Compiled) -> dict[str, int]:
    """Bytes on one device while the program runs."""
    usage = compiled.program.memory_analysis()
    return {
        "arguments": usage.argument_size_in_bytes,
        "results": usage.output_size_in_bytes - usage.alias_size_in_bytes,
        "temporaries": usage.temp_size_in_bytes,
        "code": usage.generated_code_size_in_bytes,
        "rest_of_the_run": compiled.step.other_bytes,
    }


def _costs(compiled: Compiled) -> dict[str, float]:
    """Those of one step: XLA counts the body of a loop once. Empty for GPU."""
    costs = compiled.program.cost_analysis() or {}
    return costs[0] if isinstance(costs, list) else costs


def _roofline(work: dict, target: Target, *, batch_size: int) -> dict | None:
    """The least time of one step by published peaks, and the images per second that it allows at most."""
    if target.peak_flops is None:
        return None
    seconds = {
        "flops": (work["flops_compiler"] or work["flops_analytic"]) / target.peak_flops,
        "bytes": work["bytes_accessed"] / target.bandwidth,
    }
    if work["kernels"]:
        seconds["launches"] = work["kernels"] * target.launch_seconds
    limit = max(seconds, key=seconds.get)
    return {
        "label": LABEL,
        "seconds": seconds,
        "limited_by": limit,
        "images_per_second_at_most": batch_size / seconds[limit],
    }


def _kernels(running: list) -> Iterator[tuple[hlo.Instruction, int]]:
    for instruction, times in running:
        if instruction.opcode not in _NO_KERNEL and not instruction.opcode.endswith("-done"):
            yield instruction, times


def _bytes_moved(program: hlo.Program, running: list) -> Iterator[int]:
    """Results and operands of every kernel; of an operand from which a fusion only picks rows, those rows."""
    for instruction, times in _kernels(running):
        yield times * sum(array.bytes for array in instruction.results)
        picked = _picked_bytes(program, instruction)
        for place, name in enumerate(instruction.operands):
            whole = sum(array.bytes for array in program.by_name[name].results) if name in program.by_name else 0
            yield times * picked.get(place, whole)


def _picked_bytes(program: hlo.Program, fusion: hlo.Instruction) -> dict[int, int]:
    """Number of an operand -> bytes that the fusion reads of it, where it only slices or gathers from it."""
    picked = {}
    if fusion.opcode == "fusion":
        inside = program.computations[hlo.called(fusion)[0]]
        parameters = [one for one in inside if one.opcode == "parameter"]
        for place, parameter in enumerate(parameters):
            users = [one for one in inside if parameter.name in one.operands]
            if users and all(one.opcode in _PICKING and one.operands[0] == parameter.name for one in users):
                picked[place] = sum(array.bytes for one in users for array in one.results)
    return picked


def _convolutions(program: hlo.Program, running: list) -> Counter:
    """'kind dtype' -> how many run in one step; matrix products are not counted."""
    counts = Counter()
    for instruction, times in running:
        for one in (instruction, *_inside(program, instruction)):
            if kind := _kind(one):
                source = program.by_name.get(one.operands[0])
                dtype = source.results[0].dtype if source and source.results else one.results[0].dtype
                counts[f"{kind} {dtype}"] += times
    return counts


def _inside(program: hlo.Program, instruction: hlo.Instruction) -> Iterator[hlo.Instruction]:
    """The instructions inside of a fusion, at any depth."""
    if instruction.opcode == "fusion":
        for name in hlo.called(instruction):
            for one in program.computations[name]:
                yield one
                yield from _inside(program, one)


def _kind(instruction: hlo.Instruction) -> str:
    """'forward', 'image gradient' or 'kernel gradient' of a convolution; '' for other instructions."""
    text = instruction.attributes
    if instruction.opcode == "custom-call" and "__cudnn$conv" in text:
        found = [kind for name, kind in _CUDNN_KINDS.items() if f"__cudnn$conv{name}" in text]
        return found[0] if found else "forward"  # with bias and activation
    if instruction.opcode != "convolution" or "window=" not in text or "dot_general" in text:
        return ""  # for a TPU, matrix products are convolutions too
    if "transpose(" not in text or "rematted_computation" in text:
        return "forward"
    return "image gradient" if "->b" in text else "kernel gradient"


def _is_host_transfer(instruction: hlo.Instruction) -> bool:
    is_callback = instruction.opcode == "custom-call" and "callback" in instruction.attributes.lower()
    return instruction.in_host_memory or is_callback or instruction.opcode.split("-")[0] in _ON_HOST


def _padding(running: list) -> dict:
    """Of the results of a step's kernels in the tiled layouts of a TPU: bytes that hold no data.

    `arrays` are the shapes that waste the most, with the size of the dimension in the 128 lanes.
    """
    arrays = Counter()
    for instruction, times in _kernels(running):
        if not instruction.opcode.endswith("-start"):  # transfers, whose results include their operands
            for array in instruction.results:
                arrays[array] += times
    data = sum(times * array.bytes for array, times in arrays.items())
    padded = sum(times * array.padded_bytes for array, times in arrays.items())
    worst = sorted(arrays, key=lambda array: arrays[array] * (array.bytes - array.padded_bytes))[:5]
    return {
        "bytes_of_data": data,
        "bytes_with_padding": padded,
        "waste": 1 - data / padded if padded else 0.0,
        "arrays": [
            {"array": str(array), "lanes": array.lanes, "times": arrays[array], "bytes": array.bytes}
            | {"bytes_with_padding": array.padded_bytes}
            for array in worst
            if array.padded_bytes > array.bytes
        ],
    }
