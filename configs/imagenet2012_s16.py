"""Mixer-S/16 on ImageNet from scratch, with big_vision's recipe for B/16 (`mlp_mixer_i1k.py`).

python run.py --config=configs/imagenet2012_s16.py

300 epochs of 309 steps. Different from big_vision: crops are taken of the whole image at 256×256
pixels (`dataset.decode_size`) instead of the file, so that small ones have less detail, and
stochastic depth rescales what it keeps. Its weight decay of 1e-4 and the end of its schedule, 1e-5,
are relative to the learning rate there. All of the images would be 250 GB in memory, so they stream
(`input.mode='auto'`): threads or processes (`input.workers`) decode them in every epoch, or, with
`--config.input.disk_gib=250`, in the first.

Only a few steps were run, on random images of several sizes, in memory and streaming. The accuracy
is not known.
"""

from mixer_dilated.config import base_config, preset


def get_config():
    config = base_config()
    config.devices = 'v5e:8x8, h100:8'
    config.dataset.name = 'imagenet2012'
    config.dataset.image_size = 224
    config.dataset.decode_size = 256
    config.dataset.train_split = 'train[:99%]'
    config.dataset.val_split = 'train[99%:]'
    config.dataset.test_split = 'validation'
    config.model = preset('S/16')
    config.model.stoch_depth = 0.1
    config.model.head_bias_init = -6.9
    config.loss = 'sigmoid'
    config.num_epochs = 300
    config.batch = 4096
    config.batch_eval = 512
    config.augment.min_crop_area = 0.05
    config.augment.flip = True
    config.augment.mixup = 0.5
    config.augment.randaugment.num_layers = 2
    config.augment.randaugment.magnitude = 15
    config.augment.randaugment.operations = 'big_vision'
    config.augment.randaugment.fill = 128
    config.optimizer.base_lr = 0.001
    config.optimizer.decay_type = 'linear'
    config.optimizer.end_lr = 1e-8
    config.optimizer.warmup_steps = 10_000
    config.optimizer.weight_decay = 0.1
    config.optimizer.grad_norm_clip = 1.0
    return config
