"""README and docs: links resolve, code runs, commands parse, examples of extending apply."""

import ast
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from docs.configuration import PAGE, configuration_page
from mixer_dilated.cli.commands import COMMANDS
from mixer_dilated.cli.main import main
from mixer_dilated.config import resolve
from mixer_dilated.models.costs import layers
from mixer_dilated.training.state import create_model
from mixer_dilated.training.train import train_and_evaluate
from tests.conftest import ROOT, run_python, small_config

README, CONFIGS = ROOT / 'README.md', ROOT / 'configs'
TRAINING = 'library', 'export'  # pages whose code takes longest
EXTENDING = ROOT / 'docs' / 'extending.md'
FINE_TUNING = ROOT / 'docs' / 'fine-tuning.md'
PAGES = [README, *sorted((ROOT / 'docs').glob('*.md'))]
PROGRAMS = ('python', 'pip', 'curl', 'find')
# What the pages' commands are run with here, to be quick.
SMALL = ('--config.num_epochs=1', '--config.model.num_blocks=1', '--config.model.hidden_dim=8')

every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)


def read_tokens(page, section: str | None = None) -> list:
    """The Markdown tokens of a page, or of one of its sections."""
    text = page.read_text(encoding='utf-8')
    if section:
        text = text.split(f'\n## {section}\n')[1].split('\n## ')[0]
    return MarkdownIt('commonmark').enable('table').parse(text)


def read_inlines(page) -> Iterator:
    for token in read_tokens(page):
        yield from token.children or ()


def read_blocks(page, language: str, section: str | None = None) -> list[str]:
    """The fenced blocks of one language; those without a language are commands."""
    tokens = read_tokens(page, section)
    return [token.content for token in tokens if token.type == 'fence' and token.info == language]


def read_commands(page, section: str | None = None) -> list[list[str]]:
    """The commands of a page's blocks, as words."""
    text = ''.join(read_blocks(page, '', section)).replace('\\\n', ' ')
    commands = re.split(r' \| | && |\n', text)
    return [shlex.split(command, comments=True) for command in commands if command]


def anchors(page) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r'^#+ (.*)', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def write_python_files(folder) -> None:
    """Writes the blocks that begin with '# NAME.py' to files of that name."""
    for page in PAGES:
        for code in read_blocks(page, 'python'):
            if match := re.match(r'# (\w+\.py)\n', code):
                (folder / match[1]).write_text(code, encoding='utf-8')


def write_pets(folder) -> None:
    """The data set of the pages about own images, and images to predict."""
    draw = np.random.default_rng(0)
    for name, count in (('pets/cats', 100), ('pets/dogs', 100), ('album', 3)):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            image = Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8))
            image.save(folder / name / f'{k}.jpg')
    shutil.copy(folder / 'album' / '0.jpg', folder / 'photo.jpg')


# One process runs all commands, which import the same.
RUN_ALL = """
import json, sys, time
from mixer_dilated.cli.main import main
for words in json.load(sys.stdin):
    print(end='\\x1e')
    sys.argv = ['run.py', *words]
    if status := main(words, time.perf_counter()):
        sys.exit(f'{words} ends with {status}')
"""


def run_in(folder, package, commands: list[list[str]]) -> None:
    """Runs commands, `python run.py …`, in a folder; each must succeed and print something."""
    assert all(words[:2] == ['python', 'run.py'] for words in commands)
    content = json.dumps([words[2:] for words in commands])
    path = os.pathsep.join(map(str, (folder, package)))
    settings = {'cwd': folder, 'env': {'PYTHONPATH': path}, 'timeout': 900}
    done = run_python('-c', RUN_ALL, stdin=content, **settings)
    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split('\x1e')[1:]
    assert len(outputs) == len(commands) and all(outputs), done.stdout


@pytest.fixture
def parse(monkeypatch):
    """Runs the command line with commands that do nothing; returns the exit status."""
    for name, command in COMMANDS.items():
        nothing = functools.wraps(command.function)(lambda arguments: None)
        monkeypatch.setitem(COMMANDS, name, command._replace(function=nothing))
    return lambda words: main([*words, '--debug'], started=0.0)


@pytest.fixture
def beside_configs(monkeypatch, tmp_path):
    """The working folder: empty, but for the configs of the repository and of the pages."""
    (tmp_path / 'configs').symlink_to(CONFIGS)
    write_python_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def extended_files() -> dict[str, str]:
    """{path: content} of the files that the page about extending changes."""
    files = {}
    for diff in read_blocks(EXTENDING, 'diff'):
        for part in re.split(r'^--- ', diff, flags=re.MULTILINE)[1:]:
            path, *hunks = re.split(r'\n@@\n', part.rstrip('\n'))
            for hunk in hunks:
                lines = [(line[:1], line[1:]) for line in hunk.split('\n')]
                old = '\n'.join(text for sign, text in lines if sign != '+')
                new = '\n'.join(text for sign, text in lines if sign != '-')
                content = files.get(path) or (ROOT / path).read_text(encoding='utf-8')
                assert content.count(f'\n{old}\n') == 1, (path, old)
                files[path] = content.replace(f'\n{old}\n', f'\n{new}\n')
    return files


def test_the_readme_links_every_page():
    links = {token.attrs['href'] for token in read_inlines(README) if token.type == 'link_open'}
    assert {f'docs/{page.name}' for page in PAGES[1:]} <= links


@every_page
def test_relative_links_resolve(page):
    links = [
        token.attrs.get('href') or token.attrs['src']
        for token in read_inlines(page)
        if token.type in ('link_open', 'image')
    ]
    for link in links:
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        if '://' not in link:
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_page_of_the_configuration_is_what_the_keys_make():
    assert PAGE.read_text(encoding='utf-8') == configuration_page(), 'python -m docs.configuration'


@pytest.mark.parametrize(
    'page',
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in TRAINING)) for p in PAGES],
)
def test_python_code_runs(page, beside_configs):
    code = [block for block in read_blocks(page, 'python') if 'timm' not in block]
    if any('runs/digits' in block for block in code):
        train_and_evaluate(small_config(num_epochs=1), beside_configs / 'runs/digits', name='')
    for block in code:
        exec(compile(block, str(page), 'exec'), namespace := {})
        if 'get_config' in namespace:
            config = resolve(namespace['get_config']())
            side = config.dataset.image_size or 28
            assert layers(create_model(config, num_classes=10), (side, side, 3))


def test_a_run_opens_in_timm_as_the_page_says(beside_configs):
    pytest.importorskip('timm', reason='timm is not installed')
    (code,) = read_blocks(FINE_TUNING, 'python', 'Weights of timm')
    train_and_evaluate(small_config(num_epochs=1), beside_configs / 'runs/digits', name='')
    exec(compile(code, str(FINE_TUNING), 'exec'), namespace := {})
    np.testing.assert_allclose(namespace['logits'], namespace['expected'], atol=1e-6)


@pytest.mark.parametrize(
    'page', [page for page in PAGES if page != EXTENDING], ids=lambda page: page.stem
)
def test_commands_parse(page, beside_configs, parse):
    spans = [token.content for token in read_inlines(page) if token.type == 'code_inline']
    spans = [shlex.split(span) for span in spans if span.startswith('python run.py ')]
    for program, *words in read_commands(page) + spans:
        assert program in PROGRAMS
        if words[0] == 'run.py':
            words = [word.replace('=FILE', '=configs/mnist_dilated.py') for word in words[1:]]
            assert parse(words) == 0, words
        if words[0] == '-m':
            assert importlib.util.find_spec(words[1]), words


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*.py')), ids=lambda path: path.stem)
def test_configs_state_their_command(path, parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    command = re.search(r'python run.py (.*)', docstring)[1]
    named = re.sub(' --halving=[0-9]+$', '', command)
    assert command == 'table1' or named.endswith(f'={path.relative_to(ROOT)}')
    assert parse(command.split()) == 0


@pytest.mark.slow
def test_the_first_commands_of_the_readme_run(mnist, beside_configs, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', mnist)
    write_pets(beside_configs)
    sections = 'Start', 'Train, override, evaluate', 'Own images, and prediction', 'A config'
    commands = [
        [*words, *(SMALL if words[2].startswith('--config=') else ())]
        for section in sections
        for words in read_commands(README, section)
        if 'run.py' in words
    ]
    run_in(beside_configs, ROOT, commands)
    for name in ('patches.png', 'sheet.png', 'classes.csv'):
        assert (beside_configs / name).stat().st_size


@pytest.mark.slow
def test_examples_of_extending_run_in_a_copy_of_the_package(tmp_path):
    for name in ('mixer_dilated', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path, content in extended_files().items():
        (tmp_path / path).write_text(content, encoding='utf-8')
    write_python_files(tmp_path)
    write_pets(tmp_path)
    commands = [[*words, *SMALL] for words in read_commands(EXTENDING)]
    run_in(tmp_path, tmp_path, commands)
    assert len(os.listdir(tmp_path / 'runs')) == 4


def test_examples_of_extending_apply_and_compile():
    for path, content in extended_files().items():
        compile(content, path, 'exec')
