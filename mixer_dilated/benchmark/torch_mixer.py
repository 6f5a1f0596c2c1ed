"""The same network, optimizer and loss in PyTorch, where it is installed."""

import time
from typing import NamedTuple

import ml_collections
import numpy as np

from mixer_dilated.benchmark.plain_mixer import plain_sizes
from mixer_dilated.data.examples import Examples
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import Setup


class TimedTorch:
    """A training step of PyTorch, eager or under `torch.compile`, on the CPU.

    Args:
      setup: whose network and optimizer; AdamW alone is supported.
      examples: its training set.
      compiled: whether by `torch.compile`.

    Attributes:
      compile_seconds: of the first step, in which PyTorch compiles.

    Raises:
      UserError: torch is not installed, or the config asks for what this network lacks.
    """

    def __init__(self, setup: Setup, examples: Examples, compiled: bool):
        torch = import_torch()
        config = setup.config
        check_optimizer(config.optimizer)
        torch.manual_seed(0)
        network = mixer(torch, setup)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.optimizer.base_lr,
            weight_decay=config.optimizer.weight_decay,
        )
        loss_of = torch.nn.functional.cross_entropy

        def step(images, labels):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(network(images), labels, label_smoothing=config.label_smoothing)
            loss.backward()
            optimizer.step()
            return loss

        # The optimizer stays outside: compiled as a whole its step is no faster, and takes minutes.
        if compiled:
            network.compile()
        self._step = step
        count = setup.steps_per_epoch * config.batch
        images = torch.from_numpy(np.ascontiguousarray(examples.images[:count]))
        self._images = images.permute(0, 3, 1, 2).split(config.batch)
        self._labels = torch.from_numpy(examples.labels[:count].astype(np.int64)).split(
            config.batch
        )
        self.compile_seconds = self._first_step()
        self.seconds()

    def seconds(self) -> float:
        """Trains on every batch once and returns how long it took."""
        start = time.perf_counter()
        for images, labels in zip(self._images, self._labels, strict=True):
            self._step(images.float() / 127.5 - 1.0, labels)
        return time.perf_counter() - start

    def _first_step(self) -> float:
        start = time.perf_counter()
        self._step(self._images[0].float() / 127.5 - 1.0, self._labels[0])
        return time.perf_counter() - start


def import_torch():
    """The module torch, or an UserError that says how to have it."""
    try:
        import torch
    except ImportError:
        raise UserError(
            '--against=torch: PyTorch is not installed; pip install torch==2.13.0, or leave '
            'torch out of --against'
        ) from None
    return torch


def check_optimizer(optimizer: ml_collections.ConfigDict) -> None:
    """Raises UserError if `config.optimizer` is not what `TimedTorch` has: AdamW, unclipped."""
    for key, allowed in (('name', 'adamw'), ('grad_norm_clip', 0.0)):
        if optimizer[key] != allowed:
            raise UserError(
                f'config.optimizer.{key} = {optimizer[key]!r}: --against=torch compares with '
                f'{allowed!r} alone; leave torch out of --against, or set that'
            )


def left_out(config: ml_collections.ConfigDict) -> list[str]:
    """What a config asks for that the steps of `TimedTorch` do not do, as 'config.KEY = VALUE'."""
    augment = config.augment
    found = {key: augment[key] for key in ('min_crop_area', 'flip', 'translate', 'mixup', 'cutmix')}
    found['randaugment.num_layers'] = augment.randaugment.num_layers
    return [f'config.augment.{key} = {value}' for key, value in found.items() if value]


class _Sizes(NamedTuple):
    tokens: int
    channels: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    approximate: str


def mixer(torch, setup: Setup):
    """A Mixer as a PyTorch program has it: a dilated convolution, blocks, norm, mean, head.

    Args:
      torch: the module.
      setup: whose network.

    Returns:
      A `torch.nn.Module` from float images (batch, channels, height, width) to logits.
    """
    nn = torch.nn
    plain = plain_sizes(setup.config)
    height, width, channels = setup.dataset.image_shape
    patches, hidden_dim = plain['patches'], plain['hidden_dim']
    (top, bottom), (left, right) = patches.pads((height, width))
    sizes = _Sizes(
        setup.num_tokens,
        hidden_dim,
        plain['tokens_mlp_dim'],
        plain['channels_mlp_dim'],
        'tanh' if plain['gelu'] == 'tanh' else 'none',
    )
    blocks = [_block(nn, sizes) for _ in range(plain['num_blocks'])]
    stem = nn.Conv2d(
        channels, hidden_dim, patches.size, stride=patches.stride, dilation=patches.dilation
    )

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad = nn.ConstantPad2d((left, right, top, bottom), 0.0)
            self.stem = stem
            self.blocks = nn.Sequential(*blocks)
            self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
            self.head = nn.Linear(hidden_dim, setup.dataset.num_classes)

        def forward(self, images):
            tokens = self.stem(self.pad(images)).flatten(2).transpose(1, 2)
            return self.head(self.norm(self.blocks(tokens)).mean(dim=1))

    return Mixer()


def _block(nn, sizes: _Sizes):
    def mlp(width, hidden):
        return nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(approximate=sizes.approximate),
            nn.Linear(hidden, width),
        )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_0 = nn.LayerNorm(sizes.channels, eps=1e-6)
            self.token_mixing = mlp(sizes.tokens, sizes.tokens_mlp_dim)
            self.norm_1 = nn.LayerNorm(sizes.channels, eps=1e-6)
            self.channel_mixing = mlp(sizes.channels, sizes.channels_mlp_dim)

        def forward(self, x):
            y = self.token_mixing(self.norm_0(x).transpose(1, 2))
            x = x + y.transpose(1, 2)
            return x + self.channel_mixing(self.norm_1(x))

    return Block()
