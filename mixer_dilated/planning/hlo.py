"""What a compiled program does in a training step, read from its HLO text.

A TPU's compiler writes its estimate of cycles beside each operation. The programs of GPUs and CPUs
are kernels; the text has the arrays that they read and write.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

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

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{\s*$')
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$')
_ARRAY = re.compile(r'\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:body|to_apply|calls|\w+_computations?)=\{?(%?[\w.-]+(?:, %[\w.-]+)*)')
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


class Operation(NamedTuple):
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

    def exchanges(self) -> list[tuple[str, int, list[int], int, bool]]:
        """(kind, bytes, group, times, is_async) of the collectives between more than one device.

        Bytes are those of the result on one device, of a reduce-scatter of its input. A group has
        devices by their number in the mesh; of several it is a largest, as a permutation may leave
        a device's array where it is. Beside an asynchronous one the device computes.
        """
        exchanges = []
        for i, (operation, times) in enumerate(self._step):
            is_async = operation.name.startswith('async-collective-start')  # a TPU's
            if is_async:
                inner = self._computations[operation.called[0]]
                operation = next(op for op in inner if op.kind in COLLECTIVES)
            kind, result = operation.kind.removesuffix('-start'), operation.result
            if kind not in COLLECTIVES:
                continue
            if kind != operation.kind:
                for later, _ in self._step[i + 1 :]:
                    if later.kind.endswith('-done') and later.operands == [operation.name]:
                        result = later.result
                        break
                    is_async |= later.is_kernel
            group = sorted(max(map(set, groups_of(operation.rest, self._devices)), key=len))
            size = array_bytes(result) * (len(group) if kind == 'reduce-scatter' else 1)
            exchanges += [(kind, size, group, times, is_async)] * (len(group) > 1)
        return exchanges

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


def mesh_axis(group: list[int], mesh_shape: Mapping[str, int]) -> str:
    """Names of the mesh axes along which devices lie, by their number, joined by '+'."""
    places = np.unravel_index(group, tuple(mesh_shape.values()))
    return '+'.join(name for name, place in zip(mesh_shape, places, strict=True) if np.ptp(place))


def array_bytes(result: str) -> int:
    """Of the arrays of a result, 'f32[8,4]{1,0}' or a tuple of them."""
    return sum(
        int(bits or 8) // 8 * math.prod(map(int, re.findall(r'\d+', sizes)))
        for bits, sizes in _ARRAY.findall(result)
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
