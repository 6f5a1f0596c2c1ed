"""The command line; `python -m mixer_dilated --help` says what there is."""

import sys
import time
import warnings
from typing import NoReturn

STARTED = time.perf_counter()


def run() -> NoReturn:
    """Runs the command of `sys.argv`, and ends with its exit status."""
    from mixer_dilated.cli import preemption

    preemption.install_handlers()  # before what takes time to import
    from mixer_dilated.cli.distributed import exit_now
    from mixer_dilated.cli.main import main

    status = main(sys.argv[1:], started=STARTED)
    if status:  # after an error threads of libraries may wait for minutes, as orbax's do
        exit_now(status)
    warnings.simplefilter('ignore')  # of what libraries leave to the end of the interpreter
    sys.exit(status)


if __name__ == '__main__':
    run()
