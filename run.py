"""The command line; `python run.py --help` says what there is."""

import time

_STARTED = time.perf_counter()

import sys  # noqa: E402
import warnings  # noqa: E402

from mixer_dilated.cli import preemption  # noqa: E402

if __name__ == '__main__':
    preemption.install_handlers()  # before what takes time to import
    from mixer_dilated.cli.main import main

    status = main(sys.argv[1:], started=_STARTED)
    warnings.simplefilter('ignore')  # of what libraries leave to the end of the interpreter
    sys.exit(status)
