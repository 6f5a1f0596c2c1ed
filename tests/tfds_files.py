"""Small TFDS sets in the files that TFDS prepares, written without TensorFlow."""

import io
import itertools
import json

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import open_dataset
from tests.conftest import random_bytes


def write_set(
    data_dir, records, shape=(8, 8, 1), name='tiny', version='1.0.0', splits=('train', 'test'),
    text_feature=None, files=1, features=None, supervised=('image', 'label'),
):  # fmt: skip
    """A prepared TFDS set of (image, label) records, as array_record; every split has them all.

    Of a set that TFDS knows, the features are TFDS's, and `text_feature` is one more that it has.
    With `features` of its own, records are {feature: value}.
    """
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    image, label = tfds.features.Image(shape=shape), tfds.features.ClassLabel(num_classes=10)
    own = features or {'image': image, 'label': label}
    tfds.features.FeaturesDict(own).save_config(folder)
    if not features:
        text = {text_feature: b'text'} if text_feature else {}
        records = [{'image': image, 'label': label, **text} for image, label in records]
    parts = [records[k::files] for k in range(files)]
    infos = [
        {
            'name': split,
            'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
            'shardLengths': [str(len(part)) for part in parts],
            'numBytes': '1',
        }
        for split in splits
    ]
    info = {'name': name, 'version': version, 'fileFormat': 'array_record', 'splits': infos}
    if supervised:
        info['supervisedKeys'] = {'tuple': {'items': [{'featureKey': key} for key in supervised]}}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    for split, (number, part) in itertools.product(splits, enumerate(parts)):
        path = folder / f'{name}-{split}.array_record-{number:05d}-of-{files:05d}'
        writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
        for record in part:
            example = tf_example_pb2.Example()
            for key, value in record.items():
                feature = example.features.feature[key]
                kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
                kind.value.append(value)
            writer.write(example.SerializeToString())
        writer.close()
    return folder


def open_set(data_dir, name='tiny', recorded=None, **keys):
    """The data set of `config.dataset` with these keys."""
    dataset = {'name': name, 'data_dir': str(data_dir), **keys}
    return open_dataset(resolve({'dataset': dataset}).dataset, recorded)


def encoded(pixels, file_format='PNG'):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def grey(seed, size=(8, 8)):
    return random_bytes(size, seed)
