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
import re
import shutil
import signal
import sys
import time
from typing import NamedTuple

from tests.fuzz.children import check_forkable, fork, import_everything, results, snapshot
from tests.fuzz.damage import damage, replace
from tests.fuzz.originals import CASES, RESULTS, RESUMED, make_originals, odd_words

AT_ONCE, MAX_SECONDS, MAX_GIB, MAX_LISTED = 2, 20, 2, 30
# What a person may edit, with other results.
EDITABLE = ('config.json', 'preprocessing.json', 'calibration.json', '0.png', '1.png')


class Case(NamedTuple):
    """What one child does."""

    number: int
    folder: pathlib.Path
    words: list[str]
    kind: str  # of the first damage
    text: str  # what was damaged
    damaged: list[pathlib.Path]


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
            if what not in ('kinds', 'weights', '.'):
                self.call(*words, fresh=True)
            if what in ('run', 'unfinished', 'study', 'half') and '=new' not in words[-1]:
                self.expected[command] = results(folder / 'fresh', words)
                assert all(self.expected[command].values()), command
        for commands in RESUMED:
            done, resumed = (self.expected[command].values() for command in commands)
            assert [*done] == [*resumed], commands
        self.counts, self.failures = collections.defaultdict(collections.Counter), []

    def call(self, *words: str, fresh: bool = False) -> None:
        """Runs a command that has to succeed, and imports what it imported."""
        folder, start = self.originals, time.perf_counter()
        if fresh:
            folder = self.folder / 'fresh'
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.originals, folder)
        _, status, usage = os.wait4(fork(folder, list(words)), 0)
        seconds = usage.ru_utime + usage.ru_stime
        print(f'{time.perf_counter() - start:6.1f} s, CPU {seconds:5.1f}: {" ".join(words)}')
        assert status == 0, (status, words, (folder / 'stderr').read_text())
        for name in (folder / 'modules').read_text().split():
            if name not in sys.modules and name.startswith(('mixer', 'jax', 'orbax', 'scipy')):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        check_forkable()

    def make_case(self, number: int) -> Case:
        draw = random.Random(f'{self.seed}/{number}')
        _, what, only, command = draw.choices(CASES, [case[0] for case in CASES])[0]
        folder, precious = self.folder / f'case-{number}', self.precious
        folder.mkdir()
        if what == 'kinds':
            precious = precious / what
            what = draw.choice(sorted(os.listdir(precious)))
            command = f'report {what}'
            shutil.copytree(precious / what, folder / what)
        words = odd_words(draw) if what is None else command.split(' ')
        needed = {'config', 'sweep', 'images', 'arrays', *re.split(r'\W+', str(words).lower())}
        for source in (path for path in self.originals.iterdir() if path.stem in needed):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / source.name)
        if what is None:
            for kind in ('pipe', 'socket'):
                (folder / kind).touch()
                replace(kind, draw, folder / kind, folder)
            return Case(number, folder, words, 'words', '', [])
        damages, damaged = [], []
        for _ in range(1 if only != '**/*' else draw.choice((1, 1, 1, 1, 2))):
            damages.append(damage(draw, folder / what, precious / what, only, damaged))
            damaged.append(damages[-1][2])
        weights = f'{what}/{damaged[0].parts[0]}'
        words = [word.replace('WEIGHTS', weights) for word in words]
        text = '; '.join(text for _, text, _ in damages)[:300]
        return Case(number, folder, words, damages[0][0], text, damaged)

    def run(self, numbers: list[int]) -> None:
        """Runs cases; `failures` and `counts` have what came of them."""
        waiting, running = list(numbers), {}
        gc.freeze()
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                case = self.make_case(waiting.pop(0))
                # On a machine that is busy with other things all takes longer.
                limit = MAX_SECONDS * max(1, os.getloadavg()[0] / os.cpu_count())
                running[fork(case.folder, case.words, limit)] = case
            pid, status, usage = os.wait4(-1, 0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what it started
            self.judge(running.pop(pid), os.waitstatus_to_exitcode(status), usage)

    def judge(self, case: Case, status: int, usage) -> None:
        """Counts a case, and notes what is wrong about it."""
        err = (case.folder / 'stderr').read_text(errors='replace')
        out = (case.folder / 'stdout').read_text(errors='replace')
        lines, seconds = err.splitlines(), usage.ru_utime + usage.ru_stime
        errors = [line for line in lines if line.startswith('error: ')]
        others = [line for line in lines if not line.startswith(('error: ', 'warning: '))]
        hangs, gib, changed = status == -signal.SIGALRM, usage.ru_maxrss / 2**20, self.restore()
        defects = {
            f'hangs ({seconds:.1f} s of CPU)': hangs,
            f'exit status {status}': status not in (0, 2, 3) and not hangs,
            'traceback': 'Traceback' in err + out,
            f'{len(errors)} lines of errors': (
                status in (2, 3) and (len(errors) != 1 or errors != lines[-1:])
            ),
            f'other lines: {others[:1]}'[:100]: (
                others and not hangs and 'init_from' not in str(case.words)
            ),
            f'{gib:.1f} GiB of memory': gib > MAX_GIB,
            f'changed outside: {", ".join(changed)[:200]}': changed,
        }
        wrong = [defect for defect, is_there in defects.items() if is_there]
        if status == 0:
            wrong += self.compare(case, warned='warning: ' in err)
        command = ' '.join(word.split('=')[0] for word in case.words)[:40]
        command = 'words' if case.kind == 'words' else command
        for name in (f'command {command}', f'kind {case.kind}', 'all'):
            self.counts[name].update({'failed' if wrong else f'exit {status}': 1, 'CPU s': seconds})
        if wrong:
            text = f'case {case.number}: {"; ".join(wrong)}\n  damage: {case.text}\n'
            text += f'  command: {case.words}\n  stderr: {err[-400:].strip()}\n'
            self.failures.append(text)
            print(text, flush=True)
        if 'MIXER_FUZZ_CASE' in os.environ:
            print(case, status, err, out, sep='\n')
        else:
            shutil.rmtree(case.folder)

    def restore(self) -> list[str]:
        """Makes the precious folder anew if it changed; returns what changed."""
        now = snapshot(self.precious)
        names = now.keys() | self.unchanged.keys()
        changed = [name for name in names if now.get(name) != self.unchanged.get(name)]
        if changed:
            shutil.rmtree(self.precious)
            shutil.copytree(self.originals, self.precious)
            self.unchanged = snapshot(self.precious)
        return changed

    def compare(self, case: Case, *, warned: bool) -> list[str]:
        """What of the results of a command that succeeded is not as without damage."""
        trains = case.words[0] in ('train', 'sweep')
        edited = not trains and any(path.name in EDITABLE for path in case.damaged)
        # A page shows what a file says that has no checksum; a trial may not be drawn.
        shown = case.words[0] == 'report' and any(p.name not in RESULTS for p in case.damaged)
        expected = self.expected.get(' '.join(case.words), {}) if case.damaged else {}
        if edited or shown or not expected or (warned and not trains):
            return []
        content = results(case.folder, case.words)
        names = [name for name in expected if content.get(name) != expected[name]]
        return [f'other results: {", ".join(names)}'] if names else []


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
    import pandas as pd

    print(pd.DataFrame(fuzzer.counts).T.fillna(0).astype(int).sort_index().to_string())
    minutes = (time.perf_counter() - start) / 60
    print(f'seed {seed}: {num_cases} cases, {int(num_cases) / minutes:.0f} a minute, '
          f'{len(fuzzer.failures)} failed')  # fmt: skip
    print('\n'.join(fuzzer.failures[:MAX_LISTED]))
    return bool(fuzzer.failures)


if __name__ == '__main__':
    sys.exit(main())
