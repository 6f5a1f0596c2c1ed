"""The report of a run or a study: one page and its plots, made from the folder's files alone."""

import pathlib
import shlex
from collections.abc import Iterable, Iterator

from mixer_dilated.errors import UserError
from mixer_dilated.reports.page_table import PageTable
from mixer_dilated.reports.run_files import Run, read_run
from mixer_dilated.reports.study_files import Study, read_study

TEMPLATE = 'report.html.j2'
MAX_SHOWN = 12  # sentences or impossible cells; more are folded away


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
    page['plots'] = list(_drawn(page['plots'], folder))
    path = folder / 'report.html'
    from mixer_dilated.files import write_text

    try:
        write_text(path, _html(page))
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None
    return path


def _run_page(run: Run) -> dict:
    from mixer_dilated.reports import method_plots
    from mixer_dilated.reports.result_tables import run_tables
    from mixer_dilated.reports.settings_tables import common_settings

    summary = run.summary
    name = summary['config_name']
    runs = {name: run}

    def plots():
        yield method_plots.coverage_plot(runs)
        yield from method_plots.augmentation_plots(run)
        yield method_plots.curves_plot(runs)
        yield method_plots.confusion_plot(runs)
        yield from method_plots.stem_plots(runs)
        yield from method_plots.mixing_plots(runs)
        yield from method_plots.mistake_plots(runs)

    return {
        'title': name,
        'question': f'How well does it tell the classes of {summary["dataset"]} apart?',
        'data': _data([run]),
        'settings': common_settings([run.config]),
        'results': run_tables(run),
        'plots': plots(),
        'made': _made([summary], None, run.folder),
    }


def _study_page(study: Study) -> dict:
    from mixer_dilated.reports import result_tables
    from mixer_dilated.reports.settings_tables import common_settings, differing_settings
    from mixer_dilated.reports.study_plots import front_marks, study_plots

    runs = [cell.run for cell in study.finished]
    configs = [cell.config for cell in study.cells if cell.config]
    configs = configs or ([study.config] if study.config else [])
    made = [run.summary for run in runs] or [vars(study)]
    results = []
    if study.kind == 'resolution':
        results += result_tables.resolution_tables(study)
    elif runs:
        marks = front_marks(study) if study.kind == 'sweep' else None
        results += result_tables.cells_tables(study, marks)
        if study.kind == 'table1':
            results.append(result_tables.paper_table(study))
    robustness = result_tables.robustness_table(study)
    return {
        'title': study.title,
        'question': study.question,
        'data': _data(runs),
        'unfinished': _unfinished(study),
        'settings': [*common_settings(configs), *differing_settings(study)],
        'results': [*results, *([robustness] if robustness else [])],
        'verdicts': study.statistics.get('verdicts', []),
        'most_shown': MAX_SHOWN,
        'comparisons': result_tables.comparisons_table(study),
        'impossible': _impossible(study),
        'plots': study_plots(study),
        'made': _made(made, study.command, study.folder),
    }


def _data(runs: list[Run]) -> str:
    """What the runs were trained and tested on, for how long, with how many seeds."""
    from mixer_dilated.reports.cell_text import count_text

    def range_text(numbers: Iterable[int], noun: str) -> str:
        low, high = min(numbers), max(numbers)
        return count_text(high, noun) if low == high else f'{low} to {count_text(high, noun)}'

    if not runs:
        return ''
    summaries = [run.summary for run in runs]
    names = dict.fromkeys(summary['dataset'] for summary in summaries)
    trained, tested = (
        range_text([summary[f'{part}_examples'] for summary in summaries], 'image')
        for part in ('train', 'test')
    )
    seeds = range_text([len(summary['results']) for summary in summaries], 'seed')
    epochs = range_text([run.config.num_epochs for run in runs], 'epoch')
    skipped = sum(summary['skipped_steps'] for summary in summaries)
    left_out = f', {count_text(skipped, "step")} left out (loss not finite)' if skipped else ''
    data = f'{", ".join(names)}: trained on {trained}, tested on {tested}'
    return f'{data}; {epochs}, {seeds}{left_out}.'


def _unfinished(study: Study) -> str:
    """What of the study is not there yet; '' for a finished one."""
    possible = [cell for cell in study.cells if not cell.impossible]
    there = len(study.finished)
    if study.kind != 'resolution' and there < len(possible):
        return (
            f'This study is not finished: {there} of its {len(possible)} cells are there. The '
            'same command goes on.'
        )
    if not study.statistics:
        return 'This study is not finished: its statistics are not there. The same command goes on.'
    return ''


def _impossible(study: Study) -> PageTable | None:
    from mixer_dilated.reports.cell_text import count_text

    rows = [[cell.label, cell.impossible] for cell in study.cells if cell.impossible]
    title = f'{count_text(len(rows), "cell")} cannot be'
    folded = len(rows) > MAX_SHOWN
    return PageTable(title, ['cell', 'why'], rows, False, folded) if rows else None


def _made(made: list[dict], command: str | None, folder: pathlib.Path) -> list[list[str]]:
    """How the results came about, (what, text) pairs, of things with 'device' and 'versions'."""
    from mixer_dilated.reports.cell_text import setting_text

    devices, versions = (
        dict.fromkeys(setting_text(one[key]).strip('()') for one in made if one[key])
        for key in ('device', 'versions')
    )
    return [
        *([['made by', command]] if command else []),
        *(['device', text] for text in devices),
        *(['versions', text] for text in versions),
        ['this page again', shlex.join(['python', 'run.py', 'report', _short(folder)])],
    ]


def _short(folder: pathlib.Path) -> str:
    """The folder as seen from here, if it is below; else its name, for a page tells no secrets."""
    resolved, here = folder.resolve(), pathlib.Path.cwd()
    return str(resolved.relative_to(here) if resolved.is_relative_to(here) else resolved.name)


def _drawn(plots: Iterable, folder: pathlib.Path) -> Iterator[dict]:
    """Each plot as the template takes it, its PNG written."""
    from markupsafe import Markup

    from mixer_dilated.reports.plot import Omitted, svg_text, write_png

    for plot in plots:
        if isinstance(plot, Omitted):
            yield {'title': plot.title, 'omitted': plot.reason}
            continue
        yield {
            'title': plot.title,
            'caption': plot.caption,
            'alt': plot.alt,
            'svg': Markup(svg_text(plot)),
            'png': write_png(plot, folder).name,
        }


def _html(page: dict) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page) + '\n'
