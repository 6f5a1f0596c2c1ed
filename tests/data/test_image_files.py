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


def test_what_is_left_out_is_counted_by_its_ending(tmp_path):
    made = ['cat/1.png', 'dog/1.BMP', 'dog/2.jfif', 'cat/1.heic', 'cat/2.HEIC', 'dog/notes.txt']
    made += ['__MACOSX/cat/._1.png', 'cat/__MACOSX/2.png', 'cat/Makefile', '.hidden/1.png']
    paths, ignored = find(make(tmp_path, *made))
    assert paths['all'] == ['cat/1.png', 'dog/1.BMP', 'dog/2.jfif']
    assert ignored == (
        'left out 2 .heic files (save as JPEG), 1 file without an ending of images, 1 .txt file',
    )


def test_what_is_no_image_is_left_out_and_counted_and_hidden_files_are_not_seen(tmp_path):
    root, outside = tmp_path / 'set', make(tmp_path / 'outside', 'secret.png')
    make(root, 'cat/1.png', 'cat/notes.txt', 'cat/.hidden.png', '.git/x.png', 'README')
    make(root, 'dog/0.png', 'dog/folder.png/')
    os.mkfifo(root / 'dog' / 'pipe.png')
    for link, target in {
        'dog/out.png': outside / 'secret.png',
        'dog/all': outside,
        'dog/round': root,
        'dog/dead.png': root / 'nothing.png',
        'dog/inside.png': root / 'dog' / '0.png',
        'bird': outside,
    }.items():
        (root / link).symlink_to(target)
    paths, ignored = find(root)
    assert paths == {'all': ['cat/1.png', 'dog/0.png']}
    assert ignored == (
        'left out 1 file beside the folders, 3 links to folders, 1 .txt file, '
        '2 pipes, devices or dead links, 1 link to an image of the folder, 1 link out of the '
        'folder; to follow links, set --config.dataset.follow_links=True',
    )


def test_links_are_left_out_and_named_or_followed(tmp_path):
    make(tmp_path, 'pool/cats/1.png', 'pool/cats/2.png', 'pool/dog.png', 'set/cat/', 'set/dog/')
    root = tmp_path / 'set'
    os.symlink('../../pool/cats', root / 'cat' / 'link')
    os.symlink('../../pool/dog.png', root / 'dog' / '1.png')
    with refuses(root / 'cat', '1 link to a folder', '--config.dataset.follow_links=True'):
        find(root)
    os.symlink('..', root / 'dog' / 'back')  # a loop, to what is of other classes too
    paths, _ = find(root, follow_links=True)
    assert paths['all'] == ['cat/link/1.png', 'cat/link/2.png', 'dog/1.png']
    os.rename(root / 'dog', tmp_path / 'dogs')
    os.symlink('../dogs', root / 'dog')
    with refuses(root, "one class folder, 'cat'", 'follow_links'):
        find(root)


def test_no_image_is_trained_on_and_tested_with_under_two_names(tmp_path):
    """By links; one to a place where no image is looked for is the image's only name."""
    root = tmp_path / 'set'
    for place in ('.store', 'train/cat', 'train/dog', 'test/cat', 'test/dog'):
        make(root, f'{place}/0.png', f'{place}/1.png')
    make(root, 'train/beside.png')
    for link, target in {
        'test/cat/again.png': 'train/cat/0.png',
        'test/dog/again.png': 'train/dog/0.png',
        'test/cat/stored.png': '.store/0.png',
        'test/dog/beside.png': 'train/beside.png',
    }.items():
        (root / link).symlink_to(f'../../{target}')
    paths, ignored = find(root)
    assert len(paths['train']) == 4 and len(paths['test']) == 6
    assert '1 file beside the folders, 2 links to images of the folder' in ignored[0]
    ignored = Ignored()
    names = {os.path.relpath(entry.path, root) for entry in walk_images(root, ignored)}
    assert 'test/cat/stored.png' in names and 'test/cat/again.png' not in names
    # Here the image beside the folders is walked.
    assert 'train/beside.png' in names and 'test/dog/beside.png' not in names
    assert ignored_text(ignored) == '3 links to images of the folder'


def test_folders_are_walked_in_order_however_deep(tmp_path):
    make(tmp_path, 'b.png', 'a/2.png', 'a/1.png', 'c/' + 'd/' * 300 + '3.png')
    paths = [os.path.relpath(entry.path, tmp_path) for entry in walk_images(tmp_path, Ignored())]
    assert paths == ['b.png', 'a/1.png', 'a/2.png', 'c/' + 'd/' * 300 + '3.png']
    with refuses('no/where: cannot be read: No such file'):
        list(walk_images('no/where', Ignored()))
