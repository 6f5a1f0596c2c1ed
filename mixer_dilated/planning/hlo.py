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
# In a JAX operation's name, and the part of a step that it belongs to; the first that is there.
PARTS = {
    'augment': 'augment', 'optimizer': 'optimizer', 'token_mixing': 'token_mixing',
    'channel_mixing': 'channel_mixing', 'stem': 'stem', 'LayerNorm': 'LayerNorm',
    'layer_norm': 'LayerNorm', 'head': 'head', 'MixerBlock': 'residuals, layout',
    'jvp': 'loss, pooling', '/': 'input', '': 'copies',
}  # fmt: skip
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
# Groups of devices, written one by one, as a grid of numbers, or as axes of a mesh.
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}')
_GRID = re.compile(r'replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(
    r'replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}'
)
_AXIS = re.compile(r"('[^']+')=(\d+)")
_PART_OF_AXIS = re.compile(r"('[^']+')(?::\((\d+)\)(\d+))?")


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
      group: devices, by their number in the mesh, that exchange: of several groups a largest, as a
        permutation may leave a device's array where it is.
      times: how often a step does it.
      is_async: whether the device computes meanwhile.
    """

    kind: str
    array_bytes: int
    group: list[int]
    times: int
    is_async: bool

    def axis(self, mesh_shape: Mapping[str, int]) -> str:
        """Names of the mesh axes along which its devices lie, joined by '+'."""
        places = np.unravel_index(self.group, tuple(mesh_shape.values()))
        return '+'.join(
            name for name, place in zip(mesh_shape, places, strict=True) if np.ptp(place)
        )


class Program:
    """One training step of a compiled program, `jax.stages.Compiled.as_text()`.

    Attributes:
      has_cycles: whether the compiler estimates them.
    """

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
        self.has_cycles = bool(_CYCLES.search(text))

    def costs(self) -> list[tuple[str, int, int]]:
        """(JAX operation, times, cycles) of what has any, or else (…, bytes) of all kernels."""
        if not self.has_cycles:
            kernels = ((op, times) for op, times in self._step if op.is_kernel)
            return [(op.op_name, times, self._bytes(op)) for op, times in kernels]
        estimates = ((op, times, _CYCLES.search(op.rest)) for op, times in self._step)
        return [(op.op_name, times, int(match[1])) for op, times, match in estimates if match]

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
                group = max(groups_of(operation.rest, self._devices), key=lambda ids: len({*ids}))
                size = array_bytes(result) * (len(group) if kind == 'reduce-scatter' else 1)
                exchanges.append(Exchange(kind, size, sorted({*group}), times, is_async))
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
    return next(part for word, part in PARTS.items() if word in op_name)


def array_bytes(result: str) -> int:
    """Of the arrays of a result, 'f32[8,4]{1,0}' or a tuple of them."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(int(size) for size in sizes.split(',') if size)
        for dtype, sizes in _ARRAY.findall(result)
    )


def groups_of(attributes: str, devices: int) -> list[list[int]]:
    """Groups of devices that exchange, from the attributes of a collective.

    Raises:
      ValueError: they are written in a way that is not known.
    """
    if match := _MESH.search(attributes):
        mesh, *order, along = match.groups()
        # "'b':(2)4" are 4 along b, of which 2 such parts lie before it and the rest behind.
        asked = {name: (before, part) for name, before, part in _PART_OF_AXIS.findall(along)}
        shape, axes = [], []
        for name, size in _AXIS.findall(mesh):
            before, part = asked.get(name, (1, 1))
            before, part = int(before or 1), int(part or size)
            axes += [len(shape) + 1] * (name in asked)
            shape += [before, part, int(size) // (before * part)]
        ids = _grid(*order) if order[0] else np.arange(math.prod(shape))
        ids = np.moveaxis(ids.reshape(shape), axes, range(-len(axes), 0))
        return ids.reshape(-1, math.prod(shape[axis] for axis in axes)).tolist()
    if match := _GRID.search(attributes):
        return _grid(match[2], match[3]).reshape(-1, int(match[1])).tolist()
    if match := _LISTED.search(attributes):
        return [[*map(int, ids.split(','))] for ids in re.findall(r'\{([\d,]+)\}', match[1])]
    if 'replica_groups={}' in attributes:
        return [list(range(devices))]
    raise ValueError(f'a collective whose devices cannot be read: {attributes[:300]}')


def _grid(shape: str, order: str | None) -> np.ndarray:
    """The numbers of all devices, in an array of a shape whose axes are then put in an order."""
    sizes = [*map(int, shape.split(','))]
    axes = map(int, order.split(',')) if order else range(len(sizes))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(*axes)
