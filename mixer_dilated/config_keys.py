"""The table of all configuration keys: default, what is allowed, meaning."""

import dataclasses
from collections.abc import Callable
from typing import Any

from mixer_dilated.errors import UserError


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value may be: the phrase that messages use, and the test."""

    allowed: str
    test: Callable[[Any], bool]


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _whole(minimum: int, maximum: int = 2**31 - 1) -> Kind:
    return Kind(
        f'a whole number from {minimum} to {maximum}',
        lambda v: type(v) is int and minimum <= v <= maximum,
    )


def _one_of(*words: Any) -> Kind:
    listed = ', '.join(repr(word) for word in words)
    return Kind(f'one of {listed}', lambda v: type(v) is type(words[0]) and v in words)


_AT_LEAST_0 = Kind('a number of at least 0', lambda v: _number(v) and v >= 0)
_ABOVE_0 = Kind('a number above 0', lambda v: _number(v) and v > 0)
_SHARE = Kind('a number from 0 up to but without 1', lambda v: _number(v) and 0 <= v < 1)
_FACTOR = Kind('a number above 0 and up to 1', lambda v: _number(v) and 0 < v <= 1)
_SHARE_ABOVE_0 = Kind('a number above 0 and below 1', lambda v: _number(v) and 0 < v < 1)
_IMAGE_SIZE = Kind(
    '0, a whole number from 1 to 8192, or a pair (height, width) of such',
    lambda v: (
        (type(v) is int and 0 <= v <= 8192)
        or (
            type(v) is tuple
            and len(v) == 2
            and all(type(side) is int and 1 <= side <= 8192 for side in v)
        )
    ),
)
_WORKERS = Kind(
    "'auto' or a whole number from 0 to 1000",
    lambda v: v == 'auto' or (type(v) is int and 0 <= v <= 1000),
)
_TRUTH = Kind('True or False', lambda v: type(v) is bool)
# Beyond these bounds a float32 draw from the Beta distribution is not a number.
_MIXUP = Kind(
    '0, or a number from 0.001 to 1000', lambda v: _number(v) and (v == 0 or 1e-3 <= v <= 1e3)
)
_TEXT = Kind('text', lambda v: type(v) is str)
_NAME = Kind('text that is not empty', lambda v: type(v) is str and v.strip() != '')
# The geometry itself says what is allowed, and refuses the rest by name and value.
_GEOMETRY = Kind('see Patches', lambda v: True)
_BRANCHES = Kind(
    "a tuple of dicts, like ({'dilation': 1}, {'dilation': 2})",
    lambda v: type(v) is tuple and all(type(branch) is dict for branch in v),
)

Key = tuple[Any, Kind, str]

KEYS: dict[str, Key] = {
    'seed': (0, _whole(0), 'everything random comes from it'),
    'num_seeds': (1, _whole(1), 'independent seeds in one program: seed, seed + 1, …'),
    'num_epochs': (10, _whole(1), 'passes over the training examples'),
    'batch': (128, _whole(1), 'training examples a step'),
    'accum_steps': (
        1,
        _whole(1),
        'parts of a batch that are computed one after the other, for one update from the mean of '
        'their gradients: memory of a part. Dropout draws other numbers than without parts',
    ),
    'dtype': (
        'float32',
        _one_of('float32', 'bfloat16'),
        'of the computation; parameters, statistics, softmax and loss are float32 either way',
    ),
    'batch_eval': (
        512,
        _whole(1),
        'examples a step of the evaluation, at most all there are, rounded up to the devices',
    ),
    'eval_every': (
        1,
        _whole(1),
        'epochs from one evaluation to the next; the last epoch has one',
    ),
    'init_from': (
        '',
        _TEXT,
        "weights to start from: a .npz of the original, a .safetensors, convert's folder, a run's",
    ),
    'transfer.head': (
        'new',
        _one_of('new', 'keep'),
        'whether the head of init_from is replaced by zeros for the classes of this data set',
    ),
    'transfer.stem': (
        'sample',
        _one_of('sample', 'resize'),
        'how a stem kernel becomes one of other patches: sampled at their pixels, or resized by '
        'the pseudo-inverse',
    ),
    'transfer.tokens': (
        'interpolate',
        _one_of('interpolate', 'block_diagonal'),
        'how token mixing becomes that of another grid; block_diagonal, for a grid grown by a '
        'whole factor, needs tokens_mlp_dim grown likewise',
    ),
    'dataset.name': (
        'mnist',
        _NAME,
        "'digits' (embedded), 'folder:PATH' (pictures in a folder a class), or a TFDS image "
        'classification set',
    ),
    'dataset.train_split': ('train[:10000]', _NAME, 'training examples, in TFDS split syntax'),
    'dataset.test_split': ('test[:2500]', _NAME, 'evaluation examples, in TFDS split syntax'),
    'dataset.data_dir': (
        '',
        _TEXT,
        "where prepared data lies; '' is TFDS_DATA_DIR or TFDS's own, or for 'folder:PATH' here",
    ),
    'dataset.cache_dir': ('', _TEXT, "where decoded images are kept; '' is the user's cache"),
    'dataset.max_pixels': (
        2**24,
        _whole(1),
        'pixels of an image; data with larger ones is refused before it is decoded',
    ),
    'dataset.image_size': (
        0,
        _IMAGE_SIZE,
        'pixels a side that images are brought to; 0 for their own. It has to be set for '
        "'folder:PATH' and other sets of several sizes",
    ),
    'dataset.channels': (3, _one_of(1, 3), "of pictures of 'folder:PATH': grey or colour"),
    'dataset.resize': (
        'crop',
        _one_of('crop', 'pad', 'squash'),
        'of images of another shape: the middle is cut out, or black added, or the shape changed',
    ),
    'dataset.preprocess': (
        'auto',
        _one_of('auto', 'resize', 'mnist', 'fill'),
        "how pictures come to the form of the data: resized; as MNIST's: light on black, the digit "
        "in 20 of 28 pixels by its centre of mass; so, but filling the image; 'auto' is 'mnist' "
        "for mnist, 'fill' for fashion_mnist and digits, else 'resize'",
    ),
    'dataset.on_broken': (
        'stop',
        _one_of('stop', 'skip'),
        "what to do where 'folder:PATH' has files that cannot be used: refuse it and name them, or "
        'leave them out and count them',
    ),
    'dataset.test_share': (
        0.2,
        _SHARE_ABOVE_0,
        "of each class of 'folder:PATH', where it has no train and test folders",
    ),
    'dataset.split_seed': (
        0,
        _whole(0),
        "decides which pictures of 'folder:PATH' are for testing, and the order of all",
    ),
    'input.mode': (
        'auto',
        _one_of('auto', 'memory', 'stream'),
        "where images wait for their step: 'memory', decoded, on the device; 'stream' decodes them "
        "again and again, just before; 'auto' takes memory up to input.memory_gib",
    ),
    'input.memory_gib': (
        2.0,
        _AT_LEAST_0,
        "GiB of decoded images of a split up to which 'auto' keeps them in memory",
    ),
    'input.workers': (
        'auto',
        _WORKERS,
        'processes that decode a stream, of which training and test examples have one each; 0 for '
        "threads of this process, which share Python's lock; "
        "'auto' is one a core that there is room for, but 0 where those are up to 4",
    ),
    'input.prefetch': (2, _whole(1, 1000), 'batches of a stream ready ahead on the device'),
    'model.patches.size': (4, _GEOMETRY, 'P: pixels sampled a side; a number or (height, width)'),
    'model.patches.dilation': (1, _GEOMETRY, 'pixels from one sample to the next'),
    'model.patches.stride': (4, _GEOMETRY, 'pixels from one patch to the next'),
    'model.patches.padding': (
        'VALID',
        _GEOMETRY,
        "'VALID', 'SAME' or ((top, bottom), (left, right))",
    ),
    'model.patches.offset': (0, _GEOMETRY, 'pixels by which all patches are moved down and right'),
    'model.branches': (
        (),
        _BRANCHES,
        'several kinds of patches: a tuple of dicts, each what differs from model.patches',
    ),
    'model.phases': (
        1,
        _GEOMETRY,
        'phases of the dilated grid side by side, each a branch; a number or (height, width), '
        'at most the dilation',
    ),
    'model.join': (
        'channels',
        _one_of('channels', 'tokens'),
        'whether branches share tokens or add tokens',
    ),
    'model.blur': (False, _TRUTH, 'whether images are smoothed before dilated patches sample them'),
    'model.num_blocks': (4, _whole(1, 1000), 'Mixer layers'),
    'model.hidden_dim': (64, _whole(1), 'C: channels of a token'),
    'model.tokens_mlp_dim': (64, _whole(1), 'hidden width of the token mixing MLP'),
    'model.channels_mlp_dim': (128, _whole(1), 'hidden width of the channel mixing MLP'),
    'model.dropout_rate': (0.0, _SHARE, 'share dropped in every MLP while training'),
    'model.stoch_depth': (
        0.0,
        _SHARE,
        "share of the examples for which training skips the last block's MLPs; evenly from 0 at "
        'the first block',
    ),
    'model.gelu': (
        'auto',
        _one_of('auto', 'exact', 'tanh'),
        "erf form, or the approximation the original was trained with; 'auto' is 'tanh' where "
        "init_from is a .npz, the original's form, which cannot say its own, else 'exact'",
    ),
    'model.remat': (
        False,
        _TRUTH,
        'whether the gradient computes each block anew instead of keeping its insides: less '
        'memory, more time',
    ),
    'optimizer.name': ('adamw', _one_of('adamw', 'sgd', 'lamb'), 'sgd has momentum'),
    'optimizer.base_lr': (0.01, _ABOVE_0, 'learning rate after warm-up'),
    'optimizer.decay_type': (
        'cosine',
        _one_of('constant', 'cosine', 'linear'),
        'how the learning rate falls; cosine and linear end at 0',
    ),
    'optimizer.warmup_steps': (0, _whole(0), 'steps of linear warm-up from 0'),
    'optimizer.weight_decay': (0.1, _AT_LEAST_0, 'on kernels; never on biases and LayerNorm'),
    'optimizer.momentum': (0.9, _SHARE, 'of sgd'),
    'optimizer.layer_decay': (
        1.0,
        _FACTOR,
        'factor of the learning rate from each block to the one before it; 1 is the same for all',
    ),
    'optimizer.freeze_stem': (False, _TRUTH, 'whether the stem stays as it is'),
    'optimizer.freeze_blocks': (0, _whole(0, 1000), 'first blocks that stay as they are'),
    'optimizer.grad_norm_clip': (0.0, _AT_LEAST_0, 'largest global gradient norm; 0 is no limit'),
    'label_smoothing': (0.0, _SHARE, 'share of a label spread over all classes'),
    'augment.crop': (
        0.0,
        _SHARE,
        'smallest share of the area of random crops, resized to the image; 0 is off',
    ),
    'augment.flip': (False, _TRUTH, 'whether half of the training images are mirrored'),
    'augment.shift': (0, _whole(0), 'random shift of training images, pixels either way'),
    'augment.randaugment.num_layers': (
        0,
        _whole(0),
        'random operations on each training image, one after the other; 0 is off',
    ),
    'augment.randaugment.magnitude': (
        10.0,
        Kind('a number from 0 to 30', lambda v: _number(v) and 0 <= v <= 30),
        "how strong they are; 10 is AutoAugment's strongest",
    ),
    'augment.randaugment.fill': (
        0,
        Kind('a whole number from 0 to 255', lambda v: type(v) is int and 0 <= v < 256),
        'what moves in where they move an image; 0 is black, the original has 128',
    ),
    'augment.mixup': (0.0, _MIXUP, 'alpha of mixup: training images and labels in pairs; 0 is off'),
    'augment.cutmix': (
        0.0,
        _MIXUP,
        'alpha of cutmix: a box of one training image in the next; 0 is off. With mixup too, each '
        'batch has one of them at random',
    ),
    'augment.random_phase': (
        False,
        _TRUTH,
        'training shows each image at a random phase of the dilated grid, evaluation averages '
        'the probabilities over all phases',
    ),
    'mesh.seed': (0, _whole(0), 'devices that seeds are dealt out over; 0 is all that divide them'),
    'mesh.data': (0, _whole(0), 'devices that split the batch of a seed; 0 is all that are left'),
    'mesh.model': (1, _whole(1), 'devices that split each MLP by its hidden width'),
    'mesh.fsdp': (
        False,
        _TRUTH,
        'whether mesh.data splits parameters and optimizer state too (fully sharded data parallel)',
    ),
    'on_nonfinite': (
        'stop',
        _one_of('stop', 'skip'),
        'what to do at a step whose loss or gradient is not finite: end the run, or leave the '
        'step out and count it',
    ),
    'checkpoints.keep': (2, _whole(1), 'newest checkpoints kept'),
    'checkpoints.keep_best': (
        False,
        _TRUTH,
        'whether the one of the highest test accuracy is kept too',
    ),
    'checkpoints.every_minutes': (0.25, _ABOVE_0, 'minutes from one checkpoint to the next'),
    'checkpoints.every_steps': (0, _whole(0), 'also every so many steps; 0 is never'),
    'checkpoints.other_versions': (
        False,
        _TRUTH,
        'whether a run begun with other versions of the packages may go on with these',
    ),
}

# Two runs may differ in these and be the same run: the trained network does not depend on them.
RUNTIME_ONLY_KEYS = (
    'dataset.data_dir',
    'dataset.cache_dir',
    'dataset.max_pixels',
    # If nothing is broken, which else ends the run, skipping is the same as stopping.
    'dataset.on_broken',
    # The same examples in the same order, either way.
    *(path for path in KEYS if path.startswith('input.')),
    'batch_eval',
    'eval_every',
    # Without a step that is not finite, which ends the run, skipping is the same as stopping.
    'on_nonfinite',
    *(path for path in KEYS if path.startswith(('checkpoints.', 'mesh.'))),
)


# Mixer paper (arXiv:2105.01601), Table 1: layers, hidden size C, widths of the MLPs D_S and D_C.
_SIZES = {
    'S': (8, 512, 256, 2048),
    'B': (12, 768, 384, 3072),
    'L': (24, 1024, 512, 4096),
    'H': (32, 1280, 640, 5120),
}

PRESETS = ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')


def preset_values(name: str) -> dict:
    """The keys of `config.model` that a preset sets, nested: 'B/16' is Base with 16×16 patches.

    GELU is the tanh approximation, as in the original code and for its checkpoints.

    Raises:
      UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(
            f'config.model = {name!r}: no such preset; allowed are {", ".join(PRESETS)}, or the '
            'keys of config.model one by one'
        )
    size, patch = name.split('/')
    num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim = _SIZES[size]
    return {
        'patches': {'size': int(patch), 'stride': int(patch)},
        'num_blocks': num_blocks,
        'hidden_dim': hidden_dim,
        'tokens_mlp_dim': tokens_mlp_dim,
        'channels_mlp_dim': channels_mlp_dim,
        'gelu': 'tanh',
    }
