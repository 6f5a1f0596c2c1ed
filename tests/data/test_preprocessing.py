"""Image files from anywhere: what is decoded, what is refused, and how it is resized."""

import contextlib
import os
import struct
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from PIL import Image

from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import preprocessing_of
from mixer_dilated.data.image_decoding import read_image
from mixer_dilated.data.preprocessing import FILES_PER_JOB, decode_images, resize_image
from mixer_dilated.errors import UserError
from tests.conftest import flip_bit, random_bytes, refuses
from tests.tfds_files import encoded

PIXELS = random_bytes((6, 4, 3))


def save(path, image, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


def read(path, channels=3, **options):
    return np.asarray(read_image(path, channels, **{'max_pixels': 10**6, **options}))


@pytest.mark.parametrize(('ending', 'options'), [('png', {}), ('webp', {'lossless': True})])
def test_a_lossless_file_is_read_as_it_was_written(tmp_path, ending, options):
    path = save(tmp_path / f'a.{ending}', PIXELS, **options)
    np.testing.assert_array_equal(read(path), PIXELS)
    grey = PIXELS @ [0.299, 0.587, 0.114]  # ITU-R 601
    np.testing.assert_allclose(read(path, 1), grey, atol=1)


# What each orientation of EXIF does to the image that is stored: its table 6, in NumPy's terms.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
    9: lambda a: a,
    'corrupt': lambda a: a,
}


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('orientation', UPRIGHT)
def test_images_are_turned_as_their_exif_says(tmp_path, orientation):
    exif = b'Exif\0\0MM\0*\xff\xff\xff\xff nonsense'
    if orientation != 'corrupt':
        exif = Image.Exif()
        exif[0x0112] = orientation
    path = save(tmp_path / 'a.png', PIXELS, exif=exif)
    np.testing.assert_array_equal(read(path), UPRIGHT[orientation](PIXELS))


def test_an_image_is_left_as_it_is_whose_exif_pillow_cannot_write_again(tmp_path):
    # Orientation 6, and a resolution of letters.
    entries = struct.pack('>HHHIHHHHI4sI', 2, 0x0112, 3, 1, 6, 0, 0x011A, 2, 4, b'abc', 0)
    exif = b'Exif\0\0MM\0*' + struct.pack('>I', 8) + entries
    np.testing.assert_array_equal(read(save(tmp_path / 'a.png', PIXELS, exif=exif)), PIXELS)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'PA'])
def test_transparent_places_are_white(tmp_path, mode):
    image = Image.new('RGBA', (3, 2), (0, 0, 0, 255))
    image.putpixel((1, 1), (200, 0, 0, 0))
    image.putpixel((2, 1), (0, 0, 0, 127))
    if mode == 'P':
        image = Image.new('P', (3, 2), 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.putpixel((1, 1), 0)
        image.info['transparency'] = 0
    pixels = read(save(tmp_path / 'a.png', image.convert(mode) if mode != 'PA' else image))
    assert tuple(pixels[1, 1]) == (255, 255, 255) and tuple(pixels[0, 0]) == (0, 0, 0)
    assert mode == 'P' or abs(int(pixels[1, 2, 0]) - 128) <= 1


def test_a_large_image_is_white_in_each_strip(tmp_path):
    image = Image.new('LA', (2**12, 2**12 + 1), (0, 127))
    image.putpixel((0, 2**12), (0, 0))
    pixels = read(save(tmp_path / 'a.png', image, compress_level=1), 1, max_pixels=2**25)
    assert {*np.unique(pixels[:-1])} == {*np.unique(pixels[-1, 1:])} == {128}
    assert pixels[-1, 0] == 255


def test_modes_of_1_16_and_32_bits_are_read(tmp_path):
    """16 bits become 8 and are not cut off."""
    black_white = Image.fromarray(random_bytes((5, 7)) > 127)
    for image, expected in (
        (np.array([[0, 256, 32768, 65535]], np.uint16), [[0, 1, 128, 255]]),
        (black_white, np.asarray(black_white) * 255),
    ):
        np.testing.assert_array_equal(read(save(tmp_path / 'a.png', image), 1), expected)
    assert read(save(tmp_path / 'a.jpg', Image.new('CMYK', (9, 9)))).shape == (9, 9, 3)


@pytest.mark.parametrize('grey', [0.0, 0.5, 300.0])
def test_images_of_floats_need_the_value_that_is_white(tmp_path, grey):
    path = save(tmp_path / 'a.tif', np.full((2, 3), grey, np.float32))
    with refuses(f'grey values from {grey:g} to {grey:g}', 'dataset.white'):
        read(path, 1)
    assert {*read(path, 1, white=500).flat} == {round(grey * 255 / 500)}


def bomb(side):
    """A PNG of a few bytes whose header promises that size."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', check)

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99))


PNG = encoded(random_bytes((40, 40, 3)))


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (b'', ['empty']),
        (b'no image at all', ['not a PNG, JPEG']),
        (b'GIF89a' + bytes(50), ['not a PNG, JPEG']),
        (PNG[:-200], ['truncated']),
        (PNG[:20], ['Truncated File Read']),
        (bomb(5000), ['5000×5000 = 25000000', '1000000', 'dataset.max_pixels']),
        (bomb(60000), ['1000000', 'dataset.max_pixels']),
        (lambda path: path.mkdir(), ['a folder']),
        (os.mkfifo, ['pipe']),
        (lambda path: path.symlink_to('/dev/zero'), ['device']),
        (lambda path: None, ['No such file']),
        (lambda path: (path.touch(), os.truncate(path, 10**9)), ['1000000000 bytes']),
        (lambda path: path.symlink_to(path), ['symbolic links']),
    ],
)
def test_what_cannot_be_used_is_refused_and_never_waited_for(tmp_path, make, words):
    path = tmp_path / 'x.png'
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    with refuses(*words) as refusal:
        read(path)
    assert str(tmp_path) not in str(refusal.value)  # which the caller names
    with refuses('null'):
        read('a\0b.png')


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp'])
def test_damaged_files_are_read_or_refused_whatever_the_damage(tmp_path, ending):
    path = save(tmp_path / f'a.{ending}', random_bytes((16, 16, 3)))
    whole, draw, refused = path.read_bytes(), np.random.default_rng(0), 0
    for k in range(150):
        path.write_bytes(whole)
        flip_bit(path, int(draw.integers(8 * len(whole))))
        if k % 3 == 0:
            os.truncate(path, draw.integers(len(whole)))
        try:
            pixels = read(path)
        except UserError as error:
            refused += 1
            assert '\n' not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3
    assert refused > 20


def test_a_large_jpeg_is_decoded_smaller_where_that_is_enough(tmp_path):
    path = save(tmp_path / 'a.jpg', np.full((800, 1000, 3), 90, np.uint8))
    pixels = read(path, min_side=120)
    assert pixels.shape == (200, 250, 3)
    np.testing.assert_allclose(pixels, 90, atol=2)
    assert read(path, min_side=500).shape == (800, 1000, 3)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SIZES, SIZES, st.sampled_from(['crop', 'pad', 'squash']), st.integers(0, 255))
@example((3, 27), (1, 13), 'crop', 9)  # 3 · 9 / 13 is rounded up
def test_any_image_comes_to_the_size_and_an_even_one_stays_even(size, target, resize, level):
    resized = np.asarray(resize_image(Image.new('L', size[::-1], level), target, resize))
    assert resized.shape == target
    if resize == 'pad':  # as much as its aspect ratio allows, the rest black
        scale = min(target[0] / size[0], target[1] / size[1])
        height, width = (max(1, round(scale * length)) for length in size)
        assert abs((resized == level).sum() - height * width) <= max(target) or level == 0
    else:
        np.testing.assert_array_equal(resized, level)


def test_a_crop_is_the_middle_and_a_squash_the_whole():
    image = Image.fromarray(np.repeat(np.uint8([[0, 128, 255]] * 10), 10, axis=1))
    np.testing.assert_array_equal(resize_image(image, (10, 10), 'crop'), 128)
    squashed = np.asarray(resize_image(image, (10, 9), 'squash'))
    np.testing.assert_array_equal(squashed[:, [1, 4, 7]], [[0, 128, 255]] * 10)
    padded = np.asarray(resize_image(image, (30, 30), 'pad'))
    np.testing.assert_array_equal(padded[[5, 25]], 0)
    np.testing.assert_array_equal(padded[10:20], image)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ('mnist mnist:3.0.1 idx:raw npz:data/mnist.npz', 'mnist'),
        ('digits fashion_mnist idx:data/FashionMNIST/raw npz:fashion-mnist.npz', 'fill'),
        ('folder:mnist csv:mnist cifar10 npz:pneumoniamnist.npz', 'resize'),
    ],
)
def test_files_to_predict_are_brought_to_the_style_of_the_set(names, expected):
    for name in names.split():
        for preprocess, channels, how in (('auto', 1, expected), ('auto', 3, 'resize'),
                                          ('resize', 1, 'resize')):  # fmt: skip
            dataset = resolve({'dataset': {'name': name, 'preprocess': preprocess}}).dataset
            assert preprocessing_of(dataset, (28, 28, channels)).how == how


class Recorded:
    """A preprocessing that notes the files that were asked for."""

    def __init__(self):
        self.paths = []

    def read(self, path):
        self.paths.append(path)
        if 'broken' in path:
            raise UserError('broken')
        return np.zeros((1, 1, 1), np.uint8)


def test_files_are_decoded_in_order_and_only_so_far_ahead():
    recorded, given_error = Recorded(), ('gone.png', UserError('gone'))
    names = [f'broken{k}' if k % 7 == 0 else f'{k}' for k in range(20 * FILES_PER_JOB)]
    decoded = decode_images(iter([given_error, *names]), recorded, ahead=2 * FILES_PER_JOB)
    assert next(decoded) == given_error
    for k in range(10):
        path, image = next(decoded)
        assert path == names[k] and isinstance(image, UserError) == (k % 7 == 0)
    assert len(recorded.paths) <= 4 * FILES_PER_JOB
    assert [path for path, _ in decoded] == names[10:]
    assert sorted(recorded.paths) == sorted(names)
    endless = Recorded()  # ends when nobody waits for it
    paths = map(str, range(10**9))
    with contextlib.closing(decode_images(paths, endless, ahead=FILES_PER_JOB)) as images:
        next(images)
    assert len(endless.paths) <= 4 * FILES_PER_JOB
