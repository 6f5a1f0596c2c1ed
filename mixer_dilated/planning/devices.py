"""The kinds of devices, and the words of --devices for them: 'v5e:4x4', 'h100:16', 'this'."""

import dataclasses
import math
import pathlib
import tomllib

import jax
from jax.experimental import topologies

from mixer_dilated.errors import UserError

NODE = 8  # GPUs behind one switch


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device: a table of `devices.toml`, which says what its keys are."""

    title: str
    peak_flops: dict[str, float]
    memory_bytes: int
    usable_bytes: int
    memory_bandwidth: float
    source: str = ''
    remark: str = ''
    link_bandwidth: float = 0.0
    network_bandwidth: float = 0.0
    flops_per_cycle: int = 0
    ring: int = 0
    slices: tuple[str, ...] = ()
    launch_seconds: float = 0.0
    chip: str = ''


_TABLES = tomllib.loads(pathlib.Path(__file__).with_name('devices.toml').read_text())
HARDWARE = {kind: Hardware(**table) for kind, table in _TABLES.items()}


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of one kind."""

    word: str  # of --devices
    kind: str  # a row of `HARDWARE`, or 'this'
    shape: tuple[int, ...]  # along each axis of their network; of GPUs nodes, and in a node
    hardware: Hardware | None  # one of them; None for 'this', which is not measured yet

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        return self.kind.startswith('v')

    def describe(self) -> list[jax.Device]:
        """Devices as JAX has them; those that are not here can only be compiled for."""
        if self.kind == 'this':
            return jax.devices()[:1]
        name, hardware = 'x'.join(map(str, self.shape)), self.hardware
        if self.is_tpu:
            options = {'chips_per_host_bounds': (1, 1, 1)} if self.count == 1 else {}
            if self.kind == 'v4':
                options['chip_config_name'] = 'megacore'  # two cores are one device
            return topologies.get_topology_desc(f'{self.kind}:{name}', 'tpu', **options).devices
        target = f"""gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          memory_bandwidth: {hardware.memory_bandwidth:.0f}
          device_memory_size: {hardware.memory_bytes} {hardware.chip} }}
        platform_name: "CUDA" device_description_str: "{hardware.title}"
        dnn_version_info {{ major: 9 minor: 7 }} runtime_version {{ major: 13 minor: 0 }}"""
        return topologies.get_topology_desc(
            platform='cuda', target_config=target, topology=f'1x{name}'
        ).devices

    def gather_seconds(self, array_bytes: float, group: list[jax.Device]) -> float:
        """To gather arrays over devices, or scatter their sum, at full bandwidth.

        All axes of a torus carry a part at once. Between nodes of GPUs goes only what a GPU has of
        the sum over its node.
        """
        count, link = len(group), self.hardware.link_bandwidth
        if self.is_tpu:
            ways = 0.0
            for line in map(set, zip(*(device.coords for device in group), strict=True)):
                if len(line) > 1:  # devices that lie apart share the links between them
                    both = 2 if len(line) >= self.hardware.ring else 1
                    ways += both * len(line) / (max(line) - min(line) + 1)
            return (count - 1) / count * array_bytes / (ways * link)
        nodes = len({device.id // NODE for device in group})
        within = math.ceil(count / nodes)
        outside = (nodes - 1) / nodes * array_bytes / within / self.hardware.network_bandwidth
        return (within - 1) / within * array_bytes / link + outside


def parse_devices(word: str) -> Devices:
    """Reads one word of --devices.

    Raises:
      UserError: no such device, or no such number of them.
    """
    word = word.strip()
    kind, _, size = word.lower().partition(':')
    if kind == 'this' and not size:
        return Devices(word, kind, (1,), None)
    allowed = f'{", ".join(HARDWARE)} and this'
    if hardware := HARDWARE.get(kind):
        in_nodes = [f'{nodes}x{NODE}' for nodes in range(1, 1025)]
        shapes = hardware.slices or [f'1x{n}' for n in range(1, NODE)] + in_nodes
        for name in shapes:
            shape = tuple(map(int, name.split('x')))
            if size in (name, str(math.prod(shape))):
                return Devices(word, kind, shape, hardware)
        allowed = ', '.join(hardware.slices) or f'up to {NODE}, or a multiple of {NODE}'
        allowed = f'{kind}:N with N {allowed}'
    raise UserError(
        f'--devices={word}: no such devices; allowed: {allowed}; for example v5e:4x4 or h100:8'
    )
