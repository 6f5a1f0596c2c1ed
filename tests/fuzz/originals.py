"""The undamaged folders of the fuzzer, what commands print of them, and the cases made of them."""

import multiprocessing
import pathlib
import random
import shutil
from importlib.util import find_spec

import numpy as np
from PIL import Image

from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.config_keys import KEYS
from tests.conftest import config_file, small_config
from tests.data.array_sets import arrays, write_idx
from tests.data.image_sets import put_classes, put_listing
from tests.report_folders import KINDS, make_kind
from tests.tfds_files import encoded, grey, write_set

CONFIG = {'num_epochs': 1, 'num_seeds': 2, 'dataset.val_split': 'train[300:400]'}
CONFIG |= {'checkpoints.every_steps': 4, 'augment.translate': 1}
# Data sets that are files, of 8×8 grey images: `dataset.name` by the folder of the files.
DATASETS = {'pets': 'folder:pets', 'arrays': 'npz:arrays/set.npz', 'idx': 'idx:idx'}
DATASETS |= {'table': 'csv:table/labels.csv', 'tfds': 'tiny'}
OF_DATASETS = {'num_epochs': 1, 'batch': 8, 'dataset.channels': 1, 'dataset.image_size': 8}
OF_DATASETS |= {'dataset.train_split': 'train', 'dataset.test_split': 'test'}
CELLS = [
    f'dataset={name}_dilation={k}' for name in ('digits', 'npz-arrays-set.npz') for k in (1, 2)
]
RESULTS = ('metrics.jsonl', 'weights.npz', 'predictions.npz')
SWEEP = """
from ml_collections import ConfigDict
from mixer_dilated.studies.sweep import Sweep, Trial, grid, product


def get_sweep():
    trials = grid({'model.patches.dilation': (1, 2)})
    base = ConfigDict(%r)
    datasets = [Trial({'dataset': name}, {'dataset.name': name}) for name in %r]
    return Sweep(title='Small', question='Which?', base=base, trials=product(datasets, trials),
                 reference={'dilation': 1})
"""
ODD = ('', ' ', '-1', '0', '1.5', 'nan', '1e999', '()', '(1,', '[[]]', '{}', 'None', 'True', '=')
ODD += ('\x1b[2J', '9' * 40, 'x' * 5000, '../..', '.', '..', 'run', 'images', '--', '-', '\u202e')
ODD += ('pipe', 'socket', 'gs://', 'test[', 'train[:0]', 'test[::2]', 'test', 'x.npz', 'é' * 300)
WORDS = ('--workdir', '--config', '--split', '--data_dir', '--checkpoint', '--calibrate', '--top')
WORDS += ('--csv', '--json', '--sheet', '--max_pixels', '--picture', '--sweep', '--seeds')
WORDS += ('--output', '--format', '--names', '--num_processes', '--x', '--config.', '-h')


def make_originals(folder: pathlib.Path, call) -> None:
    """Makes run, unfinished, study, half, weights, images, data sets, kinds/KIND and files.

    `call(words)` runs a command.
    """
    config_file(folder, **CONFIG)
    make_datasets(folder)
    datasets = 'digits', DATASETS['arrays']
    (folder / 'sweep.py').write_text(SWEEP % (small_config(**CONFIG).to_dict(), datasets))
    call('train', '--config=config.py', '--workdir=run')
    call('evaluate', '--workdir=run', '--calibrate=train[300:400]')
    shutil.copytree(folder / 'run', folder / 'unfinished')
    make_unfinished(folder / 'unfinished')
    call('sweep', '--sweep=sweep.py', '--workdir=study')
    shutil.copytree(folder / 'study', folder / 'half')
    for cell in sorted((folder / 'half' / 'cells').iterdir())[2:]:  # of the second data set
        make_unfinished(cell)
    for kind in KINDS[1:]:
        make_kind(kind, folder / 'kinds' / kind)
    (folder / 'weights').mkdir()
    torch = ['w.pth'] if find_spec('torch') else []  # writes this format
    names = 'w.npz', 'w.safetensors', 'orbax', *torch
    for name in names:
        call('convert', 'run', f'weights/{name}')
    (folder / 'images').mkdir()
    for k in range(2):
        image = np.random.default_rng(k).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(image).save(folder / 'images' / f'{k}.png')


def make_unfinished(folder: pathlib.Path) -> None:
    """Takes the results and the last checkpoint out of a run."""
    for name in ('summary.json', 'weights.npz', 'predictions.npz', 'checkpoints/9'):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_datasets(folder: pathlib.Path) -> None:
    """Makes the files of the data sets, and NAME.py, which trains on them."""
    put_classes(folder / 'pets')
    put_listing(folder / 'table')
    write_idx(folder / 'idx', arrays(shape=(8, 8)), packed=True)
    (folder / 'arrays').mkdir()
    np.savez(folder / 'arrays' / 'set.npz', **arrays(train=400, test=100, shape=(8, 8)))
    records = [(encoded(grey(k)), k % 3) for k in range(12)]
    # In a process of its own: the writer starts threads, which children would not have.
    writer = multiprocessing.get_context('fork').Process(
        target=write_set, args=(folder / 'tfds', records)
    )
    writer.start()
    writer.join()
    for name, dataset in DATASETS.items():
        place = {'dataset.name': dataset, 'dataset.data_dir': name if name == 'tfds' else ''}
        config_file(folder, f'{name}.py', **OF_DATASETS, **place)


PLAN = 'plan --config=config.py --devices=this'
# How often, what is damaged, which files of it (with '**/*' sometimes two), and the command.
# WEIGHTS stands for one of the weight files.
CASES = [
    (2, 'run', '**/*', 'report run'),
    (1.5, 'kinds', '**/*', 'report'),
    (0.4, 'study', '**/*', 'report study'),
    (0.4, 'half', '**/*', 'report half'),
    (3, 'run', '**/*', 'evaluate --workdir=run'),
    (1, 'run', '**/*', 'evaluate --workdir=run --calibrate=train[300:400]'),
    (3, 'run', '**/*', 'predict --workdir=run images'),
    (1, 'images', '*', 'predict --workdir=run images'),
    (3, 'run', '**/*', 'train --config=config.py --workdir=run'),
    (2, 'unfinished', '**/*', 'train --config=config.py --workdir=unfinished'),
    (1, 'study', '**/*', 'sweep --sweep=sweep.py --workdir=study'),
    (0.6, 'half', '**/*', 'sweep --sweep=sweep.py --workdir=half'),
    *((1, name, '**/?*', f'train --config={name}.py --workdir=new') for name in DATASETS),
    (3, 'run', '**/*', 'export --workdir=run --output=out'),
    (3, 'run', '**/*', 'convert run out.npz'),
    (4, 'weights', '**/*', 'convert WEIGHTS out.safetensors'),
    (3, 'weights', '**/*', 'probe --config=config.py --config.init_from=WEIGHTS '
     '--split=train[300:350]'),
    (2, 'weights', '**/*', 'train --config=config.py --config.init_from=WEIGHTS --workdir=new'),
    (1, 'run', '**/*', 'train --config=config.py --config.init_from=run --workdir=new'),
    (1, '.', 'config.py', 'summary --config=config.py'),
    (0.5, '.', 'config.py', PLAN),
    (5, None, '', 'words'),
]  # fmt: skip
# Commands with the same results.
RESUMED = [
    [f'{command} --workdir={name}' for name in names]
    for command, *names in (
        ('train --config=config.py', 'run', 'unfinished'),
        ('sweep --sweep=sweep.py', 'study', 'half'),
    )
]


def odd_words(draw: random.Random) -> list[str]:
    """A command line of which some words are odd."""
    commands = [name for name in COMMANDS if name not in ('benchmark', 'plan', 'table1')]
    lines = [case[3] for case in CASES if case[1] and case[3] not in ('report', PLAN)]
    whole = draw.choice(lines).replace('WEIGHTS', 'weights/w.npz')
    words = whole.split(' ')
    for _ in range(draw.choice((1, 1, 2, 3))):
        key = draw.choice([key for key in KEYS if key not in ('dataset.name', 'num_epochs')])
        flag = draw.choice((*WORDS, f'--config.{key}', f'--config.{key}'))
        odd = draw.choice(ODD)
        word = draw.choice((odd, f'{flag}={odd}', f'{flag}={odd}', f'{flag}={odd}', flag))
        how = draw.randrange(4)
        if how == 0 and len(words) > 1:
            words[draw.randrange(1, len(words))] = word
        elif how == 1 and len(words) > 1:
            number = draw.randrange(1, len(words))
            words[number] = f'{words[number].partition("=")[0]}={odd}'
        elif how == 2:
            words[0] = draw.choice((*commands, odd))
        else:
            words.insert(draw.randrange(len(words) + 1), word)
    return words
