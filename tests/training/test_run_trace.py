"""A trace of ten steps of a run."""

import collections
import gzip
import json

from mixer_dilated.training.train import TRACED_STEPS, train_and_evaluate
from tests.conftest import refuses, small_config
from tests.training.runs import check_same_bytes


def test_a_run_that_is_traced_is_the_same_and_leaves_a_trace(tmp_path):
    config = small_config(num_epochs=3)  # of 9 steps
    train_and_evaluate(config, tmp_path / 'plain')
    train_and_evaluate(config, tmp_path / 'traced', trace=tmp_path / 'trace')
    check_same_bytes(tmp_path / 'traced', tmp_path / 'plain')
    (file,) = (tmp_path / 'trace').glob('plugins/profile/*/perfetto_trace.json.gz')
    events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
    calls = [event for event in events if event.get('name', '').startswith('dot')]
    assert calls and all(event['dur'] >= 0 for event in calls)
    times = collections.Counter(event['name'] for event in calls)
    assert 0 < min(times.values()) <= TRACED_STEPS


def test_a_trace_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / 'file').touch()
    with refuses(f'--trace={tmp_path / "file"}: cannot be written'):
        train_and_evaluate(small_config(), tmp_path / 'run', trace=tmp_path / 'file')
    assert not (tmp_path / 'run').exists()
