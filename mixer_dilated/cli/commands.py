"""The commands of run.py, one function each: parse, call, print.

Libraries that one command needs are imported in it: `--help` and refusals stay quick.
"""

import datetime
import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Callable

from mixer_dilated.cli import distributed, preemption
from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, check_output

AGAINST = ('reference', 'torch')


def train(arguments: Arguments, started: float) -> None:
    """Trains a config and prints its result."""
    config = required(arguments, 'config')
    distributed.init_distributed(arguments)
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.progress import SilentProgress, TerminalProgress
    from mixer_dilated.parallel.multihost import broadcast, translate_host_loss
    from mixer_dilated.reports.tables import print_run
    from mixer_dilated.training.train import train_and_evaluate

    keep_compiled_programs()
    now = datetime.datetime.now()
    # Milliseconds: runs that a shell loop starts at once must not meet in one folder.
    stamp = f'{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}'
    with translate_host_loss():
        given = str(arguments.workdir or pathlib.Path('runs', f'{arguments.name}-{stamp}'))
        workdir = pathlib.Path(broadcast(given))
        shown = distributed.is_primary()
        with TerminalProgress(arguments.name, workdir) if shown else SilentProgress() as progress:
            summary = train_and_evaluate(
                config, workdir, name=arguments.name, started=started, progress=progress
            )
    if summary:
        print_run(summary)


def evaluate(arguments: Arguments, started: float) -> None:
    """Evaluates a checkpoint of a run, the newest or the best, and prints the result."""
    workdir, best = required(arguments, 'workdir'), _best(arguments)
    distributed.init_distributed(arguments)
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.inference.evaluation import evaluate_checkpoint
    from mixer_dilated.parallel.multihost import translate_host_loss
    from mixer_dilated.reports.tables import print_evaluation

    keep_compiled_programs()
    with translate_host_loss():
        found = evaluate_checkpoint(
            workdir,
            arguments.split,
            arguments.data_dir,
            best=best,
            calibrate=arguments.calibrate,
        )
    if distributed.is_primary():
        print_evaluation(found)


def export(arguments: Arguments, started: float) -> None:
    """Writes a run's network as files that JAX alone can load and call."""
    workdir, best = required(arguments, 'workdir'), _best(arguments)
    output = required(arguments, 'output')
    from mixer_dilated.export.folder import export_run
    from mixer_dilated.reports.tables import print_export

    print_export(export_run(workdir, output, best=best))
    print(f'\nfolder: {output}')


def predict(arguments: Arguments, started: float) -> None:
    """Classifies picture files, and prints and writes their classes."""
    workdir = required(arguments, 'workdir')
    required(arguments, 'paths')
    best = _best(arguments)
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.predict import check_outputs, predict_files

    check_outputs(arguments)
    keep_compiled_programs()
    predict_files(arguments, workdir, best=best)


def convert(arguments: Arguments, started: float) -> None:
    """Writes weights in another form."""
    if len(arguments.paths) != 2:
        raise UserError(
            f'convert takes two names, IN and OUT; {len(arguments.paths)} were given, for example '
            'python run.py convert Mixer-B_16.npz mixer_b16.safetensors'
        )
    from mixer_dilated.inference.conversion import convert

    print(convert(*map(pathlib.Path, arguments.paths)))


def probe(arguments: Arguments, started: float) -> None:
    """Fits a linear classifier to frozen features, and prints its accuracy."""
    config = required(arguments, 'config')
    if arguments.split is None:
        raise UserError(
            '--split is missing: the examples on which the strength is chosen, for example '
            "--split='train[50000:]'"
        )
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.inference.probe import linear_probe
    from mixer_dilated.reports.tables import print_probe

    keep_compiled_programs()
    print_probe(linear_probe(config, arguments.split))


def summary(arguments: Arguments, started: float) -> None:
    """Prints what a config's patches see and what its network costs."""
    config = required(arguments, 'config')
    from mixer_dilated.config import patch_branches
    from mixer_dilated.data.preprocessing import upsample
    from mixer_dilated.parallel.mesh import check_batch
    from mixer_dilated.reports.summary import print_summary
    from mixer_dilated.training.compiled import CompiledFunctions
    from mixer_dilated.training.setup import create_setup

    setup = create_setup(config)
    programs = CompiledFunctions(setup)
    check_batch(config.batch, programs.mesh, config.accum_steps)
    if arguments.picture:
        from mixer_dilated.reports.patch_picture import draw_patches

        data_source = setup.dataset.data_source(config.dataset.train_split)
        first = upsample(data_source.read([0]).images, setup.image_size)[0]
        draw_patches(patch_branches(config.model), first, arguments.picture)
        print(f'picture: {arguments.picture}')
    unsharded = programs.partition.unsharded_params(programs.abstract_state().params)
    print_summary(setup, programs.training_bytes(), programs.mesh_shape, unsharded)


def sweep(arguments: Arguments, started: float) -> None:
    """Runs a study, or helps to; writes its report and prints its result."""
    study = required(arguments, 'sweep')
    from mixer_dilated.cli.compilation_cache import keep_compiled_programs
    from mixer_dilated.cli.study_progress import TerminalStudyProgress
    from mixer_dilated.reports.report import write_report
    from mixer_dilated.reports.tables import print_study
    from mixer_dilated.studies.study import run_study

    keep_compiled_programs()
    # No time in its name: the same command goes on where it stopped.
    folder = arguments.workdir or pathlib.Path('runs', arguments.name)
    with TerminalStudyProgress(arguments.name, folder) as observer:
        found = run_study(study, folder, command=_shown_command(), observer=observer)
        if found is None:
            print('no trial is left to begin')
            return
        print_study(folder)
        print(f'\nreport: {write_report(folder)}')


def report(arguments: Arguments, started: float) -> None:
    """Writes the report of a run or a study again, from its files."""
    folder = required(arguments, 'folder')
    from mixer_dilated.reports.report import write_report

    print(f'report: {write_report(folder)}')


def benchmark(arguments: list[Arguments], started: float) -> None:
    """Measures the speed of configs and prints it."""
    preemption.raise_interrupt()  # ends the processes it starts
    against = _against(arguments[0].against)
    configs = {each.name: each.config for each in arguments}
    if len(configs) < len(arguments):
        names = ', '.join(each.name for each in arguments)
        raise UserError(f'--config: {names}: one is there twice; name each once')
    file = arguments[0].json
    if file:
        check_output('json', file)
    say = functools.partial(print, flush=True)
    timed_input = arguments[0].input
    if timed_input and against:
        raise UserError('--against is not for --input, which is held against decoding alone')
    found = _benchmark_input(configs, say) if timed_input else _benchmark(configs, against, say)
    if file:
        with AtomicFile(file, 'json') as output:
            output.write((json.dumps(found, indent=2) + '\n').encode())
        print(f'\njson: {file}')


def _benchmark(configs: dict, against: list[str], say: Callable[[str], None]) -> dict:
    from mixer_dilated.benchmark.measure import benchmark
    from mixer_dilated.reports.benchmark_table import print_benchmark

    found = benchmark(configs, against, say)
    print_benchmark(found)
    return found


def _benchmark_input(configs: dict, say: Callable[[str], None]) -> dict:
    from mixer_dilated.benchmark.input_speed import benchmark_input
    from mixer_dilated.reports.input_table import print_input_benchmark

    found = benchmark_input(configs, say)
    print_input_benchmark(found)
    return found


def keys(arguments: Arguments, started: float) -> None:
    """Prints every configuration key."""
    from mixer_dilated.reports.tables import print_keys

    print_keys()


def _best(arguments: Arguments) -> bool:
    """Whether --checkpoint=best; UserError if it is no word that is allowed."""
    if arguments.checkpoint not in (None, 'newest', 'best'):
        raise UserError(f'--checkpoint={arguments.checkpoint}: allowed are newest, best')
    return arguments.checkpoint == 'best'


def _against(words: str | None) -> list[str]:
    """The words of --against; UserError if one is not among `AGAINST`."""
    given = words.split(',') if words else []
    for word in given:
        if word not in AGAINST:
            raise UserError(f'--against={words}: {word!r}: allowed are {", ".join(AGAINST)}')
    return given


def _shown_command() -> str:
    """The command that is running, as a shell takes it."""
    return shlex.join(['python', *sys.argv])


def required(arguments: Arguments, name: str):
    """A flag's value; UserError, with an example, if it is not given."""
    value = getattr(arguments, name)
    if value is not None and value != ():
        return value
    missing, example = {
        'config': ('--config', '--config=configs/digits_dilated.py'),
        'sweep': ('--sweep', '--sweep=configs/sweeps/dilation.py'),
        'workdir': ('--workdir', '--workdir=runs/NAME'),
        'output': ('--output', '--output=NEW_FOLDER'),
        'folder': ('the folder of a run or study', 'report runs/NAME'),
        'devices': ('--devices', '--devices=v5e:4x4'),
        'paths': ('what to predict', 'predict --workdir=runs/NAME photo.png photos'),
    }[name]
    raise UserError(f'{missing} is missing; for example {example} (see --help)')
