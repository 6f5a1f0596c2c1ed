"""What a finished run leaves: summary, predictions, weights to draw, augmented images."""

import functools
import pathlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.training.train_state import TrainState
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from mixer_dilated.config import pixels_seen
from mixer_dilated.data.augmentation import Augmentation, augmentation_from_config
from mixer_dilated.data.examples import RandomAccessDataSource
from mixer_dilated.data.input_pipeline import InputPipeline
from mixer_dilated.data.stored_images import to_input
from mixer_dilated.files import write_arrays
from mixer_dilated.models.costs import flops_per_image, num_params
from mixer_dilated.parallel.multihost import on_primary, to_numpy
from mixer_dilated.patches.geometry import Pair
from mixer_dilated.training.compiled import CompiledFunctions
from mixer_dilated.training.metrics import accuracies
from mixer_dilated.training.run_folder import environment
from mixer_dilated.training.run_state import RunState
from mixer_dilated.training.setup import Setup
from mixer_dilated.training.state import network_layers

MAX_MISTAKES = 24  # shown in a report
MAX_AUGMENTED, AUGMENTED_STEPS = 6, 4  # images, and steps of which they are shown
LABELS_AT_ONCE = 256


def write_results(
    workdir: pathlib.Path,
    compiled: CompiledFunctions,
    state: TrainState,
    inputs: dict[str, InputPipeline],
) -> dict:
    """Evaluates the final parameters; writes what a report draws. Returns `evaluate`'s by split."""
    setup, train = compiled.setup, inputs['train'].data_source
    test, log_probs = compiled.evaluate_and_predict(state, inputs['test'])
    others = {part: compiled.evaluate(state, inputs[part]) for part in inputs if part != 'test'}
    results = {**others, 'test': test}
    on_primary(write_predictions, workdir, inputs['test'], log_probs, setup.image_size)
    on_primary(write_arrays, workdir / 'weights.npz', **kernels_to_plot(state.params))
    on_primary(write_augmented_images, workdir, setup.config, train, setup.image_size)
    return results


def run_summary(setup: Setup, name: str, run: RunState, results: dict, seconds: dict) -> dict:
    """Facts of a finished run, with the results of `write_results`.

    `seconds` are those of its last process: 'startup' (to the first step) and 'compile'.
    """
    config = setup.config
    epoch_seconds = [row['seconds'] for row in run.speed]
    epoch_median = statistics.median(epoch_seconds)
    seed_results = [_seed_results(setup, results, k) for k in range(config.num_seeds)]
    covered = pixels_seen(config, setup.dataset.image_shape[:2])
    model_layers = network_layers(setup)
    accuracy_names = [key for key in seed_results[0] if key.endswith('accuracy')]
    return {
        'config_name': name,
        'dataset': config.dataset.name,
        **{f'{part}_split': config.dataset[f'{part}_split'] for part in setup.num_examples},
        **{f'{part}_examples': count for part, count in setup.num_examples.items()},
        'seed': config.seed,
        'num_seeds': config.num_seeds,
        'num_epochs': setup.num_epochs,
        'skipped_steps': sum(row['skipped_steps'] for row in run.metrics),
        'image_shape': list(setup.dataset.image_shape),
        'num_tokens': setup.num_tokens,
        'num_params': num_params(model_layers),
        'flops_per_image': flops_per_image(model_layers),
        'pixels_seen': int(covered.sum()),
        'pixels': covered.size,
        **{key: statistics.fmean(row[key] for row in seed_results) for key in accuracy_names},
        'results': seed_results,
        'seconds': {**seconds, 'train': sum(epoch_seconds), 'epoch_median': epoch_median},
        **environment(),
    }


def _seed_results(setup: Setup, results: dict, k: int) -> dict:
    row = {'seed': setup.config.seed + k}
    for part in setup.num_examples:
        row |= accuracies(setup, part, results[part], k)
        row[f'{part}_correct'] = int(results[part]['correct'][k])
        row[f'{part}_loss'] = float(results[part]['loss'][k])
    return row


def write_predictions(
    workdir: pathlib.Path,
    test: InputPipeline,
    log_probabilities: Float[Array, 'seeds examples classes'],
    image_size: Pair,
) -> None:
    """Writes `predictions.npz`: probabilities, and the images that a report shows.

    The file holds `labels` int32 (examples,), `probabilities` float32 (seeds, examples, classes),
    `class_images` uint8 (classes, height, width, channels): the first image of each class, zeros
    where it has none; and of the first seed's most confident mistakes, the most confident first,
    `shown_index` int32 (shown,) and `shown_images` uint8 (shown, height, width, channels).
    """
    probabilities = np.exp(np.asarray(log_probabilities))
    first, labels = probabilities[0], np.asarray(test.labels, np.int32)
    mistaken = np.flatnonzero(first.argmax(-1) != labels)
    shown = mistaken[np.argsort(-first[mistaken].max(-1), kind='stable')][:MAX_MISTAKES]
    class_images = np.zeros((first.shape[-1], *test.data_source.image_shape), np.uint8)
    present, rows = np.unique(labels, return_index=True)
    class_images[present] = test.data_source.read(rows).images
    write_arrays(
        workdir / 'predictions.npz',
        labels=labels,
        probabilities=probabilities,
        shown_index=shown.astype(np.int32),
        shown_images=np.asarray(to_input(test.data_source.read(shown).images, image_size)),
        class_images=np.asarray(to_input(class_images, image_size)),
    )


def kernels_to_plot(params: dict) -> dict[str, np.ndarray]:
    """The first seed's stem kernels and first token mixing, to be drawn, on the host.

    Names are the original's: `stem/kernel`, `MixerBlock_0/token_mixing/Dense_0/kernel`.
    """
    flat = traverse_util.flatten_dict(params, sep='/')
    return {
        name: to_numpy(leaf[0])
        for name, leaf in flat.items()
        if name.rsplit('/', 1)[-1].startswith('kernel')
        and name.startswith(('stem', 'MixerBlock_0/token_mixing/'))
    }


def write_augmented_images(
    workdir: pathlib.Path,
    config: ConfigDict,
    data_source: RandomAccessDataSource,
    image_size: Pair,
) -> None:
    """Writes `augmented.npz`, if the config has augmentation: training images before and after it.

    The file holds `images` uint8 (shown, height, width, channels), the first of as many classes;
    `drawn` uint8 (columns, shown, height, width, channels), what becomes of these as one batch with
    the first seed: at the first step each change alone, if there are several, then at each of the
    first steps all of them; and `titles`, text (columns,).
    """
    whole = augmentation_from_config(config)
    individual = whole.separate_changes()
    if not individual:
        return
    first = data_source.read(_first_of_each_class(data_source)).images
    columns = {name: (change, 0) for name, change in individual.items()}
    prefix = 'together, ' if len(individual) > 1 else f'{columns.popitem()[0]}, '
    for step in range(AUGMENTED_STEPS):
        columns[f'{prefix}step {step + 1}'] = whole, step
    seed_key = jax.random.key(config.seed)
    drawn = [
        _augment(augmentation, image_size, seed_key, step, first)
        for augmentation, step in columns.values()
    ]
    write_arrays(
        workdir / 'augmented.npz',
        images=np.asarray(to_input(first, image_size)),
        drawn=np.stack([*map(np.asarray, drawn)]),
        titles=np.array(list(columns)),
    )


def _first_of_each_class(data_source: RandomAccessDataSource) -> list[int]:
    """The first example of as many classes as are shown; later labels are not read."""
    first = {}
    for start in range(0, len(data_source), LABELS_AT_ONCE):
        block = range(start, min(start + LABELS_AT_ONCE, len(data_source)))
        for number, label in zip(block, data_source.labels(block).tolist(), strict=True):
            first.setdefault(label, number)
        if len(first) >= MAX_AUGMENTED:
            break
    return [*first.values()][:MAX_AUGMENTED]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _augment(
    augmentation: Augmentation, size: Pair, seed_key: jax.Array, step: int, images: jax.Array
) -> jax.Array:
    """uint8 images as a step shows them, mixed."""
    shown = augmentation.apply(seed_key, step, images, size).astype(jnp.float32)
    mixed = augmentation.draw_mixing(seed_key, step, size).mix_images(shown)
    return jnp.round(mixed).astype(jnp.uint8)
