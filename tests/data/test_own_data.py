"""Data of people's own from the command line: trained on, moved, evaluated and predicted."""

import json
import shutil

import numpy as np
import pytest

from mixer_dilated.cli.main import main
from tests.data.array_sets import arrays, write_idx
from tests.data.image_sets import put, put_classes, put_listing

NAMES = {'dark\x1b[31m': 10, '<b>bright': 200}


def put_data(kind, place):
    """Data of 8×8 grey images at a place; returns its path."""
    if kind == 'csv':
        return put_listing(place, 20, **NAMES)
    if kind == 'folder':
        return put_classes(place, 20, **NAMES)
    content = arrays(64, 24, (8, 8), classes=2)
    if kind == 'idx':
        write_idx(place, content)
        return place
    np.savez(place.with_suffix('.npz'), **content)
    return place.with_suffix('.npz')


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['folder', 'csv', 'npz', 'idx'])
def test_a_network_is_trained_on_data_that_moves_and_evaluated(tmp_path, kind, capsys):
    workdir, of_files = f'--workdir={tmp_path / "run"}', kind in ('folder', 'csv')
    changes = {
        'dataset.image_size': 8, 'dataset.channels': 1, 'dataset.train_split': 'train',
        'dataset.test_split': 'test', 'batch': 8, 'num_epochs': 1, 'model.num_blocks': 1,
        'optimizer.decay_type': 'constant',
    }  # fmt: skip

    def train(path, **more):
        values = {**changes, 'dataset.name': f'{kind}:{path}', **more}.items()
        flags = [f'--config.{key}={value}' for key, value in values]
        return main(['--config=configs/digits_dilated.py', workdir, *flags], 0)

    (tmp_path / 'a').mkdir()
    path = put_data(kind, tmp_path / 'a' / 'set')
    assert train(path) == 0
    assert '\x1b' not in capsys.readouterr().out
    shutil.move(tmp_path / 'a', tmp_path / 'b')
    moved = tmp_path / 'b' / path.relative_to(tmp_path / 'a')
    assert train(moved, num_epochs=2, **{'input.mode': 'stream'}) == 0
    assert json.loads((tmp_path / 'run' / 'preprocessing.json').read_text()) == {
        'class_names': sorted(NAMES) if of_files else ['0', '1'],
        'image_shape': [8, 8, 1],
        'preprocess': 'mnist' if kind == 'idx' else 'resize',
        'resize': 'crop',
        'white': 0,
        'train_examples': 32 if of_files else 64,
        'test_examples': 8 if of_files else 24,
    }
    shutil.move(tmp_path / 'b', tmp_path / 'a')
    capsys.readouterr()
    assert main(['evaluate', workdir, f'--data_dir={path}'], 0) == 0
    assert ('8' if of_files else '24') in capsys.readouterr().out
    shutil.rmtree(tmp_path / 'a')  # which a prediction does not need
    put(tmp_path / 'new.png', 205, (8, 8))
    assert main(['predict', workdir, str(tmp_path / 'new.png')], 0) == 0
    printed = capsys.readouterr().out
    assert '\x1b' not in printed
    assert not of_files or ('<b>bright 0.' in printed and 'dark\\x1b[31m 0.' in printed)
