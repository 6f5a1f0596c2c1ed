"""The package: all rooms and configs are in its wheel, which runs where the repository is not."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv

import pytest
import yaml

import mixer_dilated
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def rooms(folder: str) -> set[str]:
    """Folders of modules at and below a folder of the repository, as packages."""
    paths = {path.parent.relative_to(ROOT) for path in (ROOT / folder).rglob('*.py')}
    return {'.'.join(path.parts) for path in paths}


def test_every_room_and_config_folder_is_packaged():
    configs = {f'mixer_dilated.{name}' for name in rooms('configs')}
    assert {*PYPROJECT['tool']['setuptools']['packages']} == rooms('mixer_dilated') | configs


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mixer_dilated.__version__
    assert citation['license'] == PYPROJECT['project']['license']
    newest = re.search(r'^## \[(.*?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest[1] == mixer_dilated.__version__


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Runs `python -m mixer_dilated WORDS` of the wheel, in an empty folder, without a download.

    Everything but the package itself is what the tests run with.
    """
    folder = tmp_path_factory.mktemp('installed')
    source, elsewhere = folder / 'source', folder / 'elsewhere'
    elsewhere.mkdir()
    files = subprocess.check_output(['git', 'ls-files'], cwd=ROOT, text=True)
    for name in files.split():  # a copy: building leaves files beside what it builds
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip, alone = (sys.executable, '-m', 'pip'), ('--no-deps', '--no-index', '--quiet')
    wheel = [*pip, 'wheel', '--no-build-isolation', *alone, f'--wheel-dir={folder}', source]
    subprocess.run(wheel, check=True)
    (file,) = folder.glob('mixer_dilated-*.whl')
    venv.create(folder / 'venv', symlinks=True)
    python = folder / 'venv' / 'bin' / 'python'
    (packages,) = (folder / 'venv').glob('lib/python*/site-packages')
    (packages / 'of_the_tests.pth').write_text(sysconfig.get_path('purelib'))
    subprocess.run([*pip, f'--python={python}', 'install', *alone, file], check=True)

    def run(*words: str) -> subprocess.CompletedProcess:
        environment = {name: os.environ[name] for name in os.environ if name != 'PYTHONPATH'}
        return subprocess.run(
            [python, '-m', 'mixer_dilated', *words],
            cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    return run, elsewhere


@pytest.mark.slow
def test_an_installed_wheel_trains_a_shipped_config_and_reports_it_from_anywhere(installed):
    run, elsewhere = installed
    small = ('--config.num_epochs=1', '--config.model.num_blocks=1', '--workdir=run')
    done = run('--config=configs/digits_dilated.py', *small)
    assert done.returncode == 0 and done.stderr == '', done
    summary = elsewhere / 'run' / 'summary.json'
    assert '"config_name": "digits_dilated"' in summary.read_text()
    done = run('report', 'run')  # which needs the templates
    assert done.returncode == 0, done
    assert '</html>' in (elsewhere / 'run' / 'report.html').read_text()
    done = run('--config=configs/digits_dilated.py', '--config.model=S/32', '--config.batch=0')
    assert done.returncode == 2 and 'config.batch = 0' in done.stderr


@pytest.mark.slow
def test_an_installed_wheel_lists_shipped_configs_and_sweeps(installed):
    run, _ = installed
    for command, folder in (('--config', 'configs'), ('sweep --sweep', 'configs/sweeps')):
        done = run(*f'{command}=configs/none.py'.split())
        assert done.returncode == 2
        assert all(f'{folder}/{path.name}' in done.stderr for path in (ROOT / folder).glob('*.py'))
    done = run('table1', '--config.batch=0')
    assert done.returncode == 2 and 'config.batch = 0' in done.stderr
    done = run('plan', '--config=configs/digits_dilated.py', '--devices=none')  # reads their table
    assert done.returncode == 2 and '--devices=none' in done.stderr and 'h100' in done.stderr
    assert 'python -m mixer_dilated evaluate' in run('--help').stdout
