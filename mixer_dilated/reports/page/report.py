"""The report of a run or a study: one page and its plots, made from the folder's files alone."""

import itertools
import pathlib
import shlex
from collections.abc import Iterable

import jinja2
import pandas as pd
from markupsafe import Markup

from mixer_dilated.errors import UserError
from mixer_dilated.files import write_text
from mixer_dilated.reports.formatting import count_text, setting_text
from mixer_dilated.reports.page import result_tables
from mixer_dilated.reports.page.result_tables import PageTable
from mixer_dilated.reports.page.settings_tables import common_settings, differing_settings
from mixer_dilated.reports.plots.figure import Omitted, Plot, save_figure, svg_text
from mixer_dilated.reports.plots.run_plots import detail_plots, overview_plots
from mixer_dilated.reports.plots.study_plots import front_marks, study_plots
from mixer_dilated.reports.result_files import Run, Study, read_run, read_study

TEMPLATE = 'report.html.j2'
MAX_SHOWN = 12  # sentences or invalid trials; more are folded away


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Writes `report.html`, which loads nothing from elsewhere, and every plot as a PNG beside it.

    Nothing is trained. The same files give the same bytes. A study may be unfinished: the page
    then says how much of it is there.

    Args:
      folder: of a run (`config.json`, `summary.json`) or of a study (`study.json`).

    Returns:
      The path of the page.

    Raises:
      UserError: no finished run and no study is there, a file of it is damaged, or the report
        cannot be written.
    """
    if (folder / 'study.json').exists():
        page = _study_page(read_study(folder))
    elif (folder / 'config.json').exists():
        page = _run_page(read_run(folder))
    else:
        raise UserError(
            f'{folder}: no run or study there (no config.json, no study.json); name the folder '
            'that a training or a sweep has made, for example runs/NAME'
        )
    page['plots'] = [_draw(plot, folder) for plot in page['plots']]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = folder / 'report.html'
    write_text(path, environment.get_template(TEMPLATE).render(page) + '\n')
    return path


def _draw(plot: Plot | Omitted, folder: pathlib.Path) -> dict:
    """A plot as the template takes it; its PNG is written."""
    if isinstance(plot, Omitted):
        return {'title': plot.title, 'omitted': plot.reason}
    save_figure(plot.figure, folder / f'{plot.name}.png')
    return {
        'title': plot.title,
        'caption': plot.caption,
        'alt': plot.alt,
        'svg': Markup(svg_text(plot)),
        'png': f'{plot.name}.png',
    }


def _run_page(run: Run) -> dict:
    name = run.summary['config_name']
    return {
        'title': name,
        'question': f'How well does it tell the classes of {run.summary["dataset"]} apart?',
        'data': _data_text([run]),
        'settings': common_settings([run.config]),
        'results': result_tables.run_tables(run),
        'plots': itertools.chain(overview_plots({name: run}), detail_plots({name: run})),
        'made': _origin([run.summary], None, run.folder),
    }


def _study_page(study: Study) -> dict:
    runs = [trial.run for trial in study.finished]
    configs = [trial.config for trial in study.trials if trial.config]
    configs = configs or ([study.config] if study.config else [])
    results = []
    if study.kind == 'resolution':
        results += result_tables.resolution_tables(study)
    elif runs:
        marks = front_marks(study) if study.kind == 'sweep' else None
        results += result_tables.trials_tables(study, marks)
        if study.kind == 'table1':
            results.append(result_tables.paper_table(study))
    results.append(result_tables.robustness_table(study))
    summaries = [run.summary for run in runs] or [study.content]
    return {
        **{name: study.content[name] for name in ('title', 'question')},
        'data': _data_text(runs),
        'unfinished': _unfinished_text(study),
        'settings': [*common_settings(configs), *differing_settings(study)],
        'results': [table for table in results if table],
        'verdicts': study.statistics.get('verdicts', []),
        'most_shown': MAX_SHOWN,
        'comparisons': result_tables.comparisons_table(study),
        'invalid': _invalid_table(study),
        'plots': study_plots(study),
        'made': _origin(summaries, study.content['command'], study.folder),
    }


def _data_text(runs: list[Run]) -> str:
    """What the runs were trained and tested on, for how long, with how many seeds."""
    if not runs:
        return ''
    summaries = [run.summary for run in runs]
    names = dict.fromkeys(summary['dataset'] for summary in summaries)
    trained, tested = (
        _range_text([summary[f'{part}_examples'] for summary in summaries], 'image')
        for part in ('train', 'test')
    )
    seeds = _range_text([len(summary['results']) for summary in summaries], 'seed')
    epochs = _range_text([run.config.num_epochs for run in runs], 'epoch')
    skipped = sum(summary['skipped_steps'] for summary in summaries)
    left_out = f', {count_text(skipped, "step")} left out (loss not finite)' if skipped else ''
    data = f'{", ".join(names)}: trained on {trained}, tested on {tested}'
    return f'{data}; {epochs}, {seeds}{left_out}.'


def _range_text(numbers: Iterable[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    return count_text(high, noun) if low == high else f'{low} to {count_text(high, noun)}'


def _unfinished_text(study: Study) -> str:
    """What of the study is not there yet; '' for a finished one."""
    valid = sum(not trial.invalid for trial in study.trials)
    finished = len(study.finished)
    if study.kind != 'resolution' and finished < valid:
        missing = f'{finished} of its {valid} trials are there'
    elif not study.statistics:
        missing = 'its statistics are not there'
    else:
        return ''
    return f'This study is not finished: {missing}. The same command resumes it.'


def _invalid_table(study: Study) -> PageTable | None:
    rows = [{'trial': t.label, 'why': t.invalid} for t in study.trials if t.invalid]
    if not rows:
        return None
    title = count_text(len(rows), 'invalid trial')
    return PageTable(title, pd.DataFrame(rows), numbers=False, folded=len(rows) > MAX_SHOWN)


def _origin(
    summaries: list[dict], command: str | None, folder: pathlib.Path
) -> list[tuple[str, str]]:
    """How the results came about, (what, text) pairs, of things with 'device' and 'versions'."""
    made = [('made by', command)] if command else []
    for key in ('device', 'versions'):
        texts = [setting_text(summary.get(key, {})).strip('()') for summary in summaries]
        made += [(key, text) for text in dict.fromkeys(texts) if text]
    # The folder as seen from here, if it is below; else its name, for a page tells no secrets.
    resolved, here = folder.resolve(), pathlib.Path.cwd()
    shown = resolved.relative_to(here) if resolved.is_relative_to(here) else resolved.name
    return [
        *made,
        ('this page again', shlex.join(['python', '-m', 'mixer_dilated', 'report', str(shown)])),
    ]
