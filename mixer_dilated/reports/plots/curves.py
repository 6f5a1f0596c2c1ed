"""Lines with bands: training curves, accuracy by training images and corruption, cost by size."""

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixer_dilated.reports.formatting import setting_text, spread_text
from mixer_dilated.reports.intervals import describe, t_interval
from mixer_dilated.reports.plots.figure import (
    COLOURS,
    Plot,
    figure_style,
    label_text,
    legend_below,
    number_ticks,
    subplots,
)
from mixer_dilated.reports.quantities import QUANTITIES
from mixer_dilated.reports.result_files import Study, Trial
from mixer_dilated.reports.schema import SPLITS

# Of each panel its title and the labels of its axes.
CURVES = {
    'accuracy': ('{} accuracy', 'epoch', 'part of {} images'),
    'train_accuracy': ('train accuracy, while training', 'epoch', 'part of training images'),
    'loss': ('{} loss', 'epoch', 'cross-entropy (nats)'),
    'train_loss': ('train loss, while training', 'epoch', 'cross-entropy (nats)'),
}
UNITS = {
    'shift': 'pixels moved, in one of eight directions',
    'noise': 'standard deviation, where the range of values is 1',
    'occlusion': 'side of the black square, pixels',
    'contrast': 'part of the contrast taken away',
}


def draw_lines(
    data: pd.DataFrame, texts: Mapping[str, tuple[str, str, str]], height: float, **options
) -> dict[str, Axes]:
    """A line for each label, with at most twelve markers and a band, in every panel of a figure.

    Data are panel, label, x and y, a row a seed, texts {panel: (title, x label, y label)}; a panel
    has a height in inches. Options are those of seaborn's lineplot; by default the band is the 95 %
    t interval of the mean. The axes returned are not yet logarithmic: means are of the numbers.
    """
    labels = [*data.label.unique()]
    figure, panels = subplots(len(texts), 2, 5.2 if len(texts) > 1 else 8.6, height)
    look = {'hue': 'label', 'style': 'label', 'hue_order': labels, 'style_order': labels}
    look |= {'palette': seaborn.color_palette(COLOURS, len(labels)), 'markers': True}
    look |= {'err_kws': {'alpha': 0.16, 'linewidth': 0}, 'errorbar': t_interval}
    look |= {'linewidth': 1.7, 'markersize': 6, 'markeredgewidth': 0, **options}
    for axes, (panel, (title, x_label, y_label)) in zip(panels, texts.items(), strict=True):
        rows = data[data.panel == panel]
        every = max(1, rows.groupby('label').x.nunique().max() // 12)
        legend = 'full' if axes is panels[0] else False
        drawn = rows[['x', 'y', 'label']]
        seaborn.lineplot(drawn, x='x', y='y', markevery=every, legend=legend, ax=axes, **look)
        axes.set(title=label_text(title), xlabel=x_label, ylabel=y_label)
    legend_below(figure)
    return dict(zip(texts, panels, strict=True))


@figure_style()
def training_curves(curves: Mapping[str, pd.DataFrame], evaluated_on: str = 'test') -> Figure:
    """Four panels; a line a method, the mean over seeds, with a band of one standard deviation.

    Curves are {label: `Run.curves`}, evaluated on 'test' or 'validation'; NaN is left out.
    """
    texts = {
        name: tuple(text.format(evaluated_on) for text in panel) for name, panel in CURVES.items()
    }
    data = pd.concat(curves, names=['label']).reset_index('label').rename(columns={'epoch': 'x'})
    data = data.melt(['label', 'x'], [*CURVES], 'panel', 'y')
    panels = draw_lines(data, texts, 3.6, errorbar='sd')
    for name, axes in panels.items():
        if name.endswith('loss'):
            axes.set_yscale('log')
            number_ticks(axes.yaxis)
        else:
            _leave_out_the_climb(axes, data[data.panel == name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return axes.figure


@figure_style()
def seconds_plot(study: Study, trials: Sequence[Trial]) -> Plot:
    """Accuracy after so many seconds of training, of trials whose epochs are timed."""
    title, timed = 'Accuracy by seconds of training', study.epoch_seconds
    curves = {
        trial.label: trial.run.curves.assign(x=trial.run.curves.epoch * timed[trial.name])
        for trial in trials
        if trial.name in timed
    }
    if not curves:
        return Plot(title, omitted='no epoch has been timed yet')
    data = pd.concat(curves, names=['label']).reset_index('label')
    data = data.assign(panel='', y=data.accuracy).dropna(subset='y')
    accuracy = f'{SPLITS[study.split]} accuracy, mean over seeds'
    texts = {'': ('', 'seconds of training, one seed', accuracy)}
    axes = draw_lines(data, texts, 5.2, errorbar='sd')['']
    _leave_out_the_climb(axes, data)
    return Plot(
        title,
        'accuracy_by_seconds',
        'Each line is the mean over seeds after so many seconds of training epochs of one seed, '
        'without start-up and evaluation, its band one standard deviation either way.',
        '; '.join(
            f'{label}: {rows[rows.epoch == rows.epoch.max()].accuracy.mean():.4f} after '
            f'{rows.x.max():.3g} s'
            for label, rows in curves.items()
        ),
        axes.figure,
    )


def _leave_out_the_climb(axes: Axes, data: pd.DataFrame) -> None:
    """Starts the axis below the lowest band after a fifth of the way; the ends lie close."""
    late = data[data.x > data.groupby('label').x.transform('max') / 5]
    spread = late.groupby(['label', 'x']).y.agg(['mean', 'std']).fillna({'std': 0})
    low, high = (spread['mean'] - spread['std']).min(), (spread['mean'] + spread['std']).max()
    if high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


@figure_style()
def little_data_plot(study: Study) -> Plot:
    """A line a method over the number of training images, on a logarithmic axis."""
    title = 'Accuracy by number of training images'
    if not study.finished:
        return Plot(title, omitted='no trial has been trained yet')
    data = pd.DataFrame(
        {
            'panel': '',
            'label': setting_text(trial.settings.get('method', trial.label)),
            'x': trial.run.summary['train_examples'],
            'y': result['test_accuracy'],
        }
        for trial in study.finished
        for result in trial.run.summary['results']
    )
    texts = {'': ('', 'training images', 'test accuracy, mean over seeds')}
    axes = draw_lines(data, texts, 5.2)['']
    axes.set_xscale('log')
    number_ticks(axes.xaxis, sorted(data.x.unique()))
    return Plot(
        title,
        'little_data',
        'Each line is the mean test accuracy over seeds, its band the 95 % interval of that mean; '
        'the axis of images is logarithmic.',
        _alt_text(data.assign(place=data.x.map('{} images'.format))),
        axes.figure,
    )


@figure_style()
def robustness_plot(study: Study) -> Plot:
    """A panel a corruption, a line a method over the strength of the corruption."""
    title = 'Accuracy on corrupted images'
    if study.robustness.empty:
        return Plot(title, omitted='nothing has been measured yet (no robustness.jsonl)')
    names = {'corruption': 'panel', 'strength': 'x', 'accuracy': 'y'}
    data = study.robustness.rename(columns=names)
    texts = {name: (name, UNITS.get(name, 'strength'), 'test accuracy') for name in data.panel}
    panels = draw_lines(data, texts, 3.8)
    for name, axes in panels.items():
        axes.sharey(axes.figure.axes[0])
        strengths = sorted(data[data.panel == name].x.unique())
        axes.set_xticks(strengths, [f'{strength:g}' for strength in strengths])
    strongest = data[data.x == data.groupby('panel').x.transform('max')]
    return Plot(
        title,
        'robustness',
        'Each line is the mean test accuracy over seeds at that strength of the corruption, its '
        'band the 95 % interval of that mean; strength 0 is the unchanged test set.',
        _alt_text(strongest.assign(place=strongest.panel + strongest.x.map(' {:g}'.format))),
        axes.figure,
    )


def _alt_text(data: pd.DataFrame) -> str:
    """The mean accuracy of every label at every place."""
    spreads = data.groupby(['label', 'place'], sort=False).y.agg(lambda y: spread_text(describe(y)))
    return '; '.join(
        f'{label}: ' + ', '.join(f'{place} {text}' for (_, place), text in of_label.items())
        for label, of_label in spreads.groupby('label', sort=False)
    )


@figure_style()
def resolution_plot(study: Study) -> Plot:
    """What a method costs against the side of the image, with the powers that fit its growth."""
    title, measured = 'Cost by side of the image', study.resolution
    if measured.empty:
        return Plot(title, omitted='nothing has been measured yet (no resolution.jsonl)')
    data = measured.melt(['label', 'image_size'], var_name='panel', value_name='y')
    data['panel'] = data.panel.replace('_(low|high)$', '', regex=True)  # quartiles make the band
    data = data[data.panel.isin([*QUANTITIES])].rename(columns={'image_size': 'x'})
    data['y'] *= data.panel.map({name: quantity.scale for name, quantity in QUANTITIES.items()})
    side = 'side of the image (pixels)'
    texts = {name: (noun, side, axis) for name, (noun, axis, _) in QUANTITIES.items()}
    data = data[data.y > 0].astype({'y': float})
    panels = draw_lines(data, texts, 4.0, estimator='median', errorbar=('pi', 100))
    sides = sorted(data.x.unique())
    for name, axes in panels.items():
        axes.set(xscale='log', yscale='log')
        number_ticks(axes.xaxis, sides)
        number_ticks(axes.yaxis)
        powers = {
            line: f'side to the power {study.exponents[label][name]:.2f}'
            for line, label in zip(axes.lines, data.label.unique(), strict=False)
            if label in study.exponents
        }
        if powers:
            style = {'title_fontsize': 9, 'alignment': 'left', 'handlelength': 3.2}
            axes.legend(powers.keys(), powers.values(), title='grows as', **style)
    return Plot(
        title,
        'resolution',
        'Both axes are logarithmic, so a straight line is a power of the side; bands of the time '
        'are quartiles of the measured steps, powers are least-squares fits.',
        '; '.join(
            f'{row.label} at {max(sides)} pixels: {row.num_tokens} tokens, '
            f'{1e3 * row.step_seconds:.1f} ms a step'
            for row in measured[measured.image_size == max(sides)].itertuples()
        ),
        axes.figure,
    )
