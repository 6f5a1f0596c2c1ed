"""Flags and overrides, and the refusal of what is none."""

import pytest

from mixer_dilated.cli.main import main
from tests.cli.conftest import CONFIG, SWEEP
from tests.conftest import refused, run_python


def processes(coordinator, count, number):
    return f'--coordinator={coordinator}', f'--num_processes={count}', f'--process_id={number}'


@pytest.mark.parametrize(
    ('words', 'values'),
    [
        (['trian', CONFIG], ['trian', 'did you mean train?']),
        (['xyz', CONFIG], ['xyz', 'train, evaluate, predict, summary, table1, sweep']),
        ([], ['--config', 'configs/digits_dilated.py']),
        (['evaluate'], ['--workdir', 'runs/NAME']),
        (['--config=configs/mnist.py'], ['configs/mnist.py', 'configs/cifar10_finetune_b16.py,']),
        (['--config.seed=1'], ['--config']),
        (['--config='], ['--config']),
        (['--config'], ['--config']),
        (['benchmark', '--config=', '--json=x'], ['--config']),
        ([CONFIG, '--workdri=x'], ['workdri', 'workdir']),
        ([CONFIG, 'extra'], ["'extra'"]),
        ([CONFIG, '--config.model.patches.dilaton=2'], ['config.model.patches.dilation?']),
        ([CONFIG, '--config.sed=2'], ['config.sed:', 'config.seed?']),
        ([CONFIG, '--config.model.patches=2'], ['config.model.patches ', 'model.patches.size']),
        ([CONFIG, '--config.seed=two'], ["config.seed = 'two'", 'integer']),
        ([CONFIG, '--config.seed'], ['config.seed = True']),  # as of a switch
        ([CONFIG, '--noconfig.sed'], ['config.seed?']),
        ([CONFIG, '--lr=0.1'], ['--config.optimizer.base_lr=0.1']),
        ([CONFIG, '--config.model.patches.size=9'], ['size', '9', '8']),
        (['summary', CONFIG, '--config.dataset.test_split=tset'], ["test_split = 'tset'"]),
        (['evaluate', '--workdir=no/where'], ['no/where']),
        (['evaluate', '--workdir='], ['--workdir=:']),
        (['evaluate', '--workdir=x', '--config.seed=1'], ["'config.seed'"]),
        (['summary', CONFIG, '--picture=no/where.png'], ['--picture=no/where.png']),
        (['sweep'], ['--sweep', 'configs/sweeps/dilation.py']),
        (['sweep', '--sweep=no.py'], ['--sweep=no.py', 'configs/sweeps/best.py']),
        (['sweep', '--sweep=configs/mnist_dilated.py'], [' --config=configs/mnist_dilated.py']),
        (['--config=configs/sweeps/best.py'], [' sweep --sweep=configs/sweeps/best.py']),
        ([CONFIG, '--num_epochs=2'], ["'num_epochs'", '--config.num_epochs=2']),
        ([CONFIG, '--dilation=2'], ["'dilation'", '--config.model.patches.dilation=2']),
        (['benchmark', '--against=jax'], ['--against=jax', 'reference, torch']),
        (['benchmark', CONFIG, '--json=no/where/x.json'], ['--json=no/where/x.json']),
        (['benchmark', CONFIG, CONFIG], ['--config', 'configs/digits_dilated.py']),
        (['benchmark', '--input', '--against=reference'], ['--against', '--input']),
        (['sweep', SWEEP, '--seeds=0'], ['--seeds=0', 'integer from 1']),
        (['sweep', SWEEP, '--config.model.gelu=soft'], ["config.model.gelu = 'soft'", "'exact'"]),
        (['sweep', '--config.seed=1'], ['--sweep']),
        (['table1', '--sweep=x.py'], ["'sweep'"]),
        (['table1', '--config.sed=1'], ['config.seed?']),
        (['table1', '--config.model.patches.size=3'], ['--config.model.patches.size:']),
        (['table1', '--config.model.patches=auto'], ['--config.model.patches: every trial']),
        (['table1', '--seeds=many'], ['--seeds=many', 'integer']),
        (['report'], ['report runs/NAME']),
        (['report', 'one', 'other'], ['report runs/NAME']),
        (['report', 'no/where'], ['no/where']),
        (['convert', 'one.npz'], ['convert Mixer-B_16.npz mixer_b16.safetensors']),
        ([CONFIG, '--process_id=0'], ['--coordinator is missing']),
        ([CONFIG, '--coordinator=here:1', '--process_id=0'], ['--num_processes is missing']),
        ([CONFIG, *processes('here', 2, 0)], ['--coordinator=here']),
        ([CONFIG, *processes('a:1', 2, 2)], ['--process_id=2', '0 to 1']),
        ([CONFIG, *processes('a:1', 2, -1)], ['--process_id=-1']),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_input_is_refused_in_one_line(capsys, words, values):
    message = refused(capsys, *words)
    assert all(value in message for value in values), message


def test_overrides_of_old_names_of_keys_are_those_of_today(tmp_path, capsys):
    old = ('--config.augment.shift=2', '--config.checkpoints.other_versions=True')
    assert main([CONFIG, *old, '--config.batch=0'], 0.0) == 2
    assert capsys.readouterr().err.splitlines() == [
        'warning: config.augment.shift is now config.augment.translate',
        'warning: config.checkpoints.other_versions is gone, and has no effect',
        'error: config.batch = 0: allowed is an integer from 1 to 2147483647',
    ]


REFUSES = """
import sys
from mixer_dilated.cli.main import main
assert main(sys.argv[1:], 0.0) == 2
print(*{'jax', 'flax', 'tensorflow_datasets', 'orbax', 'matplotlib', 'scipy'} & set(sys.modules))
"""


@pytest.mark.parametrize('words', [(CONFIG,), ('sweep', SWEEP)], ids=['train', 'sweep'])
def test_a_wrong_value_is_refused_before_anything_large_is_imported(words):
    done = run_python('-c', REFUSES, *words, '--config.batch=0')
    assert done.returncode == 0 and done.stdout.strip() == '', done
    assert done.stderr.startswith('error: config.batch = 0')


def test_a_misspelt_flag_is_answered_with_flags_not_with_keys(capsys):
    assert main([CONFIG, '--con=3'], 0.0) == 2
    error = capsys.readouterr().err
    assert "'con'" in error and 'config ?' in error and 'config.' not in error
