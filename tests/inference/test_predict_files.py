"""`python run.py predict`: its outputs, and what is refused or counted."""

import csv
import json
import os
import pathlib
import re
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from mixer_dilated.cli.main import main
from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.inference import prediction
from mixer_dilated.reports.plots.figure import save_figure
from mixer_dilated.reports.plots.image_grids import prediction_sheet
from mixer_dilated.reports.tables.run_tables import print_predictions
from tests.conftest import ROOT, raising, refused, refuses, run_python


def test_predict_writes_a_table_files_and_a_sheet(run, image_files, expected, tmp_path, capsys):
    outputs = {name: tmp_path / f'out.{name}' for name in ('csv', 'json')}
    sheet = tmp_path / 'sheet.png'
    flags = [f'--{name}={path}' for name, path in outputs.items()]
    words = ['predict', f'--workdir={run}', str(image_files), *flags, f'--sheet={sheet}', '--top=2']
    assert main(words, 0.0) == 0
    out, err = capsys.readouterr()
    assert err == '' and '40 images in ' in out
    with outputs['csv'].open(newline='') as file:
        rows = list(csv.DictReader(file))
    listed = json.loads(outputs['json'].read_text())
    assert len(rows) == len(listed) == 40
    for row, entry in zip(rows, listed, strict=True):
        first, second = entry['classes']
        probabilities = expected[int(pathlib.Path(entry['file']).stem)]
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
    assert 'left out in folders: 1 .txt file, 1 pipe, device or dead link' in out
    *named, last = err.splitlines()
    assert [re.sub(r'.*/', '', line) for line in named] == [
        'cut.png: an image that cannot be decoded: image file is truncated',
        'empty.png: an empty file',
        'named.png: not a file but a pipe or device',
        'where.png: No such file or directory',
        f'x.png: a folder without images ({", ".join(SUFFIXES)})',
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
    done = run_python('-c', PROGRAM, *words, stdin='\n'.join([names[0], '', *names[1:]]))
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert [row['file'] for row in json.loads((tmp_path / 'out.json').read_text())] == names


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
    assert value in refused(capsys, 'predict', *words)


def test_what_was_in_a_file_stays_if_predicting_ends_early(run, image_files, tmp_path, monkeypatch):
    output = tmp_path / 'out.csv'
    output.write_text('before')
    monkeypatch.setattr(prediction, '_make_predictions', raising(KeyboardInterrupt()))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        main(['predict', f'--workdir={run}', str(image_files), f'--csv={output}'], 0.0)
    assert output.read_text() == 'before' and list(tmp_path.iterdir()) == [output]


def test_nothing_classified_is_no_speed(run, capsys):
    assert main(['predict', f'--workdir={run}', 'no/where.png'], 0.0) == 2
    assert capsys.readouterr().out == 'no image was classified; 1 could not be used\n'


def test_a_table_of_long_names_stays_within_80_columns(capsys):
    for length in (1, 14, 70):
        classes = [(f'{k}' * length, 0.1) for k in range(5)]
        print_predictions([('/long/folder' * 12 + '/end.png', classes), ('a.png', classes)])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert 'end.png' in lines[-2] and ('3 0.100' in lines[-1]) == (length == 1)


def test_a_sheet_draws_any_image_and_name(tmp_path):
    """Markup, formulas, letters without a shape and a name without end."""
    names = ['<b>&', '$x^2$', 'さくら' * 9, 'n' * 300, 'a\x1b[31m\nb']
    images = [np.full((9, 7, channels), 99, np.uint8) for channels in (1, 3, 4)]
    drawn = [
        (images[k % 3], name, [(name, 0.75), ('other', 0.25)]) for k, name in enumerate(names * 3)
    ]
    for ending in ('png', 'pdf', 'svg'):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            save_figure(prediction_sheet(drawn, 'a note'), tmp_path / f'sheet.{ending}', 'sheet')
        assert (tmp_path / f'sheet.{ending}').stat().st_size > 1000
    with refuses('no/where.png'):
        save_figure(prediction_sheet(drawn[:1]), tmp_path / 'no' / 'where.png', 'sheet')
