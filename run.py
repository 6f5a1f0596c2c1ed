"""The command line; `python run.py --help` says what there is."""

import time

_STARTED = time.perf_counter()

import sys  # noqa: E402

from mixer_dilated.cli import interrupt  # noqa: E402
from mixer_dilated.cli.main import main  # noqa: E402

if __name__ == '__main__':
    interrupt.listen()
    sys.exit(main(sys.argv[1:], started=_STARTED))
