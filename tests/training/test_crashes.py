"""A run that is killed again and again ends with the bits of one that was left alone."""

import json
import os
import random
import re
import signal
import subprocess
import time

import pytest

from tests.conftest import config_file, start_python

pytestmark = pytest.mark.slow

# MIXER_KILLS=100 is the long form.
KILLS = int(os.environ.get('MIXER_KILLS', '2'))
EPOCHS_A_KILL = 2


def start(config, workdir, *more):
    words = ('run.py', config, f'--workdir={workdir}', *more)
    return start_python(*words, stderr=subprocess.STDOUT)


def results(workdir):
    """Everything that must not depend on how often a run was stopped."""
    summary = json.loads((workdir / 'summary.json').read_text())
    newest = max((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    record = json.loads((newest / 'record' / 'metadata').read_text())
    return {
        'metrics': (workdir / 'metrics.jsonl').read_bytes(),
        'predictions': (workdir / 'predictions.npz').read_bytes(),
        'weights': (workdir / 'weights.npz').read_bytes(),
        'arrays': {name: crc for name, crc in record['checksums'].items() if name != 'record'},
        'rows': record['metrics'],
        'summary': {k: v for k, v in summary.items() if k not in ('seconds', 'checksum')},
    }


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    changes = {'num_epochs': EPOCHS_A_KILL * KILLS, 'model.dropout_rate': 0.1}
    config = config_file(folder, **changes)
    run = start(config, folder / 'run')
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    return config, results(folder / 'run')


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(undisturbed, tmp_path):
    config, expected = undisturbed
    draw = random.Random(0)
    kills, steps = 0, [0]
    while True:
        # Checkpoints are being written nearly all the time, so that kills meet them.
        run = start(config, tmp_path / 'run', '--config.checkpoints.every_steps=1')
        output = kill_while(draw, run) if kills < KILLS else ''
        output += run.communicate(timeout=300)[0]
        steps += map(int, re.findall(r'continues after step (\d+)', output))
        assert 'Traceback' not in output and 'error' not in output, output
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, output
        kills += 1
    print(f'{kills} kills; resumed after steps {steps}')
    assert kills == KILLS and steps == sorted(steps)
    assert results(tmp_path / 'run') == expected


def kill_while(draw, run):
    """Kills a run: one in five at a random moment of its start, the others while it trains."""
    read = []
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 4))
    else:
        for line in run.stdout:
            read.append(line)
            if line.startswith(('epoch', 'continues')):
                break
        time.sleep(draw.uniform(0, 1.2))
    run.kill()
    return ''.join(read)
