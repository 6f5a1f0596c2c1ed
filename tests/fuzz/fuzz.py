"""`python -m tests.fuzz.fuzz FOLDER CASES SEED [CASE]`: damaged folders, and what commands make
of them.

Each case is a child that is forked from this process. Ends with 1 if any case failed.
"""

import collections
import contextlib
import gc
import importlib
import io
import os
import pathlib
import random
import select
import shutil
import signal
import sys
import time
from typing import NamedTuple

from tests.fuzz.children import check_forkable, fork, import_everything, results, snapshot
from tests.fuzz.damage import damage, pipe, unix_socket
from tests.fuzz.originals import CASES, RESULTS, make_originals, odd_words

MAX_SECONDS, MAX_GIB, MAX_LISTED = 20, 2, 30
# What a person may edit, with other results.
EDITABLE = ('config.json', 'preprocessing.json', '0.png', '1.png')


class Case(NamedTuple):
    """What one child does."""

    number: int
    folder: pathlib.Path
    words: list[str]
    kind: str  # of the first damage
    text: str  # what was damaged
    damaged: list[pathlib.Path]
    started: float = 0.0


class Fuzzer:
    """Makes cases, runs them two at a time, and counts."""

    def __init__(self, folder: pathlib.Path, seed: str):
        self.folder, self.seed = folder, seed
        self.originals, self.precious = folder / 'originals', folder / 'precious'
        self.originals.mkdir(parents=True)
        make_originals(self.originals, self.call)
        shutil.copytree(self.originals, self.precious)
        self.unchanged = snapshot(self.precious)
        self.expected = {}
        for _, what, _, command in CASES[:-1]:
            words = command.split(' ')
            if what in ('run', 'unfinished', 'study') and '=new' not in words[-1]:
                self.call(*words, fresh=True)
                self.expected[command] = results(folder / 'fresh', words)
        self.counts, self.failures = collections.Counter(), []

    def call(self, *words: str, fresh: bool = False) -> None:
        """Runs a command that has to succeed, and imports what it imported."""
        folder, modules = self.originals, self.folder / 'modules'
        if fresh:
            folder = self.folder / 'fresh'
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.originals, folder)
        os.environ['MIXER_FUZZ_MODULES'] = str(modules)
        start = time.perf_counter()
        _, status, usage = os.wait4(fork(folder, list(words)), 0)
        del os.environ['MIXER_FUZZ_MODULES']
        seconds = usage.ru_utime + usage.ru_stime
        print(f'{time.perf_counter() - start:6.1f} s, CPU {seconds:5.1f}: {" ".join(words)}')
        assert status == 0, (words, (folder / 'stderr').read_text())
        for name in modules.read_text().split():
            if name not in sys.modules and name.startswith(('mixer', 'jax', 'orbax', 'scipy')):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        check_forkable()

    def make_case(self, number: int) -> Case:
        draw = random.Random(f'{self.seed}/{number}')
        _, what, only, command = draw.choices(CASES, [case[0] for case in CASES])[0]
        folder = self.folder / f'case-{number}'
        folder.mkdir()
        shutil.copy(self.originals / 'config.py', folder)
        needed = {'sweep.py', 'images'} | {'run', 'weights', 'study', 'unfinished'} & {
            part for word in command.replace('WEIGHTS', 'weights').split(' ')
            for part in word.split('=')
        }  # fmt: skip
        precious = self.precious
        if what is None:
            words = odd_words(draw)
            kind, text, damaged, needed = 'words', '', [], {'run', 'weights', 'images', 'sweep.py'}
            for name, make in (('fifo', pipe), ('socket', unix_socket)):
                (folder / name).touch()
                make(draw, folder / name, None)
        if what == 'kinds':
            what = draw.choice(sorted(path.name for path in (precious / 'kinds').iterdir()))
            precious, needed = precious / 'kinds', {what}
            command = f'report {what}'
        for name in needed:
            source = (precious if name == what else self.originals) / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)
        if what is not None:
            damages, damaged = [], []
            for _ in range(1 if only != '**/*' else draw.choice((1, 1, 1, 1, 2))):
                damages.append(damage(draw, folder / what, precious / what, only, damaged))
                damaged.append(damages[-1][2])
            kind, text = damages[0][0], '; '.join(part[1] for part in damages)
            names = [what + '/' + path.parts[0] for path in damaged]
            words = [word.replace('WEIGHTS', names[0]) for word in command.split(' ')]
        return Case(number, folder, words, kind, text[:300], damaged, time.monotonic())

    def run(self, numbers: list[int], at_once: int = 2) -> None:
        """Runs cases; `failures` and `counts` have what came of them."""
        waiting, running = list(numbers), {}
        gc.freeze()
        while waiting or running:
            while waiting and len(running) < at_once:
                case = self.make_case(waiting.pop(0))
                pid = fork(case.folder, case.words)
                running[os.pidfd_open(pid)] = pid, case
            # On a machine that is busy with other things all takes longer.
            limit = MAX_SECONDS * max(1, os.getloadavg()[0] / os.cpu_count())
            first = min(case.started for _, case in running.values()) + limit
            ready, _, _ = select.select([*running], [], [], max(0.1, first - time.monotonic()))
            for descriptor in [*running]:
                pid, case = running[descriptor]
                hangs = descriptor not in ready and time.monotonic() - case.started > limit
                if descriptor in ready or hangs:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    _, status, usage = os.wait4(pid, 0)
                    os.close(descriptor)
                    del running[descriptor]
                    self.judge(case, os.waitstatus_to_exitcode(status), usage, hangs)

    def judge(self, case: Case, status: int, usage, hangs: bool) -> None:
        """Counts a case, and notes what is wrong about it."""
        err = (case.folder / 'stderr').read_text(errors='replace')
        out = (case.folder / 'stdout').read_text(errors='replace')
        lines = err.splitlines()
        wrong = []
        if hangs:
            wrong.append(f'hangs ({usage.ru_utime + usage.ru_stime:.1f} s of CPU)')
        elif status not in (0, 2, 3):
            wrong.append(f'exit status {status}')
        if 'Traceback' in err + out:
            wrong.append('traceback')
        errors = [line for line in lines if line.startswith('error: ')]
        if status in (2, 3) and (len(errors) != 1 or lines[-1] != errors[0]):
            wrong.append(f'{len(errors)} lines of errors')
        others = [line for line in lines if not line.startswith(('error: ', 'warning: '))]
        if others and not hangs and 'init_from' not in str(case.words):
            wrong.append(f'other lines: {others[0][:80]!r}')
        if usage.ru_maxrss > MAX_GIB * 2**20:
            wrong.append(f'{usage.ru_maxrss / 2**20:.1f} GiB of memory')
        if changed := self.restore_precious():
            wrong.append(f'changed outside: {", ".join(changed)[:200]}')
        if status == 0 and not hangs:
            wrong += self.compare(case, warned='warning: ' in err)
        command = ' '.join(word.split('=')[0] for word in case.words)[:40]
        command = 'words' if case.kind == 'words' else command
        outcome = 'failed' if wrong else f'exit {status}'
        self.counts[f'command {command}', outcome] += 1
        self.counts[f'kind {case.kind}', outcome] += 1
        self.counts['all', outcome] += 1
        seconds = usage.ru_utime + usage.ru_stime
        self.counts[f'command {command}', 'CPU s'] += seconds
        self.counts['all', 'CPU s'] += seconds
        if wrong:
            text = f'case {case.number}: {"; ".join(wrong)}\n  damage: {case.text}\n'
            text += f'  command: {case.words}\n  stderr: {err[-400:].strip()}\n'
            self.failures.append(text)
            print(text, flush=True)
        if 'MIXER_FUZZ_CASE' in os.environ:
            print(case, status, err, out, sep='\n')
        else:
            shutil.rmtree(case.folder)

    def restore_precious(self) -> list[str]:
        now = snapshot(self.precious)
        if now == self.unchanged:
            return []
        names = now.keys() | self.unchanged.keys()
        changed = [name for name in names if now.get(name) != self.unchanged.get(name)]
        shutil.rmtree(self.precious)
        shutil.copytree(self.originals, self.precious)
        self.unchanged = snapshot(self.precious)
        return changed

    def compare(self, case: Case, *, warned: bool) -> list[str]:
        """What of the results of a command that succeeded is not as without damage."""
        command = ' '.join(case.words)
        trains = case.words[0] in ('train', 'sweep')
        if any(path.parts[-1] in EDITABLE for path in case.damaged) and not trains:
            return []
        expected = self.expected.get(command, {}) if case.damaged else {}
        # A page shows what a file says that has no checksum; a trial may not be drawn.
        if case.words[0] == 'report' and not all(path.name in RESULTS for path in case.damaged):
            return []
        if not expected or (warned and not trains):
            return []
        found = results(case.folder, case.words)
        names = [name for name in expected if found.get(name) != expected[name]]
        return [f'other results: {", ".join(names)}'] if names else []

    def print_counts(self) -> None:
        names = sorted({name for name, _ in self.counts})
        columns = sorted({column for _, column in self.counts})
        print(f'{"":42}' + ''.join(f'{column:>9}' for column in columns))
        for name in names:
            cells = [self.counts[name, column] for column in columns]
            print(f'{name:42}' + ''.join(f'{cell:9.0f}' if cell else ' ' * 9 for cell in cells))


def main() -> int:
    folder, num_cases, seed, *only = sys.argv[1:]
    with contextlib.redirect_stdout(io.StringIO()):
        import_everything()
    check_forkable()
    start = time.perf_counter()
    fuzzer = Fuzzer(pathlib.Path(folder).resolve(), seed)
    print(f'originals: {time.perf_counter() - start:.0f} s', flush=True)
    start = time.perf_counter()
    fuzzer.run([*map(int, only)] or list(range(int(num_cases))))
    fuzzer.print_counts()
    minutes = (time.perf_counter() - start) / 60
    print(f'seed {seed}: {num_cases} cases, {int(num_cases) / minutes:.0f} a minute, '
          f'{len(fuzzer.failures)} failed')  # fmt: skip
    print('\n'.join(fuzzer.failures[:MAX_LISTED]))
    return bool(fuzzer.failures)


if __name__ == '__main__':
    sys.exit(main())
