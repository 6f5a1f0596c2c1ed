"""A benchmark: what is noted, and a whole one of a small network."""

import json

import jax
import numpy as np
import pytest

from mixer_dilated.benchmark import measure
from mixer_dilated.benchmark.measure import flops, step_matmuls
from mixer_dilated.benchmark.processes import ProcessError
from mixer_dilated.cli.main import main
from mixer_dilated.models.costs import flops_per_image
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import network_layers
from tests.conftest import ROOT, raising, run_python, small_config

DIGITS = f'--config={ROOT / "configs" / "digits_dilated.py"}'


def test_products_of_a_step_are_counted_by_hand():
    """`augment.random_phase` averages over all phases: at dilation 2 there are four."""
    setup = create_setup(small_config(batch=128, **{'model.num_blocks': 4}))
    forward, training = (step_matmuls(setup, kind) for kind in ('forward', 'training'))
    token, channel, rows = setup.num_tokens, 8, 128 * setup.num_tokens
    stem, head = (rows, 4, channel), (128, channel, 10)
    blocks = {(128 * channel, token, 8): 4, (128 * channel, 8, token): 4, (rows, channel, 8): 8}
    assert forward == {stem: 1, head: 1, **blocks}
    assert flops({(3, 4, 5): 2}) == 240
    assert flops(forward) == 128 * flops_per_image(network_layers(setup))
    assert flops(training) == 3 * flops(forward) - flops({stem: 1})
    assert training[channel, rows, 8] == 8  # a kernel's gradient
    phases = setup.changed({'augment.random_phase': True})
    assert flops(step_matmuls(phases, 'forward')) == 4 * flops(forward)
    assert step_matmuls(phases, 'training') == training


def test_a_process_that_fails_and_what_is_set_aside_is_a_note():
    _, notes = measure._one_seed_float32(small_config(num_seeds=2))
    assert measure.or_note('memory', notes, raising(ProcessError('x failed: cause'))) is None
    of_seeds, of_memory = notes
    assert of_seeds.startswith('config.num_seeds = 2 is set aside: ')
    assert of_memory == 'memory is not measured: x failed: cause'


def test_what_is_compiled_is_compiled_anew_whatever_is_kept(tmp_path):
    settings = {'jax_compilation_cache_dir': str(tmp_path)}
    settings['jax_persistent_cache_min_compile_time_secs'] = 0
    before = {name: getattr(jax.config, name) for name in settings}
    assert jax.config.jax_enable_compilation_cache
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        with measure._no_compilation_cache():
            jax.jit(lambda x: x * 3).lower(1.0).compile()
            assert not list(tmp_path.iterdir())
        jax.jit(lambda x: x * 3).lower(1.0).compile()
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        measure.compilation_cache.reset_cache()


def test_other_processes_come_before_this_one_takes_the_device():
    program = (
        'import os, jax._src.xla_bridge as bridge\n'
        'from mixer_dilated.benchmark import measure\n'
        'from mixer_dilated.config import resolve\n'
        'def look(*args, **settings):\n'
        '    os.write(1, str(bridge.backends_are_initialized()).encode())\n'
        '    os._exit(0)\n'
        'measure.call_in_process = look\n'
        'digits = {"dataset": {"name": "digits", "train_split": "train", "test_split": "test"}}\n'
        'measure.benchmark({"x": resolve(digits)}, ["reference"], lambda text: None)\n'
    )
    done = run_python('-c', program)
    assert done.stdout == 'False', done.stderr


@pytest.mark.slow
def test_a_whole_benchmark_in_a_folder_that_is_not_the_repository(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measure, 'ROUNDS', 2)
    monkeypatch.setattr(measure, 'TURN_SECONDS', 0.005)
    monkeypatch.setattr(measure.timing, 'large_side', lambda: 64)
    monkeypatch.chdir(tmp_path)
    changes = ['model.num_blocks=1', 'model.hidden_dim=8', 'num_seeds=2', 'dtype=bfloat16']
    words = [DIGITS, *(f'--config.{change}' for change in changes)]
    assert main(['benchmark', *words, '--against=reference', '--json=speed.json'], 0.0) == 0
    results = json.loads((tmp_path / 'speed.json').read_text())
    assert results['large_shape'] == [64, 64, 64]
    assert results['busy_cores'] is None or results['busy_cores'] >= 0
    result = results['configs']['digits_dilated']
    variants = result['variants']
    names = ['training', 'forward', 'training bf16', 'forward bf16', '8 seeds', 'plain Flax']
    assert [name for name in variants if 'the side' not in name] == names
    rounds = [*result['large_matmul'].values()]
    for variant in variants.values():
        rounds += [variant['seconds'], variant['matmul_seconds']]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in rounds)
    assert {*result['large_matmul']} == {'float32', 'bfloat16'}
    assert {*result['start_up']} == {'cold', 'warm', 'programs_kept'}
    twice = variants['twice the side']
    assert twice['image_size'] == [16, 16] and twice['num_tokens'] == 100
    assert result['memory']['predicted'] > 0
    assert [note.split(' is ')[0] for note in result['notes']] == [
        "config.dtype = 'bfloat16'",
        'config.num_seeds = 2',
    ]
    check_what_is_printed_is_what_is_written(capsys.readouterr().out, result, names)


def check_what_is_printed_is_what_is_written(text, result, names):
    lines = [line for line in text.splitlines() if not line.startswith('json:')]
    assert max(map(len, lines)) <= 80 and '…' not in text.split('step of')[1]
    for name in names:
        assert sum(line.startswith(f'{name}  ') for line in lines) == 1, name
    words = ' '.join(text.split())
    plain, step = (result['variants'][name]['seconds'] for name in ('plain Flax', 'training'))
    assert f'takes {np.median(np.divide(plain, step)):.2f} times' in words
    assert f'{result["start_up"]["cold"]:.1f} s with empty caches' in words
