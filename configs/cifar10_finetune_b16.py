"""Fine-tunes the original's Mixer-B/16 on CIFAR-10 at 224 pixels, with the original's settings.

curl -O https://storage.googleapis.com/mixer_models/imagenet21k/Mixer-B_16.npz
python run.py --config=configs/cifar10_finetune_b16.py

Images are stored at 32×32 and upsampled on the device. An epoch has 95 steps, the run 9 975; the
original has 10 000, and accumulates gradients over eight microbatches, where this config
rematerializes each block (`model.remat`). For dilated patches change `config.model.patches`;
`config.transfer` says how the stem and token mixing are adapted.

Only a few steps were run, of the whole network with random weights and images of these shapes. The
training needs an accelerator, and its accuracy is not known.
"""

from mixer_dilated.config import base_config, preset


def get_config():
    config = base_config()
    config.devices = 'v5e:2x4, h100:1'
    config.init_from = 'Mixer-B_16.npz'
    config.dataset.name = 'cifar10'
    config.dataset.image_size = 224
    config.dataset.train_split = 'train[:98%]'
    config.dataset.test_split = 'test'
    config.model = preset('B/16')
    config.model.remat = True
    config.num_epochs = 105
    config.batch = 512
    config.batch_eval = 512
    config.augment.min_crop_area = 0.05
    config.augment.flip = True
    config.optimizer.name = 'sgd'
    config.optimizer.momentum_dtype = 'bfloat16'
    config.optimizer.base_lr = 0.03
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 0.0
    config.optimizer.grad_norm_clip = 1.0
    return config
