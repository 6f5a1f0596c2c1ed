"""Picture files from anywhere: what is decoded, what is refused, and the forms they come to."""

import contextlib
import io
import os
import struct
import threading
import tracemalloc
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import preprocessing_of
from mixer_dilated.data.mnist_style import _bounding_box, to_mnist_style
from mixer_dilated.data.preprocessing import (
    FILES_PER_JOB,
    Preprocessing,
    decode_images,
    read_image,
    resize_image,
)
from mixer_dilated.errors import UserError


def colours(seed=0, size=(6, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def saved(path, image, **how):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **how)
    return path


def read(path, channels=3, **how):
    return np.asarray(read_image(path, channels, **{'max_pixels': 10**6, **how}))


@pytest.mark.parametrize('ending', ['png', 'webp'])
def test_a_lossless_file_is_read_as_it_was_written(tmp_path, ending):
    pixels = colours()
    path = saved(
        tmp_path / f'a.{ending}', pixels, **({'lossless': True} if ending == 'webp' else {})
    )
    np.testing.assert_array_equal(read(path), pixels)
    grey = pixels @ [0.299, 0.587, 0.114]  # ITU-R 601
    np.testing.assert_allclose(read(path, 1), grey, atol=1)


# What each orientation of EXIF does to the picture that is stored: its table 6, in NumPy's terms.
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
}


@pytest.mark.parametrize('orientation', UPRIGHT)
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / 'a.png', colours(), exif=exif)
    np.testing.assert_array_equal(read(path), UPRIGHT[orientation](colours()))


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_broken_exif_is_no_orientation(tmp_path):
    path = saved(tmp_path / 'a.png', colours(), exif=b'Exif\0\0MM\0*\xff\xff\xff\xff nonsense')
    np.testing.assert_array_equal(read(path), colours())


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'PA'])
def test_transparent_places_are_white(tmp_path, mode):
    picture = Image.new('RGBA', (3, 2), (0, 0, 0, 255))
    picture.putpixel((1, 1), (200, 0, 0, 0))
    picture.putpixel((2, 1), (0, 0, 0, 127))
    if mode == 'P':
        picture = Image.new('P', (3, 2), 1)
        picture.putpalette([255, 0, 0, 0, 0, 0])
        picture.putpixel((1, 1), 0)
        picture.info['transparency'] = 0
    found = read(saved(tmp_path / 'a.png', picture.convert(mode) if mode != 'PA' else picture))
    assert tuple(found[1, 1]) == (255, 255, 255) and tuple(found[0, 0]) == (0, 0, 0)
    if mode != 'P':
        assert abs(int(found[1, 2, 0]) - 128) <= 1


def test_sixteen_bits_become_eight_and_are_not_cut_off(tmp_path):
    grey = np.array([[0, 256, 32768, 65535]], np.uint16)
    path = saved(tmp_path / 'a.png', grey)
    np.testing.assert_array_equal(read(path, 1), [[0, 1, 128, 255]])


def test_modes_of_few_bits_and_of_print_are_read(tmp_path):
    black_white = Image.fromarray(colours(size=(5, 7)) > 127)
    np.testing.assert_array_equal(
        read(saved(tmp_path / 'a.png', black_white), 1), np.asarray(black_white) * 255
    )
    assert read(saved(tmp_path / 'a.jpg', Image.new('CMYK', (9, 9)))).shape == (9, 9, 3)


def bomb(width, height):
    """A PNG of a few bytes whose header promises that size."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', check)

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99))


def of_kind(kind, folder):
    path = folder / 'x.png'
    whole = io.BytesIO()
    saved(whole, colours(size=(40, 40, 3)), format='PNG')
    content = {
        'empty': b'',
        'text': b'no picture at all',
        'cut off': whole.getvalue()[:-200],
        'header cut off': whole.getvalue()[:20],
        'large': bomb(5000, 5000),
        'huge': bomb(60000, 60000),
        'gif': b'GIF89a' + bytes(50),
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'device':
        path = '/dev/zero'
    elif kind == 'file too long':
        with path.open('wb') as file:
            file.truncate(10**9)  # which takes no place
    elif kind == 'loop':
        path.symlink_to(path)
    elif kind == 'impossible name':
        path = 'a\0b.png'
    return path


CANNOT_BE_USED = {
    'empty': 'an empty file',
    'text': 'not a PNG, JPEG or WebP image',
    'gif': 'not a PNG, JPEG or WebP image',
    'cut off': 'truncated',
    'header cut off': 'Truncated File Read',
    'large': r'5000×5000 = 25000000 pixels; allowed are at most 1000000 \(dataset.max_pixels',
    'huge': r'more pixels than can be meant; allowed are at most 1000000 \(dataset.max_pixels',
    'folder': 'a folder',
    'pipe': 'not a file but a pipe',
    'device': 'not a file but a pipe or device',
    'missing': 'No such file',
    'file too long': '1000000000 bytes; allowed are at most',
    'loop': 'symbolic links',
    'impossible name': 'null byte',
}


@pytest.mark.parametrize('kind', CANNOT_BE_USED)
def test_what_cannot_be_used_is_refused_and_never_waited_for(tmp_path, kind):
    path = of_kind(kind, tmp_path)
    with pytest.raises(UserError, match=CANNOT_BE_USED[kind]) as refusal:
        read(path)
    assert '\n' not in str(refusal.value) and str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp'])
def test_damaged_files_are_read_or_refused_whatever_the_damage(tmp_path, ending):
    path = saved(tmp_path / f'a.{ending}', colours(size=(16, 16, 3)))
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for k in range(150):
        content = bytearray(whole)
        content[draw.integers(len(whole))] ^= 1 << draw.integers(8)
        path.write_bytes(content[: draw.integers(len(whole))] if k % 3 == 0 else content)
        try:
            found = read(path)
        except UserError as error:
            refused += 1
            assert '\n' not in str(error)
        else:
            assert found.dtype == np.uint8 and found.ndim == 3
    assert refused > 20


def test_a_large_jpeg_is_decoded_smaller_where_that_is_enough(tmp_path):
    path = saved(tmp_path / 'a.jpg', np.full((800, 1000, 3), 90, np.uint8))
    picture = read(path, min_side=120)
    assert picture.shape == (200, 250, 3)
    np.testing.assert_allclose(picture, 90, atol=2)
    assert read(path, min_side=500).shape == (800, 1000, 3)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(deadline=None)
@given(SIZES, SIZES, st.sampled_from(['crop', 'pad', 'squash']), st.integers(0, 255))
@example((3, 27), (1, 13), 'crop', 9)  # 3 · 9 / 13 is rounded up
def test_any_picture_comes_to_the_size_and_an_even_one_stays_even(size, target, resize, level):
    picture = Image.new('L', size[::-1], level)
    found = np.asarray(resize_image(picture, target, resize))
    assert found.shape == target
    if resize == 'pad':  # as much as its aspect ratio allows, the rest black
        scale = min(target[0] / size[0], target[1] / size[1])
        seen = [max(1, round(scale * length)) for length in size]
        assert abs((found == level).sum() - seen[0] * seen[1]) <= max(target) or level == 0
    else:
        np.testing.assert_array_equal(found, level)


def test_a_crop_is_the_middle_and_a_squash_the_whole():
    left, middle, right = (np.full((10, 10), level, np.uint8) for level in (0, 128, 255))
    picture = Image.fromarray(np.hstack([left, middle, right]))
    np.testing.assert_array_equal(resize_image(picture, (10, 10), 'crop'), 128)
    squashed = np.asarray(resize_image(picture, (10, 9), 'squash'))
    np.testing.assert_array_equal(squashed[:, [1, 4, 7]], [[0, 128, 255]] * 10)
    padded = np.asarray(resize_image(picture, (30, 30), 'pad'))
    np.testing.assert_array_equal(padded[[5, 25]], 0)
    np.testing.assert_array_equal(padded[10:20], picture)


def test_a_picture_of_the_right_size_is_not_touched(tmp_path):
    path = saved(tmp_path / 'a.png', colours(1, (8, 8)))
    found = Preprocessing((8, 8, 1)).read(path)
    np.testing.assert_array_equal(found[..., 0], colours(1, (8, 8)))


def test_the_form_of_mnist_is_for_grey_images():
    with pytest.raises(UserError, match=r"preprocess = 'mnist': it is for grey images.*3 chan"):
        Preprocessing((28, 28, 3), 'mnist')


@pytest.mark.parametrize(
    ('name', 'preprocess', 'how'),
    [
        ('mnist', 'auto', 'mnist'),
        ('mnist:3.0.1', 'auto', 'mnist'),
        ('digits', 'auto', 'fill'),
        ('fashion_mnist', 'auto', 'fill'),
        ('folder:mnist', 'auto', 'resize'),
        ('cifar10', 'auto', 'resize'),
        ('mnist', 'resize', 'resize'),
    ],
)
def test_each_data_set_has_its_form(name, preprocess, how):
    dataset = resolve({'dataset': {'name': name, 'preprocess': preprocess}}).dataset
    assert preprocessing_of(dataset, (28, 28, 1)).how == how


STROKES = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(deadline=None)
@given(arrays(np.uint8, SIZES), SIZES)
def test_any_picture_comes_to_the_form_of_mnist(grey, size):
    found = to_mnist_style(grey, size)
    assert found.shape == size and found.dtype == np.uint8


@settings(deadline=None)
@given(STROKES, st.integers(0, 127), *[st.integers(1, 9)] * 4)
def test_the_form_does_not_depend_on_place_or_inversion(digit, paper, top, left, bottom, right):
    digit = np.maximum(digit, np.uint8(paper))
    room = ((top, bottom), (left, right))
    picture = np.pad(digit, room, constant_values=paper)
    expected = to_mnist_style(np.pad(digit, 1, constant_values=paper), (28, 28))
    np.testing.assert_array_equal(to_mnist_style(picture, (28, 28)), expected)
    np.testing.assert_array_equal(to_mnist_style(255 - picture, (28, 28)), expected)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_a_digit_fits_20_pixels_and_its_centre_of_mass_is_at_the_centre(height, width):
    """A wedge, whose mass is not in its middle."""
    digit = np.linspace(40, 255, height * width).reshape(height, width).astype(np.uint8)
    found = to_mnist_style(np.pad(digit, 5), (28, 28))
    rows, columns = np.nonzero(found)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20 and found.max() == 255
    mass = found / found.sum()
    centre = np.indices((28, 28)).reshape(2, -1) @ mass.ravel()
    assert np.abs(centre - 14).max() <= 0.5 + 1e-9
    filled = to_mnist_style(np.pad(digit, 5), (28, 28), box=1, by_mass=False)
    assert max(np.ptp(axis) for axis in np.nonzero(filled)) + 1 == 28


def test_specks_and_noise_do_not_count_for_the_size():
    rng = np.random.default_rng(0)
    paper = np.zeros((90, 120))
    paper[30:60, 40:60] = 200
    paper[5, 7] = 120  # a speck in the corner
    noisy = np.clip(paper + 30 + rng.normal(0, 5, paper.shape), 0, 255).astype(np.uint8)
    rows, columns = np.nonzero(to_mnist_style(noisy, (28, 28)) > 128)
    assert 19 <= np.ptp(rows) + 1 <= 20 and 12 <= np.ptp(columns) + 1 <= 14  # 30 and 20 pixels


def test_pictures_in_the_form_of_mnist_pass_nearly_unchanged(mnist):
    from mixer_dilated.data.tfds_dataset import TfdsDataset

    images = TfdsDataset('mnist', mnist).read('test[:300]').images[..., 0]
    found = np.array([to_mnist_style(image, (28, 28)) for image in images])
    changed = np.abs(found.astype(int) - images).mean(axis=(1, 2))
    assert changed.mean() < 0.5 and np.median(changed) == 0


def test_millions_of_specks_take_no_more_memory_than_the_picture_a_few_times():
    dots = np.zeros((1024, 1024), np.uint8)
    dots[100:900:2, 200:1000:2] = 255
    tracemalloc.start()
    try:
        form = to_mnist_style(dots, (28, 28))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # None of them counts, so that all do: the field of dots fills the box.
    assert form[4:24, 4:24].min() > 200 and form.sum() == form[4:24, 4:24].sum()
    assert most < 30 * dots.size


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_box_is_that_of_all_parts_with_a_fiftieth_of_the_ink(ink):
    found = _bounding_box(ink, 0.0)
    parts, count = ndimage.label(ink > 16, np.ones((3, 3)))
    masses = [int(ink[parts == part].sum()) for part in range(1, count + 1)]
    counted = [part for part, mass in enumerate(masses, 1) if mass >= 0.02 * sum(masses)]
    rows, columns = np.nonzero(np.isin(parts, counted))
    if not count:
        assert found is None
        return
    assert found == (
        slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    )  # fmt: skip


def test_an_empty_picture_is_black():
    np.testing.assert_array_equal(to_mnist_style(np.full((9, 9), 200, np.uint8), (28, 28)), 0)


class Slow:
    """A preprocessing that notes how many files were asked for."""

    def __init__(self):
        self.asked, self.lock = 0, threading.Lock()

    def read(self, path):
        with self.lock:
            self.asked += 1
        if 'broken' in path:
            raise UserError('broken')
        return np.zeros((1, 1, 1), np.uint8)


def test_files_are_decoded_in_order_and_only_so_far_ahead():
    slow, given_error = Slow(), ('gone.png', UserError('gone'))
    names = [f'broken{k}' if k % 7 == 0 else f'{k}' for k in range(20 * FILES_PER_JOB)]
    found = decode_images(iter([given_error, *names]), slow, ahead=2 * FILES_PER_JOB)
    assert next(found) == given_error
    for k in range(10):
        path, image = next(found)
        assert path == names[k] and isinstance(image, UserError) == (k % 7 == 0)
    assert slow.asked <= 4 * FILES_PER_JOB
    assert [path for path, _ in found] == names[10:]
    assert slow.asked == len(names)


def test_decoding_that_nobody_waits_for_ends():
    slow = Slow()
    with contextlib.closing(
        decode_images(map(str, range(10**9)), slow, ahead=FILES_PER_JOB)
    ) as images:
        next(images)
    assert slow.asked <= 4 * FILES_PER_JOB
