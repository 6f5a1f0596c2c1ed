"""What a compiled program does in a training step, read from its HLO text.

A TPU's compiler writes its estimate of cycles beside each operation. The programs of GPUs and CPUs
are kernels; the text has the arrays that they read and write.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
CALLS = ('while', 'call', 'conditional', 'async-start')
NO_KERNEL = (*CALLS, *COLLECTIVES, 'parameter', 'constant', 'get-tuple-element', 'tuple', 'bitcast')
NO_KERNEL += ('after-all', 'partition-id', 'replica-id', 'iota')
PARTS = ('augment', 'optimizer', 'token_mixing', 'channel_mixing', 'stem', 'LayerNorm')
PARTS += ('layer_norm', 'head')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2}
_BYTES |= {'s32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{\s*$')
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]+[0-9]*)\[([0-9,]*)\]')
_CALLED = re.compile(
    r'(?:body|to_apply|calls|branch_computations|true_computation|false_computation)'
    r'=\{?(%?[\w.-]+(?:, %[\w.-]+)*)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d{1,12})"')  # more digits mean that it is not known
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_COUNTED = re.compile(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? '
    r'\{([^}]*)\}'
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of a program: `name = result kind(operands), attributes`."""

    name: str
    result: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r'%([\w.-]+)', self.rest.split(')', 1)[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations that it does."""
        return re.findall(r'[\w.-]+', ' '.join(_CALLED.findall(self.rest)))

    @property
    def op_name(self) -> str:
        """The JAX operation that it comes from; '' for copies that the compiler adds."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ''

    @property
    def is_kernel(self) -> bool:
        """Whether it computes or copies."""
        return self.kind not in NO_KERNEL and not self.kind.endswith(('-start', '-done'))


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of a step.

    Attributes:
      kind: one of `COLLECTIVES`.
      array_bytes: of its result on one device; of a reduce-scatter, of its input.
      groups: devices, by their number in the mesh, that exchange with each other.
      times: how often a step does it.
      is_async: whether the device computes meanwhile.
    """

    kind: str
    array_bytes: int
    groups: list[list[int]]
    times: int
    is_async: bool

    @property
    def group(self) -> list[int]:
        """One of the largest groups; a permutation may leave a device's array where it is."""
        return sorted(max(map(set, self.groups), key=len))

    def axis(self, mesh_shape: Mapping[str, int]) -> str:
        """Names of the mesh axes along which its devices lie, joined by '+'."""
        places = np.array(np.unravel_index(self.group, tuple(mesh_shape.values())))
        moved = (places != places[:, :1]).any(axis=1)
        return '+'.join(name for name, there in zip(mesh_shape, moved, strict=True) if there)


class Program:
    """One training step of a compiled program, `jax.stages.Compiled.as_text()`."""

    def __init__(self, text: str):
        partitions = re.search(r'num_partitions=(\d+)', text[: text.find('\n')])
        self._devices = int(partitions[1]) if partitions else 1
        self._computations, self._results, entry = collections.defaultdict(list), {}, ''
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                name = head[2]
                entry = name if head[1] else entry
            elif match := _OPERATION.match(line):
                operation = Operation(*match.groups())
                self._computations[name].append(operation)
                self._results[operation.name] = operation.result
        # Steps are the rounds of the largest loop that does any number of them.
        loops = [op for op, _ in self._walk(entry) if op.kind == 'while' and not self._trips(op)]
        steps = [[*self._walk(op.called[0])] for op in loops] or [[*self._walk(entry)]]
        self._step = max(steps, key=len)

    def cycles(self) -> dict[str, int]:
        """Estimated cycles by JAX operation; {} if the compiler estimates none."""
        cycles = collections.Counter()
        for operation, times in self._step:
            if match := _CYCLES.search(operation.rest):
                cycles[operation.op_name] += times * int(match[1])
        return dict(cycles)

    def kernels(self) -> list[tuple[str, int, int]]:
        """(JAX operation, times, bytes read and written) of each kernel."""
        kernels = [(op, times) for op, times in self._step if op.is_kernel]
        return [(op.op_name, times, self._bytes(op)) for op, times in kernels]

    def exchanges(self) -> list[Exchange]:
        """The collectives between more than one device."""
        exchanges = []
        for i, (operation, times) in enumerate(self._step):
            is_async, result = False, operation.result
            if operation.name.startswith('async-collective-start'):  # a TPU's
                inner = self._computations[operation.called[0]]
                operation = next(op for op in inner if op.kind in COLLECTIVES)
                is_async, result = True, operation.result
            elif operation.kind.endswith('-start'):
                is_async, result = self._end(i)
            kind = operation.kind.removesuffix('-start')
            if kind in COLLECTIVES:
                groups = groups_of(operation.rest, self._devices)
                count = array_bytes(result) * (len(groups[0]) if kind == 'reduce-scatter' else 1)
                exchanges.append(Exchange(kind, count, groups, times, is_async))
        return [exchange for exchange in exchanges if len(exchange.group) > 1]

    def _end(self, start: int) -> tuple[bool, str]:
        """Whether there are kernels before the '-done' of a '-start', and its result."""
        operation, _ = self._step[start]
        is_async = False
        for later, _ in self._step[start + 1 :]:
            if later.kind.endswith('-done') and later.operands == [operation.name]:
                return is_async, later.result
            is_async |= later.is_kernel
        return False, operation.result

    def _walk(self, name: str, times: int = 1) -> Iterator[tuple[Operation, int]]:
        """Operations and how often each is done, those of loops and calls among them."""
        for operation in self._computations[name]:
            yield operation, times
            if operation.kind in CALLS:
                rounds = self._trips(operation) or 1
                for called in operation.called:
                    yield from self._walk(called, times * rounds)

    def _trips(self, operation: Operation) -> int | None:
        """Rounds of a loop, from its attributes or the constant that its condition compares to."""
        if known := _TRIPS.search(operation.rest):
            return int(known[1])
        name = re.search(r'condition=%?([\w.-]+)', operation.rest)
        condition = self._computations[name[1]] if name else []
        constants = [op.rest.split(')')[0] for op in condition if op.kind == 'constant']
        is_count = len(constants) == 1 and any('direction=LT' in op.rest for op in condition)
        return int(constants[0]) if is_count else None

    def _bytes(self, operation: Operation) -> int:
        """Read and written; of an array that is gathered from, only what is taken."""
        sizes = [array_bytes(self._results.get(name, '')) for name in operation.operands]
        inner = self._computations[operation.called[0]] if operation.kind == 'fusion' else []
        for parameter in (op for op in inner if op.kind == 'parameter'):
            users = [op for op in inner if parameter.name in op.operands]
            if {op.kind for op in users} <= {'gather', 'dynamic-slice'} and users:
                taken = sum(array_bytes(op.result) for op in users)
                sizes[int(parameter.rest.split(')')[0])] = taken
        return array_bytes(operation.result) + sum(sizes)


def part_of(op_name: str) -> str:
    """The part of a training step that a JAX operation belongs to."""
    part = next((part for part in PARTS if part in op_name), None)
    if part:
        return part.replace('layer_norm', 'LayerNorm')
    if 'MixerBlock' in op_name:
        return 'residuals, layout'
    if 'jvp' in op_name:
        return 'loss, pooling'
    return 'input' if op_name else 'copies'


def array_bytes(result: str) -> int:
    """Of the arrays of a result, 'f32[8,4]{1,0}' or a tuple of them."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(int(size) for size in sizes.split(',') if size)
        for dtype, sizes in _ARRAY.findall(result)
    )


def groups_of(attributes: str, devices: int) -> list[list[int]]:
    """Groups of devices that exchange, from the attributes of a collective.

    XLA writes them as all, one by one, as a grid of numbers, or as axes of a mesh.

    Raises:
      ValueError: they are written in another way.
    """
    if named := _MESH.search(attributes):
        mesh, shape, order, along = named.groups()
        groups = _along_axes(mesh, along)
        return (_grid(shape, order).reshape(-1) if shape else np.arange(groups.size))[
            groups
        ].tolist()
    if counted := _COUNTED.search(attributes):
        return _grid(counted[3], counted[4]).reshape(int(counted[1]), int(counted[2])).tolist()
    if listed := _LISTED.search(attributes):
        groups = re.findall(r'\{([\d,]+)\}', listed[1])
        return [[int(number) for number in group.split(',')] for group in groups]
    if 'replica_groups={}' in attributes:
        return [list(range(devices))]
    raise ValueError(f'a collective whose devices cannot be read: {attributes[:300]}')


def _grid(shape: str, order: str | None) -> np.ndarray:
    """The numbers of all devices, in an array of a shape whose axes are then put in an order."""
    sizes = [int(size) for size in shape.split(',')]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose([int(axis) for axis in order.split(',')]) if order else grid


def _along_axes(mesh: str, along: str) -> np.ndarray:
    """Groups (group, device) along axes of a mesh of all devices in their order.

    Args:
      mesh: its axes, "'a'=2,'b'=8".
      along: those along which devices exchange, or a part of one: "'a','b':(2)4" are 4 along b, of
        which 2 such parts lie before it and the rest behind.
    """
    asked = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"('[^']+')(?::\((\d+)\)(\d+))?", along)
    }
    sizes, exchanging = [], []
    for name, size in re.findall(r"('[^']+')=(\d+)", mesh):
        before, part = asked.get(name, (1, 1))
        part = part or int(size)
        exchanging.append(len(sizes) + 1)
        sizes += [before, part, int(size) // (before * part)]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    joined = np.moveaxis(grid, exchanging, range(-len(exchanging), 0))
    return joined.reshape(-1, math.prod(sizes[axis] for axis in exchanging))
