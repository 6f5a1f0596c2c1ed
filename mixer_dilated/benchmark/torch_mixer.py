"""The same network, optimizer and loss in PyTorch, where it is installed."""

import functools
from collections.abc import Callable

import ml_collections
import numpy as np

from mixer_dilated.config import flat, patch_branches, resolve
from mixer_dilated.errors import UserError
from mixer_dilated.training.setup import Setup

# Keys that have to be at their defaults, and others with the one value that is compared.
OF_MODEL = ('branches', 'phases', 'blur', 'dropout_rate', 'stoch_depth', 'remat', 'head_bias_init')
OF_OPTIMIZER = ('beta2', 'eps', 'momentum_dtype')
DEFAULTS_ONLY = ('loss', 'augment.random_phase', *(f'model.{key}' for key in OF_MODEL))
DEFAULTS_ONLY += tuple(f'optimizer.{key}' for key in OF_OPTIMIZER)
ADAMW_ONLY = {'optimizer.name': 'adamw', 'optimizer.grad_norm_clip': 0.0}
AUGMENTS = ('min_crop_area', 'flip', 'translate', 'mixup', 'cutmix', 'randaugment.num_layers')
LEFT_OUT = tuple(f'augment.{key}' for key in AUGMENTS)


def torch_step(setup: Setup, compiled: bool = False) -> tuple[Callable, list[tuple]]:
    """A training step of PyTorch on the CPU, and the (images, labels) of an epoch's steps.

    The network is compiled by `torch.compile`, at the first step, if `compiled`. Raises UserError
    as `check_torch`.
    """
    config, torch = setup.config, check_torch(setup.config)
    torch.manual_seed(0)
    network = mixer(torch, setup)
    lr, weight_decay = config.optimizer.base_lr, config.optimizer.weight_decay
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    loss = functools.partial(
        torch.nn.functional.cross_entropy, label_smoothing=config.label_smoothing
    )

    def step(images, labels):
        optimizer.zero_grad(set_to_none=True)
        loss(network(images.float() / 127.5 - 1.0), labels).backward()
        optimizer.step()

    # The optimizer stays outside: compiled as a whole its step is no faster, and takes minutes.
    if compiled:
        network.compile()
    examples, count = setup.dataset.read('train'), setup.steps_per_epoch * config.batch
    images = torch.from_numpy(np.ascontiguousarray(examples.images[:count]))
    labels = torch.from_numpy(examples.labels[:count].astype(np.int64))
    batches = (images.permute(0, 3, 1, 2).split(config.batch), labels.split(config.batch))
    return step, [*zip(*batches, strict=True)]


def check_torch(config: ml_collections.ConfigDict):
    """Returns the module torch; raises UserError if it is not installed, or the config asks for
    what `torch_step` lacks."""
    values, defaults = flat(config), flat(resolve({}))
    for key, allowed in ({key: defaults[key] for key in DEFAULTS_ONLY} | ADAMW_ONLY).items():
        if values[key] != allowed:
            hint = f'--against=torch compares with {allowed!r} alone; set that, or leave torch out'
            raise UserError(f'config.{key} = {values[key]!r}: {hint} of --against')
    try:
        import torch
    except ImportError:
        install = 'pip install torch==2.13.0, or leave torch out of --against'
        raise UserError(f'--against=torch: PyTorch is not installed; {install}') from None
    return torch


def left_out(config: ml_collections.ConfigDict) -> list[str]:
    """What a config asks for that the step of `torch_step` does not do, as 'config.KEY = VALUE'."""
    values = flat(config)
    return [f'config.{key} = {values[key]}' for key in LEFT_OUT if values[key]]


def mixer(torch, setup: Setup):
    """A Mixer as a PyTorch program has it: a dilated convolution, blocks, norm, mean, head.

    A `torch.nn.Module` from float images (batch, channels, height, width) to logits.
    """
    nn, model = torch.nn, setup.config.model
    hidden_dim, num_tokens = model.hidden_dim, setup.num_tokens
    (patches,) = patch_branches(model)
    (top, bottom), (left, right) = patches.pads(setup.image_size)
    norm = functools.partial(nn.LayerNorm, hidden_dim, eps=1e-6)

    def mlp(features, mlp_dim):
        gelu = nn.GELU(approximate='tanh' if model.gelu == 'tanh' else 'none')
        return nn.Sequential(nn.Linear(features, mlp_dim), gelu, nn.Linear(mlp_dim, features))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_0, self.norm_1 = norm(), norm()
            self.token_mixing = mlp(num_tokens, model.tokens_mlp_dim)
            self.channel_mixing = mlp(hidden_dim, model.channels_mlp_dim)

        def forward(self, x):
            y = self.token_mixing(self.norm_0(x).transpose(1, 2))
            x = x + y.transpose(1, 2)
            return x + self.channel_mixing(self.norm_1(x))

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad = nn.ConstantPad2d((left, right, top, bottom), 0.0)
            channels, strides = setup.dataset.image_shape[-1], (patches.size, patches.stride)
            self.stem = nn.Conv2d(channels, hidden_dim, *strides, dilation=patches.dilation)
            self.blocks = nn.Sequential(*(Block() for _ in range(model.num_blocks)))
            self.norm = norm()
            self.head = nn.Linear(hidden_dim, setup.dataset.num_classes)

        def forward(self, images):
            tokens = self.stem(self.pad(images)).flatten(2).transpose(1, 2)
            return self.head(self.norm(self.blocks(tokens)).mean(dim=1))

    return Mixer()
