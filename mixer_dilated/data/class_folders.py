"""The classes and splits of a folder of images, by the names of the folders in it."""

import hashlib
import os
import pathlib
from typing import NamedTuple

from mixer_dilated.data import image_files
from mixer_dilated.data.image_decoding import SUFFIXES
from mixer_dilated.data.image_files import Ignored, ignored_text, is_folder
from mixer_dilated.data.split_names import SPLITS, complete_splits, split_of, splits_of
from mixer_dilated.errors import UserError


class ImageFile(NamedTuple):
    """A file of one class; `path` is relative to the data set's folder, with '/'."""

    path: str
    label: int
    num_bytes: int
    mtime_ns: int


class ClassFolders(NamedTuple):
    """The image files of a folder; the split is 'all' if it has no splits."""

    class_names: tuple[str, ...]  # of each label, sorted
    splits: dict[str, list[ImageFile]]
    notes: tuple[str, ...] = ()  # what a person should know, a sentence each


class SplitFiles(NamedTuple):
    """The files of a run's splits, by which they are found again, as `ImageFile` has them."""

    class_names: tuple[str, ...]
    paths: dict[str, list[str]]


def find_images(root: pathlib.Path, *, follow_links: bool = False) -> ClassFolders:
    """Finds the classes, splits and images of a folder; for links see `walk_images`.

    If all its folders have names of splits ('train', 'Testing', 'valid_images') and hold folders,
    they are splits, each with the same class folders. Without a test split the validation split is
    the test split. In any other folder each folder is a class.

    Raises:
      UserError: no folder, fewer than two classes, a class without images, splits of different
        classes, or folders whose meaning is not clear.
    """
    ignored, files, class_names, notes = Ignored(), {}, (), []
    folders = _subfolders(root, ignored, follow_links)
    splits = _split_folders(root, folders, follow_links)
    for split, folder in (splits or {'all': ''}).items():
        if splits:
            folders = _subfolders(root / folder, ignored, follow_links)
        names, files[split] = _find_classes(root, root / folder, folders, ignored, follow_links)
        class_names = class_names or names
        if names != class_names:
            differing = sorted({*names} ^ {*class_names})
            raise UserError(
                f'{root}: {splits["train"]} and {folder} have different classes: '
                f'{_list(differing)} {"is" if len(differing) == 1 else "are"} in one of them only; '
                'each needs the same class folders'
            )
    files = complete_splits(root, files, notes, splits.get('validation', ''))
    if ignored:
        notes.append(f'left out {ignored_text(ignored)}{_links_hint(ignored)}')
    return ClassFolders(class_names, files, tuple(notes))


def split_images(
    source: pathlib.Path, folders: ClassFolders, test_fraction: float, split_seed: int
) -> dict[str, list[ImageFile]]:
    """The files of each split, in the order of a hash: a slice of it has all classes.

    Of a folder without splits, `test_fraction` of every class is for testing, at least one image
    and not all: those whose names come first when they are sorted by a hash of `split_seed` and
    name. Raises UserError, with the `source`, where a split would have no image of a class.
    """

    def rank(file: ImageFile) -> bytes:
        return hashlib.sha256(f'{split_seed} {file.path}'.encode(errors='surrogateescape')).digest()

    splits, names = folders.splits, folders.class_names
    if 'all' in splits:
        by_label = [[] for _ in names]
        for file in sorted(splits['all'], key=rank):
            by_label[file.label].append(file)
        splits = {'train': [], 'test': []}
        for name, files in zip(names, by_label, strict=True):
            if len(files) < 2:
                number = 'a single image' if files else 'no image that can be used'
                raise UserError(
                    f'{source}, class {name}: {number}, which cannot be split into train and test; '
                    'add more, or say yourself which images are train and test'
                )
            num_test = min(max(round(test_fraction * len(files)), 1), len(files) - 1)
            splits['test'] += files[:num_test]
            splits['train'] += files[num_test:]
    splits = {split: sorted(files, key=rank) for split, files in splits.items()}
    for split, files in splits.items():
        empty = {*range(len(names))} - {file.label for file in files}
        if empty:
            raise UserError(
                f'{source}: no image of class {names[min(empty)]!r} in {split} can be used; put '
                'others there, or remove the class'
            )
    return splits


def find_again(
    folders: ClassFolders, recorded: SplitFiles
) -> tuple[dict[str, list[ImageFile]], str]:
    """The splits of a run, by the names of their files, and what has changed since, as a text.

    Images that the run did not have are left out. Where none of its images is there, which is
    another data set, the splits are empty.
    """
    labels = {name: label for label, name in enumerate(recorded.class_names)}
    numbers = [labels.get(name) for name in folders.class_names]
    files = [file for files in folders.splits.values() for file in files]
    there = {file.path: file._replace(label=numbers[file.label]) for file in files}
    known = {path for path, file in there.items() if file.label is not None}
    splits = {
        split: [there[path] for path in paths if path in known]
        for split, paths in recorded.paths.items()
    }
    present = sum(map(len, splits.values()))
    if not present:
        return {}, 'none of the images of the run is there; its splits are those of this data set'
    changes = {
        'new since the run began, and left out': len(there) - present,
        'gone that the run had': sum(map(len, recorded.paths.values())) - present,
    }
    return splits, '; '.join(
        f'{count} {"image is" if count == 1 else "images are"} {what}'
        for what, count in changes.items()
        if count
    )


def _subfolders(root: pathlib.Path, ignored: Ignored, follow_links: bool) -> list[str]:
    names = []
    for entry in image_files.visible_entries(str(root)):
        if is_folder(entry, follow_links):
            names.append(entry.name)
        elif is_folder(entry, True):
            ignored['link to a folder', 'links to folders'] += 1
        else:
            ignored['file beside the folders', 'files beside the folders'] += 1
    return names


def _split_folders(root: pathlib.Path, folders: list[str], follow_links: bool) -> dict[str, str]:
    """{split: folder} if the folders are splits, else {}; raises UserError if that is not clear."""
    splits = dict(zip(folders, splits_of(folders), strict=True))
    by_split = {split: folder for folder, split in splits.items() if split}
    if 'train' not in by_split or len(by_split) < 2:
        return {}
    others = [folder for folder in folders if not splits[folder]]
    named = [folder for folder in folders if splits[folder]]
    empty = [name for name in named if not _subfolders(root / name, Ignored(), follow_links)]
    if others and empty:  # they are classes, as bus and train are
        return {}
    if others:
        raise UserError(
            f'{root}: beside the splits {_list(named)} there is '
            f'{_list(others)}; allowed are folders of splits (train, validation, test) or folders '
            'of classes alone'
        )
    if empty:
        raise UserError(
            f'{root}: {_list(empty)}, by its name a split, holds no class folders; allowed are '
            'SPLIT/CLASS/image.png, and CLASS/image.png with other names for the classes'
        )
    if len(by_split) < len(folders):
        raise UserError(
            f'{root}: two of its folders are one split: {_list(folders)}; name its folders train, '
            'validation and test'
        )
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _find_classes(
    root: pathlib.Path, folder: pathlib.Path, names: list[str], ignored: Ignored, follow_links: bool
) -> tuple[tuple[str, ...], list[ImageFile]]:
    if len(names) < 2:
        holds = f'one class folder, {names[0]!r}' if names else 'no class folders'
        inner = _subfolders(folder / names[0], Ignored(), follow_links) if names else ()
        hint = f'; for the classes {_list(inner)} name {folder / names[0]}' if inner else ''
        raise UserError(
            f'{folder}: holds {holds}; allowed are at least two, with their images in them: '
            f'CLASS/image.png{hint}{_links_hint(ignored)}'
        )
    files, inner = [], set()
    for label, name in enumerate(names):
        left_out, first = Ignored(), len(files)
        walked = image_files.walk_images(folder / name, left_out, root, follow_links=follow_links)
        for entry in walked:
            status = entry.stat()
            path = os.path.relpath(entry.path, root).replace(os.sep, '/')
            files.append(ImageFile(path, label, status.st_size, status.st_mtime_ns))
        ignored.update(left_out)
        if len(files) == first:
            held = f' but {ignored_text(left_out)}' if left_out else ''
            raise UserError(
                f'{folder / name}: a class folder without images ({", ".join(SUFFIXES)}){held}; '
                f'put some there, or remove it{_links_hint(left_out)}'
            )
        # Of each image the folder within its class, '' if it is in none.
        paths = (file.path.removeprefix(f'{name}/').rpartition('/')[0] for file in files[first:])
        inner.add(frozenset(path.split('/')[0] for path in paths))
    shown = sorted(next(iter(inner)))
    if folder == root and len(inner) == 1 and len(shown) > 1 and '' not in shown:
        meant = (
            f'if those are the classes, name one of the outer folders, like {root / names[0]}, or '
            'call them train, validation and test'
        )
        if any(map(split_of, shown)):
            meant = f'if those are splits, put them outside: {shown[0]}/{names[0]}/image.png'
        held = f'each of {_list(names)} holds {_list(shown)} and no images'
        raise UserError(f'{root}: {held}; {meant}')
    return tuple(names), files


def _links_hint(ignored: Ignored) -> str:
    """What to set if links were left out; '' if none was."""
    if any('link' in singular and 'dead' not in singular for singular, _ in +ignored):
        return '; to follow links, set --config.dataset.follow_links=True'
    return ''


def _list(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'
