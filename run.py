"""The command line; `python run.py --help` says what there is."""

from mixer_dilated.__main__ import run

if __name__ == '__main__':
    run()
