"""`python run.py predict`: classes of image files."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from mixer_dilated.cli.main import main
from mixer_dilated.data.datasets import Digits
from mixer_dilated.data.image_files import Ignored
from mixer_dilated.errors import UserError
from mixer_dilated.files import write_json
from mixer_dilated.inference import prediction as prediction_module
from mixer_dilated.inference.calibration import CALIBRATION
from mixer_dilated.inference.prediction import image_paths, open_classifier, predict
from mixer_dilated.inference.trained import load_trained
from mixer_dilated.reports.plots.figure import save_figure
from mixer_dilated.reports.plots.image_grids import prediction_sheet
from mixer_dilated.reports.tables.prediction_table import print_predictions
from mixer_dilated.training.run_folder import read_config
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import read_preprocessing
from mixer_dilated.training.step import normalise
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import ROOT, small_config

BATCH = 16


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of two seeds that takes files of the size of its images as they are."""
    workdir = tmp_path_factory.mktemp('predict') / 'run'
    config = small_config(**{
        'num_seeds': 2, 'batch_eval': BATCH, 'dataset.preprocess': 'resize',
        'optimizer.base_lr': 0.03, 'checkpoints.every_steps': 9,
    })  # fmt: skip
    train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope='module')
def image_files(tmp_path_factory):
    """The first test digits as files, some in a folder below."""
    folder = tmp_path_factory.mktemp('image_files')
    (folder / 'more').mkdir()
    for k, image in enumerate(Digits().read('test[:40]').images[..., 0]):
        Image.fromarray(image).save((folder / 'more' if k % 4 else folder) / f'{k:02d}.png')
    return folder


def number(path):
    return int(pathlib.Path(path).stem)


def rows_of(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def expected(run):
    """Mean probabilities over the seeds of the first 40 test digits, as the run kept them."""
    with np.load(run / 'predictions.npz') as kept:
        return kept['probabilities'].mean(axis=0)[:40]


def test_probabilities_are_the_means_over_the_seeds_in_batches_of_one_program(run, image_files):
    classifier, paths = open_classifier(run, image_paths([str(image_files)], Ignored()))
    predictions = list(predict(classifier, paths))
    assert classifier.batch == BATCH and len(classifier._compiled._compiled) == 1
    assert [number(prediction.path) for prediction in predictions] == [
        *range(0, 40, 4), *(k for k in range(40) if k % 4)
    ]  # fmt: skip
    wanted = expected(run)
    for prediction in predictions:
        k = number(prediction.path)
        np.testing.assert_allclose(prediction.probabilities, wanted[k], atol=1e-6)
        np.testing.assert_array_equal(
            prediction.image, Digits().read(f'test[{k}:{k + 1}]').images[0]
        )
        (first, probability), *_ = prediction.top(classifier.class_names, 3)
        assert first == str(wanted[k].argmax()) and probability == prediction.probabilities.max()


@pytest.mark.parametrize(('count', 'batch'), [(1, 1), (3, 4), (16, 16), (17, 16)])
def test_few_files_make_a_small_batch(run, image_files, count, batch):
    paths = sorted(map(str, image_files.rglob('*.png')))[:count]
    classifier, chained = open_classifier(run, paths)
    assert classifier.batch == batch and list(chained) == paths


def test_files_that_fail_are_between_the_others_and_fill_no_batch(run, image_files):
    good = sorted(map(str, image_files.rglob('*.png')))
    mixed = [path for k, name in enumerate(good) for path in [f'{k}-gone.png'] * 5 + [name]]
    classifier, paths = open_classifier(run, [*mixed, ('folder', UserError('cannot be read'))])
    predictions = list(predict(classifier, paths))
    assert [prediction.path for prediction in predictions] == [*mixed, 'folder']
    assert (
        predictions[-1].error == 'cannot be read'
        and predictions[0].error == 'No such file or directory'
    )
    wanted = expected(run)
    for prediction in predictions:
        assert (prediction.probabilities is None) == bool(prediction.error)
        if not prediction.error:
            np.testing.assert_allclose(
                prediction.probabilities, wanted[number(prediction.path)], atol=1e-6
            )


def test_predict_writes_a_table_files_and_a_sheet(run, image_files, tmp_path, capsys):
    outputs = {name: tmp_path / f'out.{name}' for name in ('csv', 'json')}
    sheet = tmp_path / 'sheet.png'
    flags = [f'--{name}={path}' for name, path in outputs.items()]
    words = ['predict', f'--workdir={run}', str(image_files), *flags, f'--sheet={sheet}', '--top=2']
    assert main(words, 0.0) == 0
    out, err = capsys.readouterr()
    assert err == '' and '40 images in ' in out
    rows, listed = rows_of(outputs['csv']), json.loads(outputs['json'].read_text())
    assert len(rows) == len(listed) == 40
    wanted = expected(run)
    for row, entry in zip(rows, listed, strict=True):
        first, second = entry['classes']
        probabilities = wanted[number(entry['file'])]
        assert row['file'] == entry['file'] and row['error'] == '' and len(row) == 6
        assert row['class_1'] == first['class'] == str(probabilities.argmax())
        assert row['class_2'] == second['class'] and first['probability'] >= second['probability']
        np.testing.assert_allclose(float(row['probability_1']), probabilities.max(), atol=1e-5)
        assert f'{first["class"]} {first["probability"]:.3f}' in out
    assert Image.open(sheet).size[0] > 1000
    assert {path.name for path in tmp_path.iterdir()} == {'out.csv', 'out.json', 'sheet.png'}
    lines = [line for line in out.splitlines() if not line.startswith(('csv', 'json', 'sheet'))]
    assert max(map(len, lines)) <= 80


def test_files_that_cannot_be_used_are_named_counted_and_make_the_status_2(
    run, image_files, tmp_path, capsys
):
    folder = tmp_path / 'odd'
    folder.mkdir()
    shutil.copy(image_files / '00.png', folder / '00.png')
    shutil.copy(image_files / '00.png', folder / '=1+1,"\x1b[31m\n.png')
    shutil.copy(image_files / '00.png', os.fsencode(folder) + b'/\xff.png')
    (folder / 'cut.png').write_bytes((image_files / '00.png').read_bytes()[:60])
    (folder / 'empty.png').touch()
    os.mkfifo(folder / 'pipe.png')
    os.mkfifo(tmp_path / 'named.png')
    (folder / 'notes.txt').touch()
    (folder / 'x.png').mkdir()
    given = [str(folder), str(tmp_path / 'named.png'), 'no/where.png', str(folder / 'x.png')]
    output = tmp_path / 'out.csv'
    assert main(['predict', *given, f'--workdir={run}', f'--csv={output}'], 0.0) == 2
    out, err = capsys.readouterr()
    assert '3 images in' in out and '5 could not be used' in out and '\x1b' not in out + err
    assert 'left out in folders: 1 file that is no image, 1 pipe, device or dead link' in out
    *named, last = err.splitlines()
    assert [re.sub(r'.*/', '', line) for line in named] == [
        'cut.png: an image that cannot be decoded: image file is truncated',
        'empty.png: an empty file',
        'named.png: not a file but a pipe or device',
        'where.png: No such file or directory',
        'x.png: a folder without images (.png, .jpg, .jpeg, .webp)',
    ]
    assert last == 'error: 5 of 8 files could not be used; they are named above'
    with output.open(newline='', errors='surrogateescape') as file:
        rows = list(csv.DictReader(file))
    names = {os.path.basename(row['file']) for row in rows if not row['error']}
    assert names == {'00.png', '=1+1,"\x1b[31m\n.png', '\udcff.png'}
    assert len({row['probability_1'] for row in rows if not row['error']}) == 1


PROGRAM = """
import sys
from mixer_dilated.cli.main import main
assert main(sys.argv[1:], 0.0) == 0
assert not {'tensorflow_datasets', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)
"""


def test_a_list_of_files_is_read_from_standard_input_and_no_data_set_library(
    run, image_files, tmp_path
):
    names = sorted(map(str, image_files.rglob('*.png')))[:5]
    words = ['predict', f'--workdir={run}', '-', f'--json={tmp_path / "out.json"}']
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, *words],
        cwd=ROOT, input='\n'.join([names[0], '', *names[1:]]), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert [row['file'] for row in json.loads((tmp_path / 'out.json').read_text())] == names


def test_a_digit_on_paper_is_brought_to_the_form_of_the_data(run, image_files, tmp_path):
    """Inverted, enlarged and in a corner: the preprocessing that the run records."""
    workdir = tmp_path / 'run'
    shutil.copytree(run, workdir)
    kept = json.loads((workdir / 'preprocessing.json').read_text())
    assert kept['preprocess'] == 'resize' and kept['class_names'] == list('0123456789')
    write_json(workdir / 'preprocessing.json', {**kept, 'preprocess': 'fill'})
    paper = Image.new('L', (200, 150), 255)
    digit = Image.open(image_files / '00.png')
    paper.paste(digit.resize((64, 64)).point(lambda level: 255 - level), (120, 60))
    paper.save(tmp_path / 'paper.png')
    classifier, paths = open_classifier(workdir, [str(tmp_path / 'paper.png')])
    (prediction,) = predict(classifier, paths)
    assert prediction.image.shape == (8, 8, 1) and prediction.image[:, 0].mean() < 128
    assert np.corrcoef(prediction.image.ravel(), np.asarray(digit).ravel())[0, 1] > 0.7


def test_a_run_of_an_earlier_version_takes_the_facts_from_its_data(run, image_files, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(run, workdir)
    (workdir / 'preprocessing.json').unlink()
    classifier, paths = open_classifier(workdir, [str(image_files / '00.png')])
    (prediction,) = predict(classifier, paths)
    np.testing.assert_allclose(prediction.probabilities, expected(run)[0], atol=1e-6)
    config = read_config(workdir).to_dict()
    config['dataset'].update(name='folder:no/where', image_size=8)
    write_json(workdir / 'config.json', config)
    with pytest.raises(UserError, match=r'preprocessing\.json: .*no/where'):
        open_classifier(workdir, ['x.png'])


@pytest.mark.parametrize(
    ('changes', 'key'),
    [
        ({'class_names': []}, 'class_names = []'),
        ({'class_names': [1]}, 'class_names = [1]'),
        ({'image_shape': [8, 8]}, 'image_shape = [8, 8]'),
        ({'image_shape': [8, 8, 2]}, 'image_shape = [8, 8, 2]'),
        ({'image_shape': [10**9, 8, 1]}, 'image_shape = [1000000000, 8, 1]'),
        ({'image_shape': [8, 8, 3], 'preprocess': 'fill'}, 'fill'),
        ({'preprocess': ['crop']}, "preprocess = ['crop']"),
        ({'resize': None}, 'resize = None'),
        ({'image_shape': [1, 1, 1]}, '1'),
        ({'train_examples': 0}, 'train_examples = 0'),
        (None, 'None'),
        ('not json', ''),
    ],
    ids=str,
)
def test_a_damaged_file_of_preprocessing_is_refused(run, tmp_path, changes, key):
    shutil.copy(run / 'config.json', tmp_path)
    kept = json.loads((run / 'preprocessing.json').read_text())
    content = json.dumps({**kept, **changes} if isinstance(changes, dict) else changes)
    (tmp_path / 'preprocessing.json').write_text('{' if changes == 'not json' else content)
    reads = [lambda: open_classifier(tmp_path, ['x.png'])]
    if key != 'fill':  # which weights of `config.init_from` do not need
        reads.append(lambda: read_preprocessing(tmp_path, read_config(tmp_path)))
    for read in reads:
        with pytest.raises(UserError) as refusal:
            read()
        message = str(refusal.value)
        assert message.startswith(f'{tmp_path / "preprocessing.json"}: ') and key in message
        assert 'remove it' in message and '\n' not in message


@pytest.mark.parametrize(
    ('words', 'value'),
    [
        (['RUN'], 'predict --workdir=runs/NAME photo.png'),
        (['x.png'], '--workdir'),
        (['--workdir=no/where', 'x.png'], 'no/where'),
        (['RUN', 'x.png', '--top=0'], '--top=0:'),
        (['RUN', 'x.png', '--checkpoint=first'], '--checkpoint=first:'),
        (['RUN', 'x.png', '--csv=no/where/x.csv'], '--csv=no/where/x.csv:'),
        (['RUN', 'x.png', '--json=/dev/null'], '--json=/dev/null:'),
        (['RUN', 'x.png', '--csv=tests'], '--csv=tests:'),
        (['RUN', 'x.png', '--sheet=x.exe'], '.png, .pdf, .svg'),
        (['RUN', 'x.png', '--csv=a', '--json=./a'], '--csv=a:'),
        (['RUN', 'x.png', '--tpo=2'], "'tpo'"),
    ],
    ids=str,
)
def test_wrong_words_are_refused_before_any_work(run, capsys, monkeypatch, words, value):
    monkeypatch.chdir(ROOT)
    words = [f'--workdir={run}' if word == 'RUN' else word for word in words]
    assert main(['predict', *words], 0.0) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1 and value in err


def test_the_best_checkpoint_can_be_asked_for(run, image_files, tmp_path, monkeypatch):
    """As if the one before the newest were the best."""
    monkeypatch.setattr(RunState, 'best_step', property(lambda self: 18))
    probabilities = {}
    for kind in ('newest', 'best'):
        file = tmp_path / f'{kind}.json'
        words = [f'--workdir={run}', f'--checkpoint={kind}', f'--json={file}']
        assert main(['predict', *words, f'{image_files}/00.png'], 0.0) == 0
        probabilities[kind] = json.loads(file.read_text())[0]['classes'][0]['probability']
    image = Digits().read('test[:1]').images
    for kind, probability in probabilities.items():
        trained = load_trained(run, best=kind == 'best')
        assert trained.step == {'newest': 27, 'best': 18}[kind]
        logits = [
            trained.model.apply(trained.variables(k), normalise(image), train=False)
            for k in range(2)
        ]
        wanted = np.mean([jax.nn.softmax(row) for row in logits], axis=0).max()
        np.testing.assert_allclose(probability, wanted, atol=1e-6)
    assert probabilities['newest'] != probabilities['best']


def test_each_seed_has_the_temperature_that_was_fitted_for_it(run, image_files, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    fitted = {'step': 27, 'temperatures': [2.0, 0.5], 'dataset': 'digits', 'split': 'train'}
    write_json(tmp_path / 'run' / CALIBRATION, {**fitted, 'examples': 300})
    classifier, paths = open_classifier(tmp_path / 'run', [f'{image_files}/00.png'])
    (prediction,) = predict(classifier, paths)
    with np.load(run / 'predictions.npz') as kept:
        warmer, colder = kept['probabilities'][:, 0].astype(np.float64)
    wanted = (warmer**0.5 / (warmer**0.5).sum() + colder**2 / (colder**2).sum()) / 2
    np.testing.assert_allclose(prediction.probabilities, wanted, atol=1e-6)


def test_what_was_in_a_file_stays_if_predicting_ends_early(run, image_files, tmp_path, monkeypatch):
    output = tmp_path / 'out.csv'
    output.write_text('before')

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction_module, '_make_predictions', broken)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        main(['predict', f'--workdir={run}', str(image_files), f'--csv={output}'], 0.0)
    assert output.read_text() == 'before' and list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize('length', [1, 14, 70])
def test_a_table_of_long_names_stays_within_80_columns(capsys, length):
    classes = [(f'{k}' * length, 0.1) for k in range(5)]
    print_predictions([('/long/folder' * 12 + '/end.png', classes), ('a.png', classes)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert 'end.png' in lines[-2] and ('3 0.100' in lines[-1]) == (length == 1)


@pytest.mark.parametrize('ending', ['png', 'pdf', 'svg'])
def test_a_sheet_draws_any_image_and_name(tmp_path, ending):
    """Markup, formulas, letters without a shape and a name without end."""
    names = ['<b>&', '$x^2$', 'さくら' * 9, 'n' * 300, 'a\x1b[31m\nb']
    images = [np.full((9, 7, channels), 99, np.uint8) for channels in (1, 3, 4)]
    drawn = [
        (images[k % 3], name, [(name, 0.75), ('other', 0.25)]) for k, name in enumerate(names * 3)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        save_figure(prediction_sheet(drawn, 'a note'), tmp_path / f'sheet.{ending}', 'sheet')
    assert (tmp_path / f'sheet.{ending}').stat().st_size > 1000
    with pytest.raises(UserError, match=r'no/where\.png'):
        save_figure(prediction_sheet(drawn[:1]), tmp_path / 'no' / 'where.png', 'sheet')


@pytest.mark.parametrize(
    ('file', 'changes', 'values'),
    [
        ('preprocessing', {'class_names': list('012345678')}, ['class_names', '9', '10']),
        ('preprocessing', {'image_shape': [16, 16, 1]}, ['image_shape = [16, 16, 1]']),
        ('preprocessing', {'image_shape': [8, 8, 3]}, ['stem/kernel', '1, 8]', '3, 8]']),
        ('config', {'num_seeds': 3}, ['num_seeds: 2']),
    ],
    ids=str,
)
def test_an_edit_that_the_network_does_not_fit_is_no_damage_of_checkpoints(
    run, tmp_path, file, changes, values
):
    workdir = tmp_path / 'run'
    shutil.copytree(run, workdir)
    kept = json.loads((workdir / f'{file}.json').read_text())
    write_json(workdir / f'{file}.json', {**kept, **changes})
    with warnings.catch_warnings(), pytest.raises(UserError) as refusal:
        warnings.simplefilter('error', UserWarning)
        load_trained(workdir)
    message = str(refusal.value)
    assert '\n' not in message and 'undamaged' not in message
    assert all(value in message for value in values), message
    if file == 'preprocessing':
        assert message.startswith(f'{workdir / "preprocessing.json"}: ') and 'remove it' in message


def test_a_damaged_checkpoint_has_no_shapes_and_the_one_before_it_is_loaded(run, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(run, workdir)
    for path in (workdir / 'checkpoints' / '27' / 'record').iterdir():
        path.write_text('[' * 200_000)
    with pytest.warns(UserWarning, match='27'):
        assert load_trained(workdir).step == 18


@pytest.mark.parametrize('name', ['preprocessing.json', 'calibration.json', 'config.json'])
def test_a_file_of_thousands_of_brackets_is_refused_in_a_line(run, tmp_path, capsys, name):
    workdir = tmp_path / 'run'
    shutil.copytree(run, workdir)
    (workdir / name).write_text('[' * 200_000)
    assert main(['predict', f'--workdir={workdir}', 'x.png'], 0.0) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {workdir / name}: cannot be read') and error.count('\n') == 1


def test_a_closed_standard_input_is_refused(monkeypatch):
    monkeypatch.setattr(sys, 'stdin', None)
    with pytest.raises(UserError, match=r"^'-':"):
        list(image_paths(['-'], Ignored()))


def test_nothing_classified_is_no_speed(run, capsys):
    assert main(['predict', f'--workdir={run}', 'no/where.png'], 0.0) == 2
    assert capsys.readouterr().out == 'no image was classified; 1 could not be used\n'
