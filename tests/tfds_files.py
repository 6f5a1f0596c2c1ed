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
    data_dir,
    records,
    shape=(8, 8, 1),
    name='tiny',
    version='1.0.0',
    splits=('train', 'test'),
    text_feature=None,
    files=1,
):
    """A prepared TFDS set of (image, label) records, as array_record; every split has them all.

    Of a set that TFDS knows, the features are TFDS's, and `text_feature` is one more that it has.
    """
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    image, label = tfds.features.Image(shape=shape), tfds.features.ClassLabel(num_classes=10)
    tfds.features.FeaturesDict({'image': image, 'label': label}).save_config(folder)
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
    info = {
        'name': name, 'version': version, 'fileFormat': 'array_record', 'splits': infos,
        'supervisedKeys': {'tuple': {'items': [{'featureKey': 'image'}, {'featureKey': 'label'}]}},
    }  # fmt: skip
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    for split, (number, part) in itertools.product(splits, enumerate(parts)):
        path = folder / f'{name}-{split}.array_record-{number:05d}-of-{files:05d}'
        writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
        for image, label in part:
            example = tf_example_pb2.Example()
            example.features.feature['image'].bytes_list.value.append(image)
            example.features.feature['label'].int64_list.value.append(label)
            if text_feature:
                example.features.feature[text_feature].bytes_list.value.append(b'text')
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
