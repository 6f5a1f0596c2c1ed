"""The table of devices, and the words of --devices for them: 'v5e:4x4', 'h100:16', 'this'."""

import dataclasses
import math

from mixer_dilated.errors import UserError
from mixer_dilated.planning.interconnect import Place, Switched, Torus

GB, GIB, TERA = 10**9, 2**30, 10**12
NODE = 8  # GPUs behind one switch
# JAX's precision of float32 products, unless it is told otherwise.
PRECISION = 'float32 products are computed in {}, as JAX does unless told otherwise'


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device.

    Attributes:
      title, source, remark: its name, the page that has its numbers, and what to know of them.
      peak_flops: FLOP/s of dense matrix products, by the dtype that a config computes in.
      memory_bytes, usable_bytes: of one device, and how much of it a program may take.
      memory_bandwidth: bytes a second, reading and writing together.
      links: how devices are joined.
      clock: of a TPU, cycles a second.
      launch_seconds: of a GPU, between two kernels.
      target: of a GPU, what describes it to XLA.
    """

    title: str
    peak_flops: dict[str, float]
    memory_bytes: float
    usable_bytes: float
    memory_bandwidth: float
    links: Torus | Switched | None = None
    source: str = ''
    remark: str = ''
    clock: float = 0.0
    launch_seconds: float = 0.0
    target: str = ''


def _tpu(name, tera, flops_per_cycle, memory, usable, bandwidth, links) -> Hardware:
    peak, source = tera * TERA, f'https://docs.cloud.google.com/tpu/docs/{name}'
    return Hardware(
        f'TPU {name}', {'bfloat16': peak, 'float32': peak}, memory * GIB, usable * GIB,
        bandwidth * GB, links, source, PRECISION.format('bfloat16'), clock=peak / flops_per_cycle,
    )  # fmt: skip


def _gpu(title, tera, memory, bandwidth, links, cores) -> Hardware:
    peak = {dtype: each * TERA for dtype, each in zip(('bfloat16', 'float32'), tera, strict=True)}
    source = f'https://www.nvidia.com/en-us/data-center/{title.split()[1].lower()}/'
    count, fpus, threads, shared, l2, clock, (major, minor) = cores
    # As in XLA's xla/backends/gpu/target_config/specs.
    target = f"""gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      memory_bandwidth: {bandwidth * GB} device_memory_size: {memory} l2_cache_size: {l2}
      core_count: {count} fpus_per_core: {fpus} threads_per_core_limit: {threads}
      shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
      clock_rate_ghz: {clock} cuda_compute_capability {{ major: {major} minor: {minor} }} }}
    platform_name: "CUDA" device_description_str: "{title}"
    dnn_version_info {{ major: 9 minor: 7 }} runtime_version {{ major: 13 minor: 0 }}"""
    remark = PRECISION.format('TF32' if major >= 8 else 'float32, and bfloat16 ones too')
    # JAX takes three quarters of the memory at its start.
    return Hardware(
        title, peak, memory, 0.75 * memory, bandwidth * GB, links, source, remark,
        launch_seconds=2e-6, target=target,
    )  # fmt: skip


_HOPPER = 132, 128, 2048, 233472, 52428800, 1.98, (9, 0)
_NVLINK4 = Switched(450 * GB, 50 * GB)
# Makers' figures: TFLOP/s of dense products (NVIDIA often gives those with 2:4 sparsity), GB/s of
# memory, bytes a second of links in one direction. What a program may take of a TPU's memory, in
# GiB, its compiler says. FLOPs a cycle are those of its matrix units, 128² or 256² multiply-adds.
HARDWARE = {
    'v4': _tpu('v4', 275, 2 * 8 * 128**2, 32, 30.75, 1228, Torus(50 * GB, ring=4)),
    'v5e': _tpu('v5e', 197, 2 * 4 * 128**2, 16, 15.75, 819, Torus(50 * GB, ring=16)),
    'v5p': _tpu('v5p', 459, 2 * 8 * 128**2, 96, 95.74, 2765, Torus(100 * GB, ring=4)),
    'v6e': _tpu('v6e', 918, 2 * 4 * 256**2, 32, 31.25, 1638, Torus(100 * GB, ring=16)),
    't4': _gpu('NVIDIA T4', (8.1, 8.1), 15843721216, 320, Switched(16 * GB, 1.5 * GB),
               (40, 64, 1024, 65536, 4194304, 1.59, (7, 5))),
    'l4': _gpu('NVIDIA L4', (121, 60.5), 23609475072, 300, Switched(32 * GB, 1.5 * GB),
               (58, 128, 1536, 102400, 50331648, 2.04, (8, 9))),
    'a100': _gpu('NVIDIA A100 SXM 40 GB', (312, 156), 42331013120, 1555,
                 Switched(300 * GB, 25 * GB), (108, 64, 2048, 167936, 41943040, 1.41, (8, 0))),
    'h100': _gpu('NVIDIA H100 SXM', (989.5, 494.5), 84942979072, 3352, _NVLINK4, _HOPPER),
    'h200': _gpu('NVIDIA H200 SXM', (989.5, 494.5), 151397597184, 4800, _NVLINK4, _HOPPER),
}  # fmt: skip
_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8))
_SLICES = {'v4': _CUBES, 'v5p': _CUBES, 'v5e': _SQUARES, 'v6e': _SQUARES}


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of one kind.

    Attributes:
      word: of --devices.
      kind: a row of `HARDWARE`, or 'this'.
      shape: how many there are along each axis of their network; of GPUs nodes, and in a node.
    """

    word: str
    kind: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        return self.kind in _SLICES

    def describe(self) -> list:
        """Devices as JAX has them; those that are not here can only be compiled for."""
        import jax
        from jax.experimental import topologies

        if self.kind == 'this':
            return jax.devices()[:1]
        name = 'x'.join(map(str, self.shape))
        if self.is_tpu:
            options = {'chips_per_host_bounds': (1, 1, 1)} if self.count == 1 else {}
            if self.kind == 'v4':
                options['chip_config_name'] = 'megacore'  # two cores are one device
            return topologies.get_topology_desc(f'{self.kind}:{name}', 'tpu', **options).devices
        target = HARDWARE[self.kind].target
        return topologies.get_topology_desc(
            platform='cuda', target_config=target, topology=f'1x{name}'
        ).devices

    def places(self, devices: list) -> list[Place]:
        """Of devices in their network."""
        return [tuple(d.coords) if self.is_tpu else divmod(d.id, NODE) for d in devices]


def parse_devices(word: str) -> Devices:
    """Reads one word of --devices.

    Raises:
      UserError: no such device, or no such number of them.
    """
    word = word.strip()
    kind, _, size = word.lower().partition(':')
    if kind == 'this' and not size:
        return Devices(word, kind, (1,))
    shapes = _SLICES.get(kind) or [(1, n) for n in range(1, NODE)] + [
        (n, NODE) for n in range(1, 1025)
    ]
    for shape in shapes if kind in HARDWARE else ():
        if size in ('x'.join(map(str, shape)), str(math.prod(shape))):
            return Devices(word, kind, shape)
    slices = ', '.join('x'.join(map(str, shape)) for shape in _SLICES.get(kind, ()))
    allowed = f'{kind}:N with N {slices or f"up to {NODE}, or a multiple of {NODE}"}'
    if kind not in HARDWARE:
        allowed = f'{", ".join(HARDWARE)} and this'
    raise UserError(
        f'--devices={word}: no such devices; allowed: {allowed}; for example v5e:4x4 or h100:8'
    )
