"""All config keys: default, allowed values, meaning. `python run.py keys` prints them."""

from typing import Any, NamedTuple

from mixer_dilated.allowed_values import (
    BOOLEAN,
    BRANCHES,
    FACTOR,
    FRACTION,
    IMAGE_SIZE,
    LENGTH,
    MIXUP_ALPHA,
    NAME,
    NON_NEGATIVE,
    OFFSET,
    PADDING,
    POSITIVE,
    RATE,
    TEXT,
    Allowed,
    either,
    integer,
    number,
    one_of,
)
from mixer_dilated.errors import UserError


class Key(NamedTuple):
    default: Any
    allowed: Allowed
    meaning: str


KEYS: dict[str, Key] = {
    # Training
    'seed': Key(0, integer(0), 'source of all randomness'),
    'num_seeds': Key(1, integer(1), 'seeds trained together: seed, seed + 1, …'),
    'num_epochs': Key(10, integer(1), 'passes over the training examples'),
    'total_steps': Key(0, integer(0), 'training steps, instead of num_epochs; 0 is num_epochs'),
    'batch': Key(128, integer(1), 'training examples per step'),
    'accum_steps': Key(
        1, integer(1), 'microbatches per step, to save memory; dropout masks depend on it'
    ),
    'dtype': Key('float32', one_of('float32', 'bfloat16'), 'of matrix products and activations'),
    'loss': Key(
        'softmax',
        one_of('softmax', 'sigmoid'),
        "of training: cross-entropy of all classes, or summed over each one's; evaluation: softmax",
    ),
    'label_smoothing': Key(0.0, RATE, 'probability spread over all classes'),
    'on_nonfinite': Key(
        'stop', one_of('stop', 'skip'), 'at a loss or gradient that is not finite: end or skip step'
    ),
    'devices': Key('', TEXT, "that the config is for and plan compiles for: 'v5e:4x4, h100:8'"),
    # Evaluation
    'batch_eval': Key(128, integer(1), 'examples per evaluation step, rounded up to the devices'),
    'eval_every': Key(1, integer(1), 'epochs between evaluations; the last epoch always has one'),
    # Transfer
    'init_from': Key(
        '', TEXT, "weights: .npz, .safetensors, timm's .pth, a run or its like; gs://, https://"
    ),
    'transfer.head': Key('new', one_of('new', 'keep'), "zeros for this data set, or init_from's"),
    'transfer.stem': Key(
        'resize',
        one_of('resize', 'sample', 'new'),
        "of other patches: FlexiViT's resize, the nearest pixels, or random",
    ),
    'transfer.grid': Key(
        0, either(0, LENGTH), "(rows, columns) of init_from's tokens, if its file lacks it"
    ),
    'transfer.tokens': Key(
        'interpolate',
        one_of('interpolate', 'block_diagonal'),
        'other grid: token mixing interpolated, or repeated where tokens_mlp_dim grows as the grid',
    ),
    # Data set
    'dataset.name': Key(
        'mnist',
        NAME,
        "'digits', 'folder:PATH' (a folder per class), 'csv:FILE' (file names and labels), "
        "'npz:FILE' (arrays), 'idx:FOLDER' (MNIST's files) or TFDS name",
    ),
    'dataset.train_split': Key('train[:10000]', NAME, 'training examples, in TFDS split syntax'),
    'dataset.val_split': Key(
        '', TEXT, "validation examples; epochs are evaluated on them; '' evaluates on test_split"
    ),
    'dataset.test_split': Key('test[:2500]', NAME, 'test examples; with val_split evaluated once'),
    'dataset.image_key': Key('', TEXT, "feature, column or array of images; '' is the usual"),
    'dataset.label_key': Key('', TEXT, "feature, column or array of labels; '' is the usual"),
    'dataset.data_dir': Key('', TEXT, "prepared data, or parent of a relative PATH; '' is TFDS's"),
    'dataset.cache_dir': Key('', TEXT, "cache of decoded images; '' is the user's cache"),
    'dataset.max_pixels': Key(200_000_000, integer(1), 'of an image; larger ones are not decoded'),
    'dataset.white': Key(0, NON_NEGATIVE, 'white in images of 16 bits (0: 65535) and in arrays'),
    'dataset.image_size': Key(
        0, either(0, IMAGE_SIZE), 'size images are resized to; 0 is their own, not for image files'
    ),
    'dataset.decode_size': Key(
        0, either(0, integer(2)), 'pixels a side that whole images are kept at, to crop; 0: off'
    ),
    'dataset.channels': Key(3, one_of(1, 3), 'grey or RGB images of image files'),
    'dataset.resize': Key(
        'crop', one_of('crop', 'pad', 'squash'), 'other aspect ratio: crop, pad with black, distort'
    ),
    'dataset.preprocess': Key(
        'auto',
        one_of('auto', 'resize', 'mnist', 'fill'),
        "of images to predict: resize, as MNIST's (light on black, 20 of 28 pixels, centred), or "
        "such a digit that fills the image; 'auto' chooses by data set",
    ),
    'dataset.on_corrupt': Key(
        'stop', one_of('stop', 'skip'), 'at unusable image files: refuse or leave out'
    ),
    'dataset.test_fraction': Key(0.2, FRACTION, 'of each class, of a PATH without a test split'),
    'dataset.follow_links': Key(False, BOOLEAN, "whether links in 'folder:PATH' are followed"),
    'dataset.split_seed': Key(0, integer(0), 'of the test split, and the order of image files'),
    # Input pipeline
    'input.mode': Key(
        'auto',
        one_of('auto', 'memory', 'disk', 'stream'),
        "decoded images in device memory, on disk, or decoded every epoch; 'auto' by their size",
    ),
    'input.memory_gib': Key(2.0, NON_NEGATIVE, 'GiB of a decoded split up to which auto is memory'),
    'input.disk_gib': Key(
        32.0, NON_NEGATIVE, "GiB of decoded images kept on disk, in the cache; 'auto' if they fit"
    ),
    'input.workers': Key(
        'auto', either('auto', integer(0, 1000)), 'decoding processes of a stream; 0 is threads'
    ),
    'input.prefetch': Key(2, integer(1, 1000), 'batches of a stream ready on the device'),
    # Model
    'model.patches.size': Key(4, LENGTH, 'P: pixels sampled per side'),
    'model.patches.dilation': Key(1, LENGTH, 'pixels between neighbouring samples of a patch'),
    'model.patches.stride': Key(
        4, either('auto', LENGTH), "pixels between patches; 'auto' is patches by max_tokens"
    ),
    'model.patches.padding': Key('VALID', PADDING, 'zeros around the image'),
    'model.patches.offset': Key(0, OFFSET, 'pixels by which the grid is moved down and right'),
    'model.max_tokens': Key(49, integer(1), "at most so many tokens of patches 'auto'"),
    'model.branches': Key((), BRANCHES, 'several patch geometries, as changes of model.patches'),
    'model.phases': Key(1, LENGTH, 'phases of the dilated grid, a branch each; up to the dilation'),
    'model.branch_merge': Key(
        'channels', one_of('channels', 'tokens'), 'sum branches into one token, or keep all tokens'
    ),
    'model.blur': Key(False, BOOLEAN, 'low-pass filter before dilated patches'),
    'model.num_blocks': Key(4, integer(1, 1000), 'Mixer layers'),
    'model.hidden_dim': Key(64, integer(1), 'C: channels of a token'),
    'model.tokens_mlp_dim': Key(64, integer(1), 'D_S: hidden width of the token-mixing MLP'),
    'model.channels_mlp_dim': Key(128, integer(1), 'D_C: hidden width of the channel-mixing MLP'),
    'model.dropout_rate': Key(0.0, RATE, 'in every MLP'),
    'model.stoch_depth': Key(
        0.0,
        RATE,
        'drop rate of the last block; linear from 0 at the first; what is kept is divided by '
        '1 - rate, in big_vision it is not',
    ),
    'model.gelu': Key(
        'auto', one_of('auto', 'exact', 'tanh'), "exact is erf; 'auto' that of init_from, or exact"
    ),
    'model.head_bias_init': Key(
        0.0, number('of any sign', lambda v: True), 'of every class; big_vision: -6.9 for sigmoid'
    ),
    'model.remat': Key(False, BOOLEAN, 'rematerialize blocks: less memory, more time'),
    # Optimizer
    'optimizer.name': Key('adamw', one_of('adamw', 'sgd', 'lamb'), 'sgd has momentum'),
    'optimizer.base_lr': Key(0.01, POSITIVE, 'learning rate after warm-up'),
    'optimizer.decay_type': Key(
        'cosine',
        one_of('constant', 'cosine', 'linear', 'rsqrt'),
        'learning rate schedule after warm-up',
    ),
    'optimizer.end_lr': Key(
        0.0, NON_NEGATIVE, 'learning rate that cosine and linear end at, of others without effect'
    ),
    'optimizer.timescale': Key(
        10_000, integer(1), 'of rsqrt: base_lr / √(1 + steps after warm-up / timescale)'
    ),
    'optimizer.warmup_steps': Key(0, integer(0), 'steps of linear warm-up from 0'),
    'optimizer.weight_decay': Key(
        0.1,
        NON_NEGATIVE,
        "of kernels; a step takes learning rate × this of them off, as PyTorch's AdamW does; "
        "big_vision's wd is base_lr × this",
    ),
    'optimizer.momentum': Key(0.9, RATE, 'of sgd'),
    'optimizer.momentum_dtype': Key(
        'float32', one_of('float32', 'bfloat16'), "of the momentum of sgd and adamw; not of lamb's"
    ),
    'optimizer.beta2': Key(0.999, RATE, 'of adamw and lamb'),
    'optimizer.eps': Key(
        'auto', either('auto', POSITIVE), "of adamw and lamb; 'auto' is optax's, 1e-8 and 1e-6"
    ),
    'optimizer.layer_decay': Key(1.0, FACTOR, 'learning rate of a block relative to the next one'),
    'optimizer.freeze_stem': Key(False, BOOLEAN, 'keep the initial stem'),
    'optimizer.freeze_blocks': Key(0, integer(0, 1000), 'number of first blocks kept as they are'),
    'optimizer.grad_norm_clip': Key(0.0, NON_NEGATIVE, 'maximal global gradient norm; 0 is none'),
    # Augmentation
    'augment.min_crop_area': Key(0.0, RATE, 'smallest area of random resized crops; 0 is off'),
    'augment.flip': Key(False, BOOLEAN, 'random horizontal flips'),
    'augment.translate': Key(0, integer(0), 'random translation by up to so many pixels'),
    'augment.randaugment.num_layers': Key(0, integer(0), 'random operations per image; 0 is off'),
    'augment.randaugment.magnitude': Key(
        10.0,
        number('in [0, 30]', lambda v: 0 <= v <= 30),
        "of operations; 10 is AutoAugment's most",
    ),
    'augment.randaugment.fill': Key(0, integer(0, 255), 'of uncovered pixels; big_vision has 128'),
    'augment.randaugment.operations': Key(
        'paper',
        one_of('paper', 'big_vision'),
        "the paper's 14 operations, each in both directions, or big_vision's 16",
    ),
    'augment.mixup': Key(0.0, MIXUP_ALPHA, 'alpha of mixup; 0 is off'),
    'augment.cutmix': Key(0.0, MIXUP_ALPHA, 'alpha of CutMix; with mixup too, one per batch'),
    'augment.random_phase': Key(
        False, BOOLEAN, 'train at a random phase of the dilated grid, evaluate the mean over phases'
    ),
    # Devices
    'mesh.seed': Key(0, integer(0), 'devices that share out the seeds; 0: as many as divide them'),
    'mesh.data': Key(0, integer(0), "devices that share out a seed's batch; 0: all that are left"),
    'mesh.model': Key(1, integer(1), 'devices that share out the hidden width of each MLP'),
    'mesh.fsdp': Key(False, BOOLEAN, 'shard parameters and optimizer state over mesh.data too'),
    # Checkpoints
    'checkpoints.keep': Key(2, integer(1), 'newest checkpoints kept'),
    'checkpoints.keep_best': Key(False, BOOLEAN, 'keep that of the best accuracy on val_split too'),
    'checkpoints.every_minutes': Key(0.25, POSITIVE, 'minutes between checkpoints'),
    'checkpoints.every_steps': Key(0, integer(0), 'steps between further checkpoints; 0 is none'),
}

# Old names, accepted with a warning; None where the key is gone.
ALIASES: dict[str, str | None] = {
    'model.join': 'model.branch_merge',
    'dataset.on_broken': 'dataset.on_corrupt',
    'dataset.test_share': 'dataset.test_fraction',
    'augment.shift': 'augment.translate',
    'augment.crop': 'augment.min_crop_area',
    'checkpoints.other_versions': None,
}

# The trained network does not depend on these: runs that differ in them alone are the same run.
RUNTIME_ONLY_KEYS = (
    'devices',
    'dataset.data_dir',
    'dataset.cache_dir',
    'dataset.max_pixels',
    'batch_eval',
    'eval_every',
    # 'stop' ends a run that 'skip' would change.
    'dataset.on_corrupt',
    'on_nonfinite',
    *(path for path in KEYS if path.startswith(('input.', 'checkpoints.', 'mesh.'))),
)

# Mixer paper (arXiv:2105.01601), Table 1.
_NETWORK_KEYS = ('num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim')
_SIZES = {
    'S': (8, 512, 256, 2048),
    'B': (12, 768, 384, 3072),
    'L': (24, 1024, 512, 4096),
    'H': (32, 1280, 640, 5120),
}
PRESETS = ('S/32', 'S/16', 'B/32', 'B/16', 'L/32', 'L/16', 'H/14')


def preset_values(name: str) -> dict:
    """The keys of `config.model` that a preset sets, nested; GELU is the original's tanh form.

    Raises UserError if there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(
            f'config.model = {name!r}: no such preset; allowed are {", ".join(PRESETS)}, or the '
            'keys of config.model one by one'
        )
    size, patch = name.split('/')
    widths = dict(zip(_NETWORK_KEYS, _SIZES[size], strict=True))
    return {'patches': {'size': int(patch), 'stride': int(patch)}, **widths, 'gelu': 'tanh'}
