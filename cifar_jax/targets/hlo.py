"""The text of a compiled program (optimized HLO, `compiled.as_text()`) as arrays and instructions."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?)\s([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_HOST_MEMORY = "S(5)"


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a program, in the layout that the compiler chose.

    Attributes:
        shape: its dimensions.
        order: the dimensions from the one whose elements are adjacent to the outermost.
        tile: the innermost dimensions, outer first, are padded to multiples of these; () = no padding.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self._itemsize * math.prod(self.shape)

    @property
    def padded_bytes(self) -> int:
        sides = [self.shape[dimension] for dimension in reversed(self.order)]
        sides = [1] * (len(self.tile) - len(sides)) + sides
        for place, multiple in enumerate(reversed(self.tile), start=1):
            sides[-place] = math.ceil(sides[-place] / multiple) * multiple
        return self._itemsize * math.prod(sides)

    @property
    def lanes(self) -> int:
        """The size of the dimension whose elements are adjacent."""
        return self.shape[self.order[0]] if self.order else 1

    @property
    def _itemsize(self) -> int:
        bits = re.search(r"\d+", self.dtype)
        return max(1, int(bits[0]) // 8) if bits else 1

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]  # names
    attributes: str  # the text behind the operands
    in_host_memory: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name; each is a list of instructions in the order in which they run."""

    computations: dict[str, list[Instruction]]
    entry: str
    donated: int  # results that reuse the memory of an argument

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.all()}

    def all(self) -> Iterator[Instruction]:
        for instructions in self.computations.values():
            yield from instructions

    def step(self, steps: int) -> Iterator[tuple[Instruction, int]]:
        """The instructions that run in one of the `steps` of a call, and how often each of them runs.

        Several steps are one loop: that with the longest body. Loops, branches and calls inside are followed; the
        instructions inside of a fusion are not, they are one kernel.
        """
        body = self.entry
        if steps > 1:
            loops = [instruction for instruction in self.all() if instruction.opcode == "while"]
            body = max((called(loop)[-1] for loop in loops), key=self._length)
        return self._running(body)

    def _running(self, computation: str) -> Iterator[tuple[Instruction, int]]:
        for instruction in self.computations[computation]:
            yield instruction, 1
            if instruction.opcode in ("while", "call", "conditional"):
                trips = int(match[1]) if (match := _TRIPS.search(instruction.attributes)) else 1
                for name in called(instruction):
                    yield from ((inner, trips * times) for inner, times in self._running(name))

    def _length(self, computation: str) -> int:
        return sum(times for _, times in self._running(computation))


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction runs."""
    groups = _CALLED.findall(instruction.attributes)
    return [name.strip().lstrip("%") for several, one in groups for name in (several or one).split(",")]


def parse(text: str) -> Program:
    """The program whose text this is."""
    computations, entry, current = {}, "", []
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            current.append(_instruction(*match.groups()))
        elif match := _HEADER.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", text.partition("\n")[0])
    return Program(computations, entry, donated=aliases[1].count("alias") if aliases else 0)


def _instruction(name: str, types: str, opcode: str, rest: str) -> Instruction:
    depth, end = 1, len(rest)
    for place, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            end = place
            break
    operands = tuple(re.findall(r"%([\w.-]+)", rest[:end]))
    results = tuple(_array(*groups) for groups in _ARRAY.findall(types))
    return Instruction(name, opcode, results, operands, rest[end + 1 :], _HOST_MEMORY in types)


def _array(dtype: str, shape: str, layout: str) -> Array:
    order, _, tiling = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    return Array(dtype, _numbers(shape), _numbers(order), _numbers(tile[1]) if tile else ())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number.lstrip("<=")) for number in text.split(",") if number)
