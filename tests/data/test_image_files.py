"""The image files of a folder: what is walked, what is left out and counted, and links."""

import os

from mixer_dilated.data.class_folders import find_images
from mixer_dilated.data.image_files import Ignored, ignored_text, walk_images
from tests.conftest import refuses
from tests.data.image_sets import make


def find(root, **options):
    """The paths of each split, and what was left out."""
    folders = find_images(root, **options)
    splits = folders.splits.items()
    return {split: sorted(file.path for file in files) for split, files in splits}, folders.notes


def walk(root):
    """Paths, and what was left out, of all folders below one."""
    ignored = Ignored()
    return [os.path.relpath(entry.path, root) for entry in walk_images(root, ignored)], ignored


def link(root, targets):
    for name, target in targets.items():
        (root / name).symlink_to(target)


def test_what_is_no_image_is_left_out_and_counted_and_hidden_files_are_not_seen(tmp_path):
    root, outside = tmp_path / 'set', make(tmp_path / 'outside', 'secret.png')
    make(root, 'cat/1.png', 'cat/notes.txt', 'cat/.hidden.png', '.git/x.png', 'README')
    make(root, 'cat/1.heic', 'dog/2.HEIC', 'cat/Makefile', 'dog/1.BMP', 'dog/2.jfif')
    make(root, 'dog/0.png', 'dog/folder.png/', '__MACOSX/cat/._1.png', 'cat/__MACOSX/2.png')
    os.mkfifo(root / 'dog' / 'pipe.png')
    link(root, {
        'dog/out.png': outside / 'secret.png', 'dog/all': outside, 'dog/round': root,
        'dog/dead.png': root / 'nothing.png', 'dog/inside.png': root / 'dog' / '0.png',
        'bird': outside,
    })  # fmt: skip
    paths, ignored = find(root)
    assert paths == {'all': ['cat/1.png', 'dog/0.png', 'dog/1.BMP', 'dog/2.jfif']}
    assert ignored == (
        'left out 1 file beside the folders, 3 links to folders, 2 .heic files (save as JPEG), '
        '1 file without an ending of images, 1 .txt file, 2 pipes, devices or dead links, '
        '1 link to an image of the folder, 1 link out of the folder; to follow links, set '
        '--config.dataset.follow_links=True',
    )


def test_links_are_left_out_and_named_or_followed(tmp_path):
    make(tmp_path, 'pool/cats/1.png', 'pool/cats/2.png', 'pool/dog.png', 'set/cat/', 'set/dog/')
    root = tmp_path / 'set'
    link(root, {'cat/link': '../../pool/cats', 'dog/1.png': '../../pool/dog.png'})
    with refuses(root / 'cat', '1 link to a folder', '--config.dataset.follow_links=True'):
        find(root)
    link(root, {'dog/back': '..'})  # a loop, to what is of other classes too
    paths, _ = find(root, follow_links=True)
    assert paths['all'] == ['cat/link/1.png', 'cat/link/2.png', 'dog/1.png']
    os.rename(root / 'dog', tmp_path / 'dogs')
    link(root, {'dog': '../dogs'})
    with refuses(root, "one class folder, 'cat'", 'follow_links'):
        find(root)


def test_no_image_is_trained_on_and_tested_with_under_two_names(tmp_path):
    """By links; one to a place where no image is looked for is the image's only name."""
    places = '.store', 'train/cat', 'train/dog', 'test/cat', 'test/dog'
    root = make(tmp_path, *(f'{place}/{k}.png' for place in places for k in range(2)))
    make(root, 'train/beside.png')
    link(root, {
        'test/cat/again.png': '../../train/cat/0.png',
        'test/dog/again.png': '../../train/dog/0.png',
        'test/cat/stored.png': '../../.store/0.png',
        'test/dog/beside.png': '../../train/beside.png',
    })  # fmt: skip
    paths, ignored = find(root)
    assert len(paths['train']) == 4 and len(paths['test']) == 6
    assert '1 file beside the folders, 2 links to images of the folder' in ignored[0]
    names, ignored = walk(root)
    assert 'test/cat/stored.png' in names and 'test/cat/again.png' not in names
    # Here the image beside the folders is walked.
    assert 'train/beside.png' in names and 'test/dog/beside.png' not in names
    assert ignored_text(ignored) == '3 links to images of the folder'


def test_folders_are_walked_in_order_however_deep(tmp_path):
    make(tmp_path, 'b.png', 'a/2.png', 'a/1.png', 'c/' + 'd/' * 300 + '3.png')
    assert walk(tmp_path)[0] == ['b.png', 'a/1.png', 'a/2.png', 'c/' + 'd/' * 300 + '3.png']
    with refuses('no/where: cannot be read: No such file'):
        walk('no/where')
