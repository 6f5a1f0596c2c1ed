"""The input, timed against decoding alone."""

import json

import pytest

from mixer_dilated.benchmark import input_speed, memory
from mixer_dilated.cli.main import main
from tests.conftest import config_file


def test_workers_are_timed_up_to_one_a_core():
    counts = {cores: input_speed.worker_counts(cores) for cores in (1, 2, 6, 16)}
    assert counts == {1: [0, 1, 2], 2: [0, 1, 2], 6: [0, 1, 2, 4, 6], 16: [0, 1, 2, 4, 8, 16]}


@pytest.mark.slow
def test_the_input_is_timed_against_decoding_alone(tmp_path, capsys, monkeypatch):
    for name, value in {'ROUNDS': 2, 'TURN_SECONDS': 0.02, 'WAITING_SECONDS': 0.02}.items():
        monkeypatch.setattr(input_speed, name, value)
    monkeypatch.setattr(input_speed, 'worker_counts', lambda cores: [0])
    monkeypatch.setattr(memory, 'WORKERS', 0)
    monkeypatch.setattr(
        input_speed, 'call_in_process', lambda function, **arguments: function(**arguments)
    )
    file = tmp_path / 'input.json'
    words = ['benchmark', '--input', config_file(tmp_path, num_seeds=2), f'--json={file}']
    assert main(words, 0.0) == 0
    printed, measured = capsys.readouterr().out, json.loads(file.read_text())['inputs']['config']
    assert measured['examples'] == 300 and measured['batch'] == 32
    assert measured['image_shape'] == [8, 8, 1] and measured['notes'] == []
    (stream,) = measured['streams'].values()
    decoding, waiting, peaks = (measured[key] for key in ('decoding', 'waiting', 'memory'))
    assert len(stream['speed']) == len(decoding['speed']) == len(stream['first_batch']) == 2
    assert min(stream['speed'] + stream['cpu_speed'] + decoding['cpu_speed']) > 0
    assert 0 <= waiting['waited'] <= waiting['seconds']
    assert waiting['steps'] > 0 and waiting['at_hand'] > 0
    for words in ('config: 300 images to 8×8×1, batch 32', 'threads ', 'Training waited for data'):
        assert words in printed
    lines = printed.splitlines()
    assert lines.pop() == f'json: {file}'  # as long as the name is
    assert max(map(len, lines)) <= 80
    assert ('MiB for a tenth' in ' '.join(printed.split())) == (peaks['tenth'] is not None)
