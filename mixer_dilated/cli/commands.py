"""The commands, one function each: call, print; a docstring is what `--help` says.

Libraries that one command needs are imported in it: `--help` and refusals stay quick.
"""

import datetime
import functools
import json
import pathlib
import shlex
import sys
from types import SimpleNamespace

from mixer_dilated.cli import distributed, preemption
from mixer_dilated.cli.command import COMMANDS as COMMANDS
from mixer_dilated.cli.command import command, program
from mixer_dilated.cli.compilation_cache import keep_compiled_programs
from mixer_dilated.cli.config_files import SHIPPED, file_name, load_config, load_configs, load_sweep
from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, check_output
from mixer_dilated.paths import as_path, expand_user, is_bucket

BENCHMARKED = [str(SHIPPED / f'mnist_{name}.py') for name in ('baseline', 'dilated')]
print_now = functools.partial(print, flush=True)
PROCESSES = '[--coordinator=HOST:PORT --num_processes=N --process_id=K]'


@command(f'--config=FILE [--workdir=DIR] [--trace=DIR] [--config.KEY=VALUE ...] {PROCESSES}')
def train(arguments: SimpleNamespace) -> None:
    """Trains, or resumes the run of a folder, by default runs/CONFIG-TIME. --trace traces ten
    steps. Processes that train together find each other on Cloud TPU and under srun; else each gets
    the last three flags."""
    config, name = load_config(arguments.config, arguments.overrides), file_name(arguments.config)
    _init_distributed(arguments)
    from mixer_dilated.cli.progress import SilentProgress, TerminalProgress
    from mixer_dilated.parallel.multihost import broadcast, translate_host_loss
    from mixer_dilated.reports.tables.run_tables import print_run
    from mixer_dilated.training.train import train_and_evaluate

    # Milliseconds: runs that a shell loop starts at once must not meet in one folder.
    stamp = datetime.datetime.now().strftime('%Y%m%d-%H%M%S-%f')[:-3]
    with translate_host_loss():
        workdir = arguments.workdir or pathlib.Path('runs', f'{name}-{stamp}')
        workdir = as_path(broadcast(str(workdir)))
        is_primary = distributed.is_primary()
        with TerminalProgress(name, workdir) if is_primary else SilentProgress() as progress:
            observed = {'progress': progress, 'trace': arguments.trace, 'name': name}
            summary = train_and_evaluate(config, workdir, started=arguments.started, **observed)
    if summary:
        print_run(summary)


@command(
    '--workdir=DIR [--split=SPLIT] [--data_dir=DIR] [--checkpoint=best] [--calibrate=SPLIT] '
    + PROCESSES
)
def evaluate(arguments: SimpleNamespace) -> None:
    """Loss, accuracy and expected calibration error (ECE) of a run's newest checkpoint. Default
    split: its test split. Default data_dir: where the run's data lay. --calibrate first fits a
    temperature, on examples that are neither evaluated nor trained on."""
    _init_distributed(arguments)
    from mixer_dilated.inference.evaluation import evaluate_checkpoint
    from mixer_dilated.parallel.multihost import translate_host_loss
    from mixer_dilated.reports.tables.run_tables import print_evaluation

    with translate_host_loss():
        what = arguments.workdir, arguments.split, arguments.data_dir
        best = arguments.checkpoint == 'best'
        evaluation = evaluate_checkpoint(*what, best=best, calibrate=arguments.calibrate)
    if distributed.is_primary():
        print_evaluation(evaluation)


@command(
    '--workdir=DIR FILE_OR_FOLDER ... [--top=3] [--csv=FILE] [--json=FILE] [--sheet=FILE] '
    '[--checkpoint=best] [--max_pixels=N]'
)
def predict(arguments: SimpleNamespace) -> None:
    """Classes of image files, with their probabilities; '-' reads a list of files from standard
    input. Files that cannot be used are named, the others are classified, and the exit status is
    2."""
    from mixer_dilated.cli.predict_files import predict_files

    predict_files(arguments)


@command('--config=FILE [--picture=FILE] [--config.KEY=VALUE ...]')
def summary(arguments: SimpleNamespace) -> None:
    """Tokens, window, coverage, parameters, FLOPs and memory, without training."""
    config = load_config(arguments.config, arguments.overrides)
    from mixer_dilated.parallel.mesh import check_batch
    from mixer_dilated.reports.tables.summary_table import print_summary
    from mixer_dilated.training.compiled import CompiledFunctions
    from mixer_dilated.training.setup import create_setup

    setup = create_setup(config)
    compiled = CompiledFunctions(setup)
    check_batch(config.batch, compiled.mesh, config.accum_steps)
    if arguments.picture:
        from mixer_dilated.reports.plots.patch_plots import draw_patches

        draw_patches(setup, arguments.picture)
        print(f'picture: {arguments.picture}')
    unsharded = compiled.partition.unsharded_params(compiled.abstract_state.params)
    print_summary(setup, compiled.training_bytes(), compiled.mesh_shape, unsharded)


@command('[--seeds=10] [--workdir=DIR] [--config.KEY=VALUE ...]')
def table1(arguments: SimpleNamespace) -> None:
    """The paper's Table 1: its two methods and a control, many seeds, paired differences. The same
    as a sweep of configs/sweeps/table1.py."""
    path = str(SHIPPED / 'sweeps' / 'table1.py')
    sweep(SimpleNamespace(**vars(arguments), sweep=path, halving=None))


@command('--sweep=FILE [--seeds=N] [--halving=3] [--workdir=DIR] [--config.KEY=VALUE ...]')
def sweep(arguments: SimpleNamespace) -> None:
    """Trains every trial of a sweep file, and compares them; the same command resumes it, or helps.
    --halving=3 trains one seed for few epochs first, and keeps a third of the methods each time.
    Default folder: runs/SWEEP."""
    study = load_sweep(arguments.sweep, arguments.overrides, arguments.seeds)
    name = file_name(arguments.sweep)
    from mixer_dilated.cli.progress import TerminalStudyProgress
    from mixer_dilated.studies.halving import successive_halving
    from mixer_dilated.studies.study import run_study

    keep_compiled_programs()
    folder = arguments.workdir or pathlib.Path('runs', name)  # no time: the command resumes it
    if is_bucket(folder):
        hint = 'name a local folder, and copy it there afterwards'
        raise UserError(f'--workdir={folder}: studies need locks, which a bucket has not; {hint}')
    line = shlex.join([*program(), *sys.argv[1:]])
    factor = arguments.halving
    run = functools.partial(successive_halving, factor=factor) if factor else run_study
    with TerminalStudyProgress(name, folder) as observer:
        if run(study, folder, command=line, observer=observer) is None:
            print('no trial is left to begin')
            return
        folder = folder / 'final' if factor else folder
        # pandas and seaborn, which the training need not wait for.
        from mixer_dilated.reports.page.report import write_report
        from mixer_dilated.reports.tables.run_tables import print_study

        print_study(folder)
        print(f'\nreport: {write_report(folder)}')


@command('DIR')
def report(arguments: SimpleNamespace) -> None:
    """Writes report.html of a run or study again, from its files."""
    from mixer_dilated.reports.page.report import write_report

    (folder,) = arguments.words
    print(f'report: {write_report(expand_user(folder))}')


@command('IN OUT [--names=timm]')
def convert(arguments: SimpleNamespace) -> None:
    """Writes weights as .npz (the original's names), .safetensors, .pth (timm's names, as with
    --names=timm), or else a folder of orbax. IN may be a run's folder."""
    from mixer_dilated.inference.conversion import convert
    from mixer_dilated.pretrained.weights_path import weights_path

    source, target = arguments.words
    if is_bucket(target):
        raise UserError(f'{target}: weights are written locally; name a local path, and copy them')
    timm = arguments.names == 'timm'
    print(convert(weights_path(source), pathlib.Path(target), timm=timm))


@command('--config=FILE --config.init_from=WEIGHTS --split=SPLIT')
def probe(arguments: SimpleNamespace) -> None:
    """Fits a linear classifier to the features of weights, in closed form; its regularization is
    chosen on SPLIT."""
    config = load_config(arguments.config, arguments.overrides)
    from mixer_dilated.inference.probe import linear_probe
    from mixer_dilated.reports.tables.run_tables import print_probe

    keep_compiled_programs()
    print_probe(linear_probe(config, arguments.split))


@command('--workdir=DIR --output=DIR [--checkpoint=best] [--format=onnx]')
def export(arguments: SimpleNamespace) -> None:
    """Writes the network of a run for CPU, CUDA and TPU, or for ONNX, with an example that loads
    it, to a new or empty folder."""
    from mixer_dilated.inference.export import export_run
    from mixer_dilated.reports.tables.run_tables import print_export

    what = {'best': arguments.checkpoint == 'best', 'to_onnx': arguments.format == 'onnx'}
    print_export(export_run(arguments.workdir, arguments.output, **what))
    print(f'\nfolder: {arguments.output}')


@command(
    '[--config=FILE ...] [--against=reference,torch] [--json=FILE] [--input] '
    '[--config.KEY=VALUE ...]'
)
def benchmark(arguments: SimpleNamespace) -> None:
    """Times a training step and the forward pass beside the speed of this machine's matrix
    products; some minutes a config. --against adds plain Flax called from Python, and PyTorch if
    installed. Default configs: configs/mnist_baseline.py and configs/mnist_dilated.py. --input
    times streamed examples instead, beside decoding alone."""
    preemption.on_signal('raise')  # ends the processes it starts
    against = arguments.against.split(',') if arguments.against else []
    if unknown := [name for name in against if name not in ('reference', 'torch')]:
        raise UserError(f'--against={arguments.against}: {unknown[0]!r}: allowed: reference, torch')
    if arguments.input and against:
        raise UserError('--against is not for --input, which is compared with decoding alone')
    configs = _load_configs(arguments, BENCHMARKED)
    from mixer_dilated.benchmark import input_speed, measure
    from mixer_dilated.reports.tables import benchmark_table

    if arguments.input:
        measurements = input_speed.benchmark_input(configs, print_now)
        benchmark_table.print_input_benchmark(measurements)
    else:
        measurements = measure.benchmark(configs, against, print_now)
        benchmark_table.print_benchmark(measurements)
    _write_json(arguments.json, measurements)


@command(
    '[--config=FILE ...] [--devices=v5e:4x4[,h100:8 ...]] [--batch_per_device=N] '
    '[--against=measured] [--json=FILE] [--config.KEY=VALUE ...]'
)
def plan(arguments: SimpleNamespace) -> None:
    """Compiles a run for devices that are not there: memory, largest batch, cycles or kernels by
    part of the network, exchanges, time, what to change. Of several configs a line each; default:
    all of configs/, for the devices that config.devices names. Known are v4, v5e, v5p, v6e (needs
    pip install "jax[tpu]"), t4, l4, a100, h100, h200 ("jax[cuda13-local]"), and this, which
    --against times."""
    if arguments.against not in (None, 'measured'):
        raise UserError(f'--against={arguments.against}: allowed is measured; or leave it out')
    configs = _load_configs(arguments, sorted(map(str, SHIPPED.glob('*.py'))))
    from mixer_dilated.planning.plan import plan_runs
    from mixer_dilated.reports.tables.plan_table import print_plan, print_plans

    is_one, plans = len(configs) == 1, {name: [] for name in configs}
    flags = arguments.devices, arguments.batch_per_device, arguments.against == 'measured'
    for name, result in plan_runs(configs, *flags, _before_compiling):
        if is_one:
            print('\n' * bool(plans[name]), end='')
            print_plan(name, result)
        plans[name].append(result)
    if not is_one:
        print_plans(plans)
    contents = [{'name': n, 'config': c.to_dict(), 'plans': plans[n]} for n, c in configs.items()]
    _write_json(arguments.json, contents[0] if is_one else contents)


@command()
def keys(arguments: SimpleNamespace) -> None:
    """Every configuration key: default, meaning, what is allowed."""
    from mixer_dilated.reports.tables.terminal import print_keys

    print_keys()


def _init_distributed(arguments: SimpleNamespace) -> None:
    flags = arguments.coordinator, arguments.num_processes, arguments.process_id
    distributed.init_distributed(*flags)
    keep_compiled_programs()


def _load_configs(arguments: SimpleNamespace, default: list[str]) -> dict:
    configs = load_configs(arguments.config or default, arguments.overrides)
    if arguments.json:
        check_output('json', arguments.json)
    return configs


def _write_json(path: pathlib.Path | None, content: dict | list) -> None:
    """Writes the file of --json, and prints its name."""
    if path:
        with AtomicFile(path, 'json') as file:
            file.write((json.dumps(content, indent=2) + '\n').encode())
        print(f'\njson: {path}')


def _before_compiling(text: str) -> None:
    """Prints on a terminal what is compiled, which may take minutes in a separate process."""
    preemption.on_signal('raise')  # ends that process
    if sys.stderr.isatty():
        print(f'compiles for {text} …', file=sys.stderr)
