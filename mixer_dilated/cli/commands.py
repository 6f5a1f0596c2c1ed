"""The commands, one function each: call, print. `command_table` has their flags.

Libraries that one command needs are imported in it: `--help` and refusals stay quick.
"""

import datetime
import json
import os
import pathlib
import shlex
import sys
from types import SimpleNamespace

from mixer_dilated.cli import distributed, preemption
from mixer_dilated.cli.config_files import SHIPPED, file_name, load_config, load_configs, load_sweep
from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, as_path, check_output, expand_user, is_bucket

TABLE1 = str(SHIPPED / 'sweeps' / 'table1.py')
BENCHMARKED = [str(SHIPPED / f'mnist_{name}.py') for name in ('baseline', 'dilated')]
BENCHMARK_REFERENCES = ('reference', 'torch')


def train(arguments: SimpleNamespace, started: float) -> None:
    """Trains a config and prints its result."""
    config, name = load_config(arguments.config, arguments.overrides), file_name(arguments.config)
    distributed.init_distributed(
        arguments.coordinator, arguments.num_processes, arguments.process_id
    )
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.run_progress import SilentProgress, TerminalProgress
    from mixer_dilated.parallel.multihost import broadcast, translate_host_loss
    from mixer_dilated.reports.tables.run_tables import print_run
    from mixer_dilated.training.train import train_and_evaluate

    keep_compiled_programs()
    # Milliseconds: runs that a shell loop starts at once must not meet in one folder.
    stamp = datetime.datetime.now().strftime('%Y%m%d-%H%M%S-%f')[:-3]
    with translate_host_loss():
        workdir = arguments.workdir or pathlib.Path('runs', f'{name}-{stamp}')
        workdir = as_path(broadcast(str(workdir)))
        is_primary = distributed.is_primary()
        with TerminalProgress(name, workdir) if is_primary else SilentProgress() as progress:
            summary = train_and_evaluate(
                config, workdir, name=name, started=started, progress=progress
            )
    if summary:
        print_run(summary)


def evaluate(arguments: SimpleNamespace, started: float) -> None:
    """Evaluates a checkpoint of a run, the newest or the best, and prints the result."""
    distributed.init_distributed(
        arguments.coordinator, arguments.num_processes, arguments.process_id
    )
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.inference.evaluation import evaluate_checkpoint
    from mixer_dilated.parallel.multihost import translate_host_loss
    from mixer_dilated.reports.tables.run_tables import print_evaluation

    keep_compiled_programs()
    with translate_host_loss():
        evaluation = evaluate_checkpoint(
            arguments.workdir,
            arguments.split,
            arguments.data_dir,
            best=arguments.checkpoint == 'best',
            calibrate=arguments.calibrate,
        )
    if distributed.is_primary():
        print_evaluation(evaluation)


def predict(arguments: SimpleNamespace, started: float) -> None:
    """Classifies image files, and prints and writes their classes."""
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.predict_files import check_outputs, predict_files

    check_outputs(arguments)
    keep_compiled_programs()
    predict_files(arguments)


def summary(arguments: SimpleNamespace, started: float) -> None:
    """Prints what a config's patches see and what its network costs."""
    config = load_config(arguments.config, arguments.overrides)
    from mixer_dilated.config import patch_branches
    from mixer_dilated.data.preprocessing import upsample
    from mixer_dilated.parallel.mesh import check_batch
    from mixer_dilated.reports.tables.summary_table import print_summary
    from mixer_dilated.training.compiled import CompiledFunctions
    from mixer_dilated.training.setup import create_setup

    setup = create_setup(config)
    compiled = CompiledFunctions(setup)
    check_batch(config.batch, compiled.mesh, config.accum_steps)
    if arguments.picture:
        from mixer_dilated.reports.plots.patch_plots import draw_patches

        data_source = setup.dataset.data_source(config.dataset.train_split)
        first = upsample(data_source.read([0]).images, setup.image_size)[0]
        draw_patches(patch_branches(config.model), first, arguments.picture)
        print(f'picture: {arguments.picture}')
    unsharded = compiled.partition.unsharded_params(compiled.abstract_state().params)
    print_summary(setup, compiled.training_bytes(), compiled.mesh_shape, unsharded)


def table1(arguments: SimpleNamespace, started: float) -> None:
    """Runs the study of the paper's Table 1."""
    arguments.sweep = TABLE1
    sweep(arguments, started)


def sweep(arguments: SimpleNamespace, started: float) -> None:
    """Runs a study, or helps to; writes its report and prints its result."""
    study = load_sweep(arguments.sweep, arguments.overrides, arguments.seeds)
    name = file_name(arguments.sweep)
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.study_progress import TerminalStudyProgress
    from mixer_dilated.studies.study import run_study

    keep_compiled_programs()
    # No time in its name: the same command resumes the study.
    folder = arguments.workdir or pathlib.Path('runs', name)
    if is_bucket(folder):
        raise UserError(
            f'--workdir={folder}: processes of a study share its trials by locks, which a bucket '
            'does not have; name a local folder, and copy it there afterwards'
        )
    command = shlex.join([*program(), *sys.argv[1:]])
    with TerminalStudyProgress(name, folder) as observer:
        if run_study(study, folder, command=command, observer=observer) is None:
            print('no trial is left to begin')
            return
        # pandas and seaborn, which the training need not wait for.
        from mixer_dilated.reports.page.report import write_report
        from mixer_dilated.reports.tables.study_table import print_study

        print_study(folder)
        print(f'\nreport: {write_report(folder)}')


def report(arguments: SimpleNamespace, started: float) -> None:
    """Writes the report of a run or a study again, from its files."""
    from mixer_dilated.reports.page.report import write_report

    (folder,) = arguments.words
    print(f'report: {write_report(expand_user(folder))}')


def convert(arguments: SimpleNamespace, started: float) -> None:
    """Writes weights in another format."""
    from mixer_dilated.inference.conversion import convert
    from mixer_dilated.pretrained.weights_path import weights_path

    source, target = arguments.words
    if is_bucket(target):
        raise UserError(f'{target}: weights are written locally; name a local path, and copy them')
    timm = arguments.names == 'timm'
    print(convert(weights_path(source), pathlib.Path(target), timm=timm))


def probe(arguments: SimpleNamespace, started: float) -> None:
    """Fits a linear classifier to frozen features, and prints its accuracy."""
    config = load_config(arguments.config, arguments.overrides)
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.inference.probe import linear_probe
    from mixer_dilated.reports.tables.run_tables import print_probe

    keep_compiled_programs()
    print_probe(linear_probe(config, arguments.split))


def export(arguments: SimpleNamespace, started: float) -> None:
    """Writes a run's network as files that JAX alone can load and call."""
    from mixer_dilated.inference.export import export_run
    from mixer_dilated.reports.tables.run_tables import print_export

    best = arguments.checkpoint == 'best'
    print_export(export_run(arguments.workdir, arguments.output, best=best))
    print(f'\nfolder: {arguments.output}')


def benchmark(arguments: SimpleNamespace, started: float) -> None:
    """Measures the speed of configs and prints it."""
    preemption.raise_interrupt()  # ends the processes it starts
    against = arguments.against.split(',') if arguments.against else []
    for name in against:
        if name not in BENCHMARK_REFERENCES:
            allowed = ', '.join(BENCHMARK_REFERENCES)
            raise UserError(f'--against={arguments.against}: {name!r}: allowed are {allowed}')
    if arguments.input and against:
        raise UserError('--against is not for --input, which is compared with decoding alone')
    configs = load_configs(arguments.config or BENCHMARKED, arguments.overrides)
    if arguments.json:
        check_output('json', arguments.json)
    if arguments.input:
        from mixer_dilated.benchmark.input_speed import benchmark_input
        from mixer_dilated.reports.tables.input_table import print_input_benchmark

        measurements = benchmark_input(configs, _print_now)
        print_input_benchmark(measurements)
    else:
        from mixer_dilated.benchmark.measure import benchmark
        from mixer_dilated.reports.tables.benchmark_table import print_benchmark

        measurements = benchmark(configs, against, _print_now)
        print_benchmark(measurements)
    if arguments.json:
        write_json_output(arguments.json, measurements)


def keys(arguments: SimpleNamespace, started: float) -> None:
    """Prints every configuration key."""
    from mixer_dilated.reports.tables.key_table import print_keys

    print_keys()


def program() -> list[str]:
    """The words that start this program."""
    if sys.argv[0].endswith(os.path.join('mixer_dilated', '__main__.py')):
        return ['python', '-m', 'mixer_dilated']
    return ['python', 'run.py']


def write_json_output(path: pathlib.Path, content: dict) -> None:
    """Writes the file of --json, and prints its name."""
    with AtomicFile(path, 'json') as file:
        file.write((json.dumps(content, indent=2) + '\n').encode())
    print(f'\njson: {path}')


def _print_now(text: str) -> None:
    print(text, flush=True)
