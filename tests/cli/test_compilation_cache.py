"""Compiled programs are kept, and whoever does not want that is heard."""

import pathlib

import jax
import pytest

from mixer_dilated.cli import compilation_cache
from mixer_dilated.cli.compilation_cache import keep_compiled_programs
from tests.conftest import warns

NAMES = (
    'jax_compilation_cache_dir',
    'jax_enable_compilation_cache',
    'jax_persistent_cache_min_compile_time_secs',
)


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """JAX's settings as they are in a new process, and the user's cache folder; both put back."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update('jax_compilation_cache_dir', None)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(compilation_cache, '_processor', lambda: 'x86_64 AuthenticAMD')
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_by_kind_of_processor(settings, monkeypatch):
    folders = set()
    for processor in ('x86_64 AuthenticAMD', 'x86_64 AuthenticAMD avx512f'):
        monkeypatch.setattr(compilation_cache, '_processor', lambda processor=processor: processor)
        jax.config.update('jax_compilation_cache_dir', None)
        keep_compiled_programs()
        folders.add(pathlib.Path(jax.config.jax_compilation_cache_dir))
    assert folders == {*(settings / 'mixer_dilated' / 'compiled').iterdir()} and len(folders) == 2


def test_jaxs_own_settings_go_before(settings):
    jax.config.update('jax_enable_compilation_cache', False)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update('jax_enable_compilation_cache', True)
    jax.config.update('jax_compilation_cache_dir', '/elsewhere')
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == '/elsewhere'
    assert not list(settings.iterdir())


def test_it_stays_off_where_xla_refuses_what_it_kept(settings, monkeypatch):
    monkeypatch.setattr(compilation_cache, '_processor', lambda: 'x86_64 GenuineIntel avx512f')
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_it_stays_off_with_a_warning_where_nothing_can_be_written(settings):
    (settings / 'mixer_dilated').write_text('in the way')
    with warns('/mixer_dilated'):
        keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
