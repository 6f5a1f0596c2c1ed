"""From `config.dataset` to a data source and its examples."""

import ml_collections

from mixer_dilated.data.cache import cached_read
from mixer_dilated.data.examples import Examples, Source


def open_source(dataset: ml_collections.ConfigDict) -> Source:
    """The data set that `config.dataset` names; nothing is decoded yet.

    Raises:
      InputError: it does not exist, is not there and cannot be downloaded, or does not fit.
    """
    if dataset.name == 'digits':
        from mixer_dilated.data.digits import Digits

        return Digits()
    from mixer_dilated.data.tfds_source import TfdsSource

    return TfdsSource(dataset.name, dataset.data_dir, dataset.max_pixels)


def load_examples(source: Source, split: str, dataset: ml_collections.ConfigDict) -> Examples:
    """The examples of a split, decoded now or earlier."""
    return cached_read(source, split, dataset.cache_dir)
