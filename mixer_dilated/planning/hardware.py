"""The table of devices: what they compute, keep and send a second, and the pages that say so."""

import dataclasses

from mixer_dilated.planning.links import Links, Switched, Torus

GB, TB = 10**9, 10**12
TERA = 10**12


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of device.

    Attributes:
      title: as people call it.
      peak_flops: FLOP/s of dense matrix products, by the dtype that a config computes in.
      memory_bytes: of one device.
      usable: share of the memory that a program may take.
      memory_bandwidth: bytes a second, reading and writing together.
      elementwise_bandwidth: the same in steps like GELU, if their arithmetic takes longer.
      links: how devices are joined.
      seeds_at_once: whether the seeds of one device are computed side by side, not in turns.
      sources: (title, URL) of the pages that the numbers are from; none if they were measured.
      remark: what has to be known of the numbers.
    """

    title: str
    peak_flops: dict[str, float]
    memory_bytes: float
    usable: float
    memory_bandwidth: float
    links: Links
    elementwise_bandwidth: float | None = None
    seeds_at_once: bool = True
    sources: tuple[tuple[str, str], ...] = ()
    remark: str = ''


SLICES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))

# That axes of 16 chips close to rings, and shorter ones do not.
_TORUS = (
    'How to Think About TPUs (How To Scale Your Model)',
    'https://jax-ml.github.io/scaling-book/tpus/',
)
_DGX = (
    'Introduction to NVIDIA DGX H100/H200 Systems',
    'https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html',
)
# In which form an accelerator computes float32 products if nobody asks for another.
_PRECISION = ('Matmul precision (JAX)', 'https://docs.jax.dev/en/latest/201/precision.html')
_GPU_MEMORY = (
    'GPU memory allocation (JAX)',
    'https://docs.jax.dev/en/latest/201/gpu-memory.html',
)
_ON_TPU = 'float32 products are computed from bfloat16 factors, as JAX does unless told otherwise'
_ON_GPU = 'float32 products are computed in TF32, as JAX does unless told otherwise'

# Bandwidths of links are in one direction: half of what the pages give for both together. NVIDIA's
# pages give FLOP/s with 2:4 sparsity, which training does not have: half of them is here. The
# system and its runtime keep some of a TPU's memory; JAX takes 75 % of a GPU's at its start.
HARDWARE = {
    'v5e': Hardware(
        title='TPU v5e',
        peak_flops={'bfloat16': 197 * TERA, 'float32': 197 * TERA},
        memory_bytes=16 * GB,
        usable=0.95,
        memory_bandwidth=819 * GB,
        links=Torus(SLICES, link_bandwidth=50 * GB, ring=16),
        sources=(
            ('TPU v5e (Google Cloud)', 'https://docs.cloud.google.com/tpu/docs/v5e'),
            _TORUS,
            _PRECISION,
        ),
        remark=_ON_TPU,
    ),
    'v6e': Hardware(
        title='TPU v6e',
        peak_flops={'bfloat16': 918 * TERA, 'float32': 918 * TERA},
        memory_bytes=32 * GB,
        usable=0.95,
        memory_bandwidth=1638 * GB,
        links=Torus(SLICES, link_bandwidth=100 * GB, ring=16),
        sources=(
            ('TPU v6e (Google Cloud)', 'https://docs.cloud.google.com/tpu/docs/v6e'),
            _TORUS,
            _PRECISION,
        ),
        remark=_ON_TPU,
    ),
    'h100': Hardware(
        title='NVIDIA H100 SXM',
        peak_flops={'bfloat16': 989.5 * TERA, 'float32': 494.5 * TERA},
        memory_bytes=80 * GB,
        usable=0.75,
        memory_bandwidth=3.35 * TB,
        links=Switched(node=8, node_bandwidth=450 * GB, bandwidth=50 * GB),
        sources=(
            ('NVIDIA H100 Tensor Core GPU', 'https://www.nvidia.com/en-us/data-center/h100/'),
            _DGX,
            _PRECISION,
            _GPU_MEMORY,
        ),
        remark=_ON_GPU,
    ),
    'h200': Hardware(
        title='NVIDIA H200 SXM',
        peak_flops={'bfloat16': 989.5 * TERA, 'float32': 494.5 * TERA},
        memory_bytes=141 * GB,
        usable=0.75,
        memory_bandwidth=4.8 * TB,
        links=Switched(node=8, node_bandwidth=450 * GB, bandwidth=50 * GB),
        sources=(
            ('NVIDIA H200 Tensor Core GPU', 'https://www.nvidia.com/en-us/data-center/h200/'),
            _DGX,
            _PRECISION,
            _GPU_MEMORY,
        ),
        remark=_ON_GPU,
    ),
}
