"""The report of a run or a study: one page and its plots, made from the folder's files alone."""

import itertools
import pathlib
import shlex
from collections.abc import Sequence

import jinja2
import ml_collections
import pandas as pd
from markupsafe import Markup

from mixer_dilated.config import flat, resolve
from mixer_dilated.config_keys import KEYS, RUNTIME_ONLY_KEYS
from mixer_dilated.errors import UserError, printable
from mixer_dilated.files import write_text
from mixer_dilated.paths import PathLike, as_path, exists, is_bucket
from mixer_dilated.reports.formatting import NOTHING, count_text, grouped_text, setting_text
from mixer_dilated.reports.page import result_tables
from mixer_dilated.reports.plots.figure import save_figure, svg_text
from mixer_dilated.reports.plots.run_plots import detail_plots, overview_plots
from mixer_dilated.reports.plots.study_plots import study_plots
from mixer_dilated.reports.result_files import Run, Study, read_run, read_study
from mixer_dilated.reports.schema import SPLITS

_SHOWN = [path for path in KEYS if path not in RUNTIME_ONLY_KEYS]


def write_report(folder: PathLike) -> pathlib.Path:
    """Writes `report.html`, which loads nothing from elsewhere, and every plot as a PNG beside it.

    Nothing is trained. The same files give the same bytes. A study may be unfinished: the page
    then says how much of it is there. Returns the path of the page.

    Raises:
      UserError: no finished run and no study is in the folder, a file of it is damaged, or the
        report cannot be written.
    """
    folder = as_path(folder)
    if exists(folder / 'study.json'):
        page = _study_page(read_study(folder))
    elif exists(folder / 'config.json'):
        page = _run_page(read_run(folder))
    else:
        raise UserError(
            f'{folder}: no run or study there (no config.json, no study.json); name the folder '
            'that a training or a sweep has made, for example runs/NAME, or runs/NAME/final of a '
            'halved sweep'
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = []
    for plot in page['plots']:
        if plot.figure:
            save_figure(plot.figure, folder / f'{plot.name}.png')
        drawn.append((plot, Markup(svg_text(plot)) if plot.figure else ''))
    page |= {'plots': drawn, 'tables': result_tables, 'count_text': count_text}
    path = folder / 'report.html'
    write_text(path, environment.get_template('report.html.j2').render(page) + '\n')
    return path


def _run_page(run: Run) -> dict:
    name = run.summary['config_name']
    return {
        'run': run,
        'title': name,
        'question': f'How well does it tell the classes of {run.summary["dataset"]} apart?',
        'data': _data_text([run]),
        'settings': _common_settings([run.config]),
        'plots': itertools.chain(overview_plots({name: run}), detail_plots({name: run})),
        'made': _origin([run.summary], run.folder),
    }


def _study_page(study: Study) -> dict:
    runs = [trial.run for trial in study.finished]
    configs = [trial.config for trial in study.trials if trial.config]
    return {
        'study': study,
        'title': study.content['title'],
        'question': study.content['question'],
        'data': _data_text(runs),
        'settings': [*_common_settings(configs or [study.config]), _differing_settings(study)],
        'invalid': pd.DataFrame(
            [{'trial': t.label, 'why': t.invalid} for t in study.trials if t.invalid]
        ),
        'split': SPLITS[study.split],
        'plots': study_plots(study),
        'made': [
            ('made by', study.content['command']),
            *_origin([run.summary for run in runs] or [study.content], study.folder),
        ],
    }


def _common_settings(configs: Sequence[ml_collections.ConfigDict | None]) -> list[pd.DataFrame]:
    """Keys with one value in all configs, None for one that is not known: those that differ from
    the default, then the rest."""
    texts = _texts(configs)
    meanings = [KEYS[path][2] for path in _SHOWN]
    table = pd.DataFrame({'key': _SHOWN, 'value': texts.iloc[0], 'meaning': meanings})
    common, is_default = texts.nunique() == 1, table.value == _texts([resolve({})]).iloc[0]
    return [table[common & ~is_default], table[common & is_default]]


def _differing_settings(study: Study) -> pd.DataFrame:
    """What tells the trials of a study apart: its axes, and the config keys that differ."""
    labels = [trial.label for trial in study.trials]
    settings = pd.DataFrame([trial.settings for trial in study.trials], dtype=object)
    settings = settings.reindex(columns=study.content['axes']).map(setting_text)
    keys = _texts([trial.config for trial in study.trials])
    for name, column in keys.loc[:, keys.nunique() > 1].items():
        # An invalid trial has no config: a setting may say what its key would.
        known = column.notna()
        if not settings[known].eq(column[known], axis=0).all().any():
            settings[name] = column.fillna(NOTHING)
    settings = settings.loc[:, [column.tolist() != labels for _, column in settings.items()]]
    if len(settings.columns):
        settings.insert(0, 'trial', labels)
    return settings


def _texts(configs: Sequence[ml_collections.ConfigDict | None]) -> pd.DataFrame:
    """A row a config, a column a key that is part of the result, 'model.hidden_dim', …"""
    rows = [
        {path: setting_text(value) for path, value in flat(config or {}).items()}
        for config in configs
    ]
    return pd.DataFrame(rows, columns=_SHOWN)


def _data_text(runs: Sequence[Run]) -> str:
    """What the runs were trained and tested on, for how long, with how many seeds."""
    if not runs:
        return ''
    table = pd.DataFrame([run.summary for run in runs])
    skipped = table.skipped_steps.sum()
    left_out = f', {count_text(skipped, "step")} left out (loss not finite)' if skipped else ''
    return (
        f'{", ".join(table.dataset.unique())}: trained on '
        f'{_range_text(table.train_examples, "image")}, tested on '
        f'{_range_text(table.test_examples, "image")}; '
        f'{_range_text(table.num_epochs, "epoch")}, '
        f'{_range_text(table.results.map(len), "seed")}{left_out}.'
    )


def _range_text(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    return (f'{grouped_text(low)} to ' if low < high else '') + count_text(high, noun)


def _origin(summaries: list[dict], folder: pathlib.Path) -> list[tuple[str, str]]:
    """How the results came about, (what, text) pairs, of things with 'device' and 'versions'."""
    texts = dict.fromkeys(
        (key, setting_text(summary.get(key, {})).strip('()'))
        for key in ('device', 'versions')
        for summary in summaries
    )
    # The folder as seen from here, if it is below; else its name, for a page tells no secrets.
    shown = folder
    if not is_bucket(folder):
        resolved, here = folder.resolve(), pathlib.Path.cwd()
        shown = resolved.relative_to(here) if resolved.is_relative_to(here) else resolved.name
    command = shlex.join(['python', '-m', 'mixer_dilated', 'report', str(shown)])
    return [*filter(all, texts), ('this page again', command)]
