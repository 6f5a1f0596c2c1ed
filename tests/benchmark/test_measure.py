"""The benchmark: counts by hand, forms that do the same work, memory as predicted, its command."""

import ctypes
import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from mixer_dilated.benchmark.epoch_timing import TimedEpoch, on_noise, seconds_in_turns

from mixer_dilated.benchmark import forms, input_memory, input_speed, measure, processes
from mixer_dilated.benchmark.forms import Form, TimedForward, TimedPlainFlax, compiled_forms
from mixer_dilated.benchmark.processes import ProcessError, end_of, peak_bytes, start_up_seconds
from mixer_dilated.benchmark.products import (
    DTYPES,
    Product,
    TimedProduct,
    flops,
    forward_products,
    training_products,
)
from mixer_dilated.benchmark.torch_mixer import TimedTorch, mixer
from mixer_dilated.cli.arguments import parse_each
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.errors import UserError
from mixer_dilated.models.costs import flops_per_image, layers
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model
from tests.conftest import ROOT, config_of, small_config


def test_products_of_a_step_are_counted_by_hand():
    config = resolve(config_of(ROOT / 'configs' / 'mnist_dilated.py'))
    found = layers(create_model(config, 10), (28, 28, 1))
    forward, training = forward_products(found, 128), training_products(found, 128)
    token, channel, rows = 16, 64, 128 * 16
    stem, head = Product(rows, 16, 64), Product(128, 64, 10)
    blocks = {
        Product(128 * channel, token, 64): 4,
        Product(128 * channel, 64, token): 4,
        Product(rows, channel, 128): 4,
        Product(rows, 128, channel): 4,
    }
    assert forward == {stem: 1, head: 1, **blocks}
    assert flops(forward) == 128 * flops_per_image(found)
    assert flops(training) == 3 * flops(forward) - stem.flops
    assert training[Product(channel, rows, 128)] == 4  # a kernel's gradient
    assert flops(forward_products(found, 128, phases=6)) == 6 * flops(forward)


def test_a_forward_pass_at_every_phase_has_the_products_of_every_phase():
    """`augment.random_phase` averages over them: at dilation 2 there are four."""
    once, each = (
        measure._products(create_setup(small_config(**{'augment.random_phase': phases})))
        for phases in (False, True)
    )
    assert flops(each['forward']) == 4 * flops(once['forward'])
    assert each['training'] == once['training']


def test_a_product_alone_is_computed_as_often_as_it_is_counted():
    product = Product(3, 4, 5)
    timed = TimedProduct(product, 'float32', milliseconds=1)
    left, right = timed._factors
    np.testing.assert_allclose(timed._repeat(left, right, 1), left @ right, rtol=1e-6)
    assert timed.seconds() > 0 and product.flops == 120


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_product_stays_inside_the_loop_that_repeats_it(dtype):
    """XLA moves what is the same every time out of a loop, and then would compute it once."""
    timed = TimedProduct(Product(3, 4, 5), dtype, milliseconds=1)
    program = timed._repeat.lower(*timed._factors, 7).compile().as_text()
    (body,) = re.findall(r'body=(%?[\w.-]+)', program)
    (block,) = (part for part in program.split('\n\n') if part.strip().startswith(f'{body} '))
    assert 'dot_general' in block


@pytest.fixture(scope='module')
def setup():
    return on_noise(create_setup(small_config()), (8, 8), steps=2)


def test_noise_of_another_size_keeps_the_network_and_gives_whole_batches(setup):
    assert setup.steps_per_epoch == 2 and setup.dataset.image_shape == (8, 8, 1)
    images, labels = setup.dataset.read('train')
    chex.assert_shape(images, (64, 8, 8, 1))
    assert images.dtype == np.uint8 and set(labels) <= set(range(10))
    with pytest.raises(UserError, match=r'does not fit|nothing but padding'):
        on_noise(create_setup(small_config(**{'model.patches.padding': 'VALID'})), (2, 2), 1)


def test_all_forms_train_the_same_batches(setup):
    """What is timed side by side does the same work: as many steps of the same network."""
    sgd = small_config(**{'optimizer.name': 'sgd', 'optimizer.base_lr': 0.01})
    setup = on_noise(create_setup(sgd), (8, 8), steps=2)
    examples = setup.dataset.read('train')
    plain, fast = TimedPlainFlax(setup, examples), TimedEpoch(setup, examples)
    forward = TimedForward(setup, examples)
    for timed in (plain, fast, forward):
        assert timed.seconds() > 0 and timed.compile_seconds > 0
    # Two epochs each; the fast one in the order of its permutations.
    assert int(plain._state.step) == int(fast._state.step[0]) == 4
    chex.assert_trees_all_equal_shapes(
        plain._state.params, jax.tree.map(lambda leaf: leaf[0], fast._state.params)
    )


@pytest.mark.parametrize(
    'changes',
    [
        {'model.phases': 2},
        {'model.blur': True},
        {'model.dropout_rate': 0.1},
        {'model.stoch_depth': 0.1},
        {'augment.random_phase': True},
        {'model.branches': ({'dilation': 1}, {'dilation': 2})},
        {'model.remat': True},
        {'dtype': 'bfloat16'},
    ],
    ids=str,
)
def test_what_the_plain_network_lacks_is_refused_by_name(changes):
    setup = create_setup(small_config(**changes))
    (key,) = changes
    said = f'config.{key} = .* leave --against out, or config.{key} at '
    with pytest.raises(UserError, match=said):
        TimedPlainFlax(setup, None)
    if key != 'dtype':  # which the benchmark sets aside
        with pytest.raises(UserError, match=said):
            measure.benchmark({'x': setup.config}, ['reference'], say=None)


class Recorded:
    """Stands for any timed form; keeps the tasks that such were made of."""

    compile_seconds = 0.25
    tasks: list

    def __init__(self, setup, examples, compiled=False):
        if compiled:
            raise RuntimeError('no compiler: ' + 'word ' * 99 + 'g++ is missing')
        self.tasks.append(setup)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(Recorded, 'tasks', [], raising=False)
    for name in ('TimedEpoch', 'TimedForward', 'TimedPlainFlax', 'TimedTorch'):
        monkeypatch.setattr(forms, name, Recorded)
    return Recorded.tasks


def test_every_form_runs_as_it_is_labelled_whatever_the_config_says(recorded):
    setup, notes = measure._opened(small_config(dtype='bfloat16', num_seeds=3))
    found = compiled_forms(setup, {'reference'}, notes)
    assert [(form.dtype, form.seeds) for form in found] == [
        (setup.config.dtype, setup.config.num_seeds) for setup in recorded
    ]
    assert {(form.kind, form.dtype, form.seeds) for form in found} == {
        *((kind, dtype, 1) for kind in ('training', 'forward') for dtype in DTYPES),
        ('training', 'float32', 8),
    }
    assert notes == [
        "config.dtype = 'bfloat16' is set aside: float32 and bfloat16 have rows of their own, and "
        "all else is measured with 'float32'.",
        'config.num_seeds = 3 is set aside: one seed and 8 have rows of their own, and all else is '
        'measured with 1.',
    ]
    assert measure._opened(small_config())[1] == []


def test_seconds_are_of_one_step_of_one_seed(recorded, setup):
    form, products = Form('4 seeds', seeds=4), {'training': {Product(1, 1, 1): 3}}
    found = measure._of_form(form, Recorded(setup, None), products, [8.0, 16.0], steps=2)
    assert found == {
        'kind': 'training',
        'dtype': 'float32',
        'seeds': 4,
        'described': '',
        'flops': 6,
        'seconds': [1.0, 2.0],
        'compile_seconds': 0.25,
    }


def test_what_pytorch_does_not_do_is_told(recorded):
    setup = create_setup(small_config(**{'augment.translate': 2, 'augment.mixup': 0.5}))
    notes = []
    found = compiled_forms(setup, {'torch'}, notes)
    assert [form.name for form in found if form.described] == ['PyTorch eager']
    shift, compiling = notes
    assert 'without config.augment.translate = 2 and config.augment.mixup = 0.5' in shift
    assert compiling.startswith('torch.compile failed here: RuntimeError: … word ')
    assert compiling.endswith(' g++ is missing')
    with pytest.raises(UserError, match=r"config.optimizer.name = 'sgd': --against=torch"):
        forms.check_against(create_setup(small_config(**{'optimizer.name': 'sgd'})), {'torch'})


def test_pytorch_on_the_cpu_is_not_compared_with_an_accelerator(recorded, setup, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    notes = []
    assert not any(form.described for form in compiled_forms(setup, {'torch'}, notes))
    assert notes == ['PyTorch is left out: it computes on the CPU here, and JAX on tpu.']


def test_what_is_compiled_is_compiled_anew_whatever_is_kept(tmp_path):
    shortest = 'jax_persistent_cache_min_compile_time_secs'
    settings = {'jax_compilation_cache_dir': str(tmp_path), shortest: 0}
    before = {name: getattr(jax.config, name) for name in settings}
    assert jax.config.jax_enable_compilation_cache
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        with measure._compiled_anew():
            jax.jit(lambda x: x * 3).lower(1.0).compile()
            assert not list(tmp_path.iterdir())
        assert jax.config.jax_enable_compilation_cache
        jax.jit(lambda x: x * 3).lower(1.0).compile()
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        measure.compilation_cache.reset_cache()


def test_turns_are_taken_round_by_round():
    order = []

    @dataclasses.dataclass
    class Noted:
        name: str

        def seconds(self):
            order.append(self.name)
            return float(len(order))

    found = seconds_in_turns({name: Noted(name) for name in 'ab'}, rounds=3)
    assert order == list('ababab') and found == {'a': [1, 3, 5], 'b': [2, 4, 6]}


def test_predicted_memory_is_within_20_percent_of_the_measured():
    config = small_config(
        batch=512, **{'model.hidden_dim': 128, 'model.channels_mlp_dim': 256,
                      'dataset.train_split': 'train[:512]'}
    )  # fmt: skip
    found = peak_bytes(create_setup(config), steps=2)
    if found['measured'] is None:
        pytest.skip('the system does not tell a process its peak memory')
    assert found['predicted'] > 10 * 2**20
    assert abs(found['predicted'] / found['measured'] - 1) < 0.2


@pytest.mark.parametrize('lacking', ['malloc_trim', 'clear_refs', 'libc'])
def test_a_system_that_does_not_tell_memory_is_no_error(monkeypatch, lacking):
    def refuse(*_):
        raise OSError('not here')

    if lacking == 'clear_refs':
        monkeypatch.setattr(pathlib.Path, 'write_text', refuse)
    else:
        library = refuse if lacking == 'libc' else lambda _: object()
        monkeypatch.setattr(ctypes, 'CDLL', library)
    assert processes._peak_set_back() is None


@pytest.mark.parametrize(
    ('program', 'cause'),
    [
        ('import sys; sys.exit("error: " + "word " * 99 + "end")', 'failed: … (word )+end'),
        ('import sys; sys.exit(3)', 'failed: exit status 3'),
        ('import os; os.kill(os.getpid(), 9)', 'was ended: Killed'),
        ('print("nothing")', r'(printed no result: nothing|left no result: FileNotFound.*)'),
    ],
    ids=['talks', 'fails', 'killed', 'silent'],
)
def test_a_process_that_fails_is_a_note_with_the_end_of_its_cause(
    monkeypatch, setup, program, cause
):
    for name in ('RUN', 'PEAK'):
        monkeypatch.setattr(processes, name, ['-c', program])
    notes = []
    found = measure._in_processes('x', setup, notes, say=lambda _: None)
    assert found == {'memory': None, 'start_up': None}
    for note, what in zip(notes, ('memory', 'start-up'), strict=True):
        started = f'{what} is not measured: python -c {program} '
        assert note.startswith(started)
        assert re.fullmatch(cause, note.removeprefix(started)), note


def test_a_process_that_cannot_start_is_an_error_of_its_own(monkeypatch, setup):
    monkeypatch.setattr(sys, 'executable', '/no/such/python')
    with pytest.raises(ProcessError, match=r'-m mixer_dilated.benchmark.processes could not start'):
        peak_bytes(setup, steps=1)
    with pytest.raises(ProcessError, match=r'run.py could not start'):
        start_up_seconds(setup.config)


def test_the_end_of_a_text_begins_with_a_whole_word():
    assert end_of('one\n two  three', 13) == 'one two three'
    assert end_of('one two three', 12) == '… two three'
    assert end_of('one two\x1b[2J', 99) == 'one two\\x1b[2J'
    assert end_of('x' * 20, 10) == '… ' + 'x' * 8


def test_other_processes_come_before_this_one_takes_the_device():
    program = (
        'import os, jax._src.xla_bridge as bridge\n'
        'from mixer_dilated.benchmark import measure\n'
        'from mixer_dilated.config import resolve\n'
        'def look(*args, **settings):\n'
        '    os.write(1, str(bridge.backends_are_initialized()).encode())\n'
        '    os._exit(0)\n'
        'measure.peak_bytes = look\n'
        'digits = {"dataset": {"name": "digits", "train_split": "train", "test_split": "test"}}\n'
        'measure.benchmark({"x": resolve(digits)}, ["reference"], lambda said: None)\n'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == 'False', done.stderr


DIGITS = f'--config={ROOT / "configs" / "digits_dilated.py"}'


@pytest.mark.slow
def test_a_whole_benchmark_in_a_folder_that_is_not_the_repository(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measure, 'ROUNDS', 2)
    monkeypatch.setattr(measure, 'TURN_SECONDS', 0.005)
    monkeypatch.setattr(measure, 'large_product', lambda: Product(64, 128, 256))
    monkeypatch.chdir(tmp_path)
    changes = ['model.num_blocks=1', 'model.hidden_dim=8', 'num_seeds=2']
    words = [DIGITS, *(f'--config.{change}' for change in changes)]
    assert main(['benchmark', *words, '--against=reference', '--json=speed.json'], 0.0) == 0
    found = json.loads((tmp_path / 'speed.json').read_text())
    assert found['large_shape'] == [64, 128, 256]
    assert found['busy_cores'] is None or found['busy_cores'] >= 0
    check_every_form_is_measured_in_every_round(found['configs']['digits_dilated'])
    check_forms_have_the_flops_of_their_kind(found['configs']['digits_dilated'])
    check_what_is_printed_is_what_is_written(
        capsys.readouterr().out, found['configs']['digits_dilated']
    )


def check_every_form_is_measured_in_every_round(of_config):
    own = ['training', 'forward', 'training bf16', 'forward bf16', '8 seeds']
    assert list(of_config['forms']) == [*own, 'plain Flax']
    rounds = [form['seconds'] for form in of_config['forms'].values()]
    rounds += [each for of_kind in of_config['products'].values() for each in of_kind.values()]
    rounds += [row['seconds'] for row in of_config['resolutions']]
    rounds += of_config['large_product'].values()
    assert all(len(each) == 2 and min(each) > 0 for each in rounds)
    assert set(of_config['large_product']) == {*DTYPES}
    assert {'cold', 'warm', 'programs_kept'} == set(of_config['start_up'])
    assert [row['image_size'] for row in of_config['resolutions']][-2:] == [[8, 8], [16, 16]]
    assert of_config['memory']['predicted'] > 0
    (note,) = of_config['notes']
    assert note.startswith('config.num_seeds = 2 is set aside')


def check_forms_have_the_flops_of_their_kind(of_config):
    # A batch of 32; 4 tokens of 16 pixels, 8 channels, MLPs of 64 and 128, 10 classes.
    multiplications = 4 * 16 * 8 + 2 * 8 * 4 * 64 + 2 * 4 * 8 * 128 + 8 * 10
    forward = 2 * 32 * multiplications
    training = 3 * forward - 2 * 32 * 4 * 16 * 8  # no gradient of the images
    for name, form in of_config['forms'].items():
        kind, dtype = name.split()[0], 'bfloat16' if 'bf16' in name else 'float32'
        assert form['flops'] == (forward if kind == 'forward' else training), name
        assert form['dtype'] == dtype and form['seeds'] == (8 if name == '8 seeds' else 1)


def check_what_is_printed_is_what_is_written(text, of_config):
    lines = [line for line in text.splitlines() if not line.startswith('json:')]
    assert max(map(len, lines)) <= 80
    for form in ('training  ', 'forward  ', 'training bf16', '8 seeds  ', 'plain Flax'):
        assert sum(line.startswith(form) for line in lines) == 1, form
    assert '…' not in text.split('step of')[1]
    plain, step = (of_config['forms'][name]['seconds'] for name in ('plain Flax', 'training'))
    assert f'takes {np.median(np.divide(plain, step)):.2f} times' in ' '.join(text.split())
    assert f'{of_config["start_up"]["cold"]:.1f} s with empty caches' in ' '.join(text.split())


@pytest.mark.parametrize(
    ('place', 'said'),
    [('.', 'not a file'), ('/proc/a.json', ''), ('file/a.json', 'no such folder'),
     ('x' * 300, 'File name too long')],
    ids=['folder', 'proc', 'under a file', 'long'],
)  # fmt: skip
def test_a_json_file_that_cannot_be_written_is_refused_first(
    monkeypatch, capsys, tmp_path, place, said
):
    monkeypatch.setattr(measure, 'benchmark', lambda *_, **__: pytest.fail('it was measured'))
    (tmp_path / 'file').write_text('')
    json_file = tmp_path / place
    assert main(['benchmark', DIGITS, f'--json={json_file}'], 0.0) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith(f'error: --json={json_file}: ') and error.count('\n') == 1
    assert said in error


def test_a_json_file_is_left_alone_until_there_is_something_to_write(capsys, tmp_path):
    old, new = tmp_path / 'old.json', tmp_path / 'new.json'
    old.write_text('{}')
    for file in (old, new):
        # Refused after the file is checked, before anything is measured.
        words = [DIGITS, '--config.model.remat=True', '--against=reference', f'--json={file}']
        assert main(['benchmark', *words], 0.0) == 2
        assert 'config.model.remat = True' in capsys.readouterr().err
    assert old.read_text() == '{}' and not new.exists()


@pytest.mark.parametrize('words', [['--config='], ['--config'], ['--config=', '--json=x']], ids=str)
@pytest.mark.parametrize('command', [['benchmark'], []], ids=['benchmark', 'train'])
def test_an_empty_config_is_refused(capsys, command, words):
    assert main([*command, *words], 0.0) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and '--config' in error and error.count('\n') == 1


def test_configs_that_are_compared_have_names_of_their_own(tmp_path, capsys):
    text = (
        'from mixer_dilated.config import base_config\n\n\ndef get_config(word="3"):\n'
        '    config = base_config()\n    config.batch = int(word)\n    return config\n'
    )
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'word.py').write_text(text)
    one, two = (str(tmp_path / folder / 'word.py') for folder in ('one', 'two'))

    def names(*paths):
        words = [f'--config={path}' for path in paths]
        found = parse_each(words, ('config',), ())
        return {each.name: each.config.batch for each in found}

    assert names(one) == {'word': 3}
    assert names(f'{one}:1', f'{one}:2') == {'word:1': 1, 'word:2': 2}
    assert names(f'{one}:1', f'{two}:1', two) == {f'{one}:1': 1, f'{two}:1': 1, 'word': 3}
    assert main(['benchmark', f'--config={one}', f'--config={one}'], 0.0) == 2
    assert 'name each once' in capsys.readouterr().err


def test_torch_is_asked_for_by_name_where_it_is_missing(setup, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match='pip install torch'):
        TimedTorch(setup, setup.dataset.read('train'), compiled=False)


def test_the_network_of_torch_is_the_same():
    torch = pytest.importorskip('torch', reason='an optional extra: pip install torch==2.13.0')
    setup = on_noise(create_setup(small_config(**{'model.num_blocks': 2})), (8, 8), steps=1)
    network = mixer(torch, setup)
    model = create_model(setup.config, 10)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    params = model.init(jax.random.key(0), images, train=False)['params']
    params['head']['kernel'] = jax.random.normal(jax.random.key(1), params['head']['kernel'].shape)
    with torch.no_grad():
        copy_parameters(torch, network, params)
        found = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = model.apply({'params': params}, images, train=False)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def copy_parameters(torch, network, params):
    def set_to(parameter, value):
        parameter.copy_(torch.from_numpy(np.array(value)))

    def linear(module, dense):
        set_to(module.weight, dense['kernel'].T)
        set_to(module.bias, dense['bias'])

    def norm(module, values):
        set_to(module.weight, values['scale'])
        set_to(module.bias, values['bias'])

    set_to(network.stem.weight, params['stem']['kernel'].transpose(3, 2, 0, 1))
    set_to(network.stem.bias, params['stem']['bias'])
    for i, block in enumerate(network.blocks):
        of_block = params[f'MixerBlock_{i}']
        norm(block.norm_0, of_block['LayerNorm_0'])
        norm(block.norm_1, of_block['LayerNorm_1'])
        for name in ('token_mixing', 'channel_mixing'):
            first, _, second = getattr(block, name)
            linear(first, of_block[name]['Dense_0'])
            linear(second, of_block[name]['Dense_1'])
    norm(network.norm, params['pre_head_layer_norm'])
    linear(network.head, params['head'])


def test_workers_are_timed_up_to_one_a_core():
    counts = {cores: input_speed.worker_counts(cores) for cores in (1, 2, 6, 16)}
    assert counts == {1: [0, 1, 2], 2: [0, 1, 2], 6: [0, 1, 2, 4, 6], 16: [0, 1, 2, 4, 8, 16]}


def test_the_input_is_timed_against_decoding_alone(tmp_path, capsys, monkeypatch):
    changes = {'ROUNDS': 2, 'TURN_SECONDS': 0.02, 'WAITING_SECONDS': 0.02}
    for name, value in changes.items():
        monkeypatch.setattr(input_speed, name, value)
    monkeypatch.setattr(input_speed, 'worker_counts', lambda cores: [0])
    monkeypatch.setattr(input_memory, 'WORKERS', 0)

    def in_this_process(program, words, environment):
        assert program == input_memory.PEAK
        return f'{input_memory._peak(**json.loads(words[0]))}\n'

    monkeypatch.setattr(processes, 'run_program', in_this_process)
    (tmp_path / 'small.py').write_text(
        'from tests.conftest import small_config\n\n\ndef get_config():\n'
        '    return small_config(num_seeds=2)\n'
    )
    file = tmp_path / 'input.json'
    words = ['benchmark', '--input', f'--config={tmp_path / "small.py"}', f'--json={file}']
    assert main(words, 0.0) == 0
    printed, found = capsys.readouterr().out, json.loads(file.read_text())['inputs']['small']
    assert found['examples'] == 300 and found['batch'] == 32 and found['image_shape'] == [8, 8, 1]
    (stream,) = found['streams'].values()
    assert len(stream['speed']) == len(found['decoding']['speed']) == 2
    assert min(stream['speed'] + stream['cpu_speed'] + found['decoding']['cpu_speed']) > 0
    assert 0 <= found['waiting']['waited'] <= found['waiting']['seconds']
    assert found['waiting']['steps'] > 0 and found['waiting']['at_hand'] > 0
    for words in ('small: 300 images to 8×8×1, batch 32', 'threads ', 'Training waited for data'):
        assert words in printed
    lines = printed.splitlines()
    assert lines.pop() == f'json: {file}'  # as long as the name is
    assert max(map(len, lines)) <= 80
    assert ('MiB for a tenth' in ' '.join(printed.split())) == (
        found['memory']['tenth'] is not None
    )
