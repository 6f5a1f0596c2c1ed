"""The commands of run.py, one function each: parse, call, print.

Libraries that one command needs are imported in it: `--help` and refusals stay quick.
"""

import datetime
import pathlib

from absl import logging

from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.errors import InputError

logging.set_verbosity(logging.ERROR)


def train(arguments: Arguments, started: float) -> None:
    """Trains a config and prints its result."""
    config = _required(arguments, 'config')
    from mixer_dilated.cli.progress import TerminalProgress
    from mixer_dilated.reports.tables import print_run
    from mixer_dilated.training.loop import train_and_evaluate

    now = datetime.datetime.now()
    # Milliseconds: runs that a shell loop starts at once must not meet in one folder.
    stamp = f'{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}'
    workdir = arguments.workdir or pathlib.Path('runs', f'{arguments.config_name}-{stamp}')
    with TerminalProgress(arguments.config_name, workdir) as progress:
        summary = train_and_evaluate(
            config, workdir, name=arguments.config_name, started=started, progress=progress
        )
    print_run(summary)


def evaluate(arguments: Arguments, started: float) -> None:
    """Evaluates the newest checkpoint of a run and prints the result."""
    workdir = _required(arguments, 'workdir')
    from mixer_dilated.reports.tables import print_evaluation
    from mixer_dilated.training.evaluation import evaluate_checkpoint

    print_evaluation(evaluate_checkpoint(workdir, arguments.split, arguments.data_dir))


def summary(arguments: Arguments, started: float) -> None:
    """Prints what a config's patches see and what its network costs."""
    config = _required(arguments, 'config')
    from mixer_dilated.config import patch_branches
    from mixer_dilated.data.sources import load_examples
    from mixer_dilated.reports.summary import print_summary
    from mixer_dilated.training.programs import Programs
    from mixer_dilated.training.task import open_task

    task = open_task(config)
    if arguments.picture:
        from mixer_dilated.reports.patch_picture import draw_patches

        first = load_examples(task.source, config.dataset.train_split, config.dataset).images[0]
        draw_patches(patch_branches(config.model), first, arguments.picture)
        print(f'picture: {arguments.picture}')
    print_summary(task, Programs(task).activation_bytes())


def keys(arguments: Arguments, started: float) -> None:
    """Prints every configuration key."""
    from mixer_dilated.reports.tables import print_keys

    print_keys()


def _required(arguments: Arguments, name: str):
    value = getattr(arguments, name)
    if value is None:
        example = {'config': 'configs/digits_dilated.py', 'workdir': 'runs/NAME'}[name]
        raise InputError(f'--{name} is missing; for example --{name}={example} (see --help)')
    return value
