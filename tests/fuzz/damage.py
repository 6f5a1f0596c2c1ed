"""Ways to damage one file or folder: values, types, shapes, sizes, bits, and what stands there."""

import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import socket
import zipfile

import numpy as np

NUMBERS = (0, -1, 7, 0.5, 2**31, 2**70, 1e308, float('nan'), float('inf'), True)
TEXTS = ('x', '', '../precious', '<script>', '\x1b[2J', '\u202etxt', 'x' * 100_000, '{}', '1')
OTHERS = (None, [], {}, [1], ['x', None], {'a': 1}, [[[[]]]])
DEEP = '[' * 100_000
DTYPES = ('bool', 'U5', 'M8[s]', 'complex64', 'f2', '>f4', 'i1', 'u8', 'O', 'V8', 'S3')
NPY = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }"
HEADERS = (
    NPY % ("'<f4'", False, (2**40,)),
    NPY % ("'<f4'", False, (-1,)),
    NPY % ("'<f4'", False, (2**32, 2**32)),
    NPY % ("'|O'", False, (1,)),
    NPY % ("'<f4'", "'x'", 7),
    NPY % ("[('a', '<f4'), ('a', '<i4')]", True, ()),
    '(' * 5000,
    '-' * 60_000 + '1',
)
BOMB_BYTES, BLOCK = 600 * 2**20, 2**24
EMPTY_ZIP = b'PK\x05\x06' + bytes(18)

OF_FILES = ('empty', 'cut', 'bits', 'appended', 'huge', 'pipe', 'socket', 'directory', 'removed')
OF_FILES += ('dangling link', 'link to itself', 'link elsewhere')
OF_FOLDERS = ('removed', 'dangling link', 'link elsewhere', 'file instead', 'renamed')


def damage(
    draw: random.Random, folder: pathlib.Path, precious: pathlib.Path, only: str, damaged: list
) -> tuple[str, str, pathlib.Path]:
    """Damages one file of a folder, or rarely a folder in it.

    Links may lead to `precious`, an equal folder; `only` is a pattern of what may be damaged, and
    `damaged` what already is. Returns the kind, what was done, and the path in the folder.
    """
    paths = [path for path in sorted(folder.glob(only)) if path.name != '.lock']
    paths = [p for p in paths if p.relative_to(folder) not in damaged and not p.is_symlink()]
    files = [path for path in paths if path.is_file()]
    folders = [path for path in paths if path.is_dir()]
    if folders and draw.random() < 0.1:
        path, kind = draw.choice(folders), draw.choice(OF_FOLDERS)
    else:
        # The many files of checkpoints are together as likely as three others.
        weights = [3 / 40 if 'checkpoints' in path.parts else 1 for path in files]
        path = draw.choices(files, weights)[0]
        kind = draw.choice([*OF_FILES, *2 * len(OF_FILES) * content_kinds(path)])
    name = path.relative_to(folder)
    text = (
        CONTENT[kind](draw, path) if kind in CONTENT else replace(kind, draw, path, precious / name)
    )
    return kind, f'{name}: {kind} {text}'.strip(), name


def content_kinds(path: pathlib.Path) -> list[str]:
    """Damages of the content that fit a file."""
    by_suffix = {'.npz': ['arrays'], '.pth': ['cut', 'bits'], '.safetensors': ['header']}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    content = path.read_bytes()
    with contextlib.suppress(ValueError):
        if path.suffix == '.jsonl':
            return ['rows'] * bool(content)
        json.loads(content)
        return ['json']
    return []


def replace(kind: str, draw: random.Random, path: pathlib.Path, target: pathlib.Path) -> str:
    """Damages a file or folder whatever is in it; some links lead to `target`."""
    if kind == 'renamed':
        name = draw.choice(('x', '7', '10', '9' * 20, '-1', path.name + '.orbax-checkpoint-tmp'))
        if not path.with_name(name).exists():
            path.rename(path.with_name(name))
        return name
    if kind == 'huge':
        size = draw.choice((900 * 2**20, 8 * 2**30, 2**41))
        os.truncate(path, size)
        return f'{size} bytes'
    content = bytearray(path.read_bytes()) if path.is_file() else b''
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    match kind:
        case 'empty':
            path.touch()
        case 'cut':
            size = draw.randrange(len(content) + 1)
            path.write_bytes(content[:size])
            return f'after {size} of {len(content)} bytes'
        case 'bits':
            content = content or bytearray(1)
            flipped = [draw.randrange(8 * len(content)) for _ in range(draw.choice((1, 1, 8)))]
            for bit in flipped:
                content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            return str(flipped)
        case 'appended':
            path.write_bytes(content + draw.choice((b'x', bytes(100), b'\n{}\n', EMPTY_ZIP)))
        case 'pipe':
            os.mkfifo(path)
        case 'socket':  # whose name is at most 107 bytes long
            with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name[:100])
        case 'directory':
            path.mkdir()
        case 'dangling link':
            path.symlink_to(target.with_name('not-there'))
        case 'link to itself':
            path.symlink_to(path.name)
        case 'link elsewhere':
            path.symlink_to(target)
        case 'file instead':
            path.write_bytes(b'{}')
    return ''


def value(draw: random.Random):
    """Any value of JSON."""
    return draw.choice(draw.choice((NUMBERS, NUMBERS, TEXTS, OTHERS, OTHERS, OTHERS)))


def edit(draw: random.Random, content) -> str:
    """Changes one value in the lists and objects of JSON, or its type, or its key."""
    inner, names = content, []
    while not names or (isinstance(inner, dict | list) and inner and draw.random() >= 0.2):
        place = inner
        name = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        names.append(str(name))
        inner = place[name]
    how, where = draw.choice(('set',) * 4 + ('remove', 'rename', 'twice')), '.'.join(names)[:100]
    if how == 'set':
        place[name] = value(draw)
        return f'{where} = {str(place[name])[:40]!r}'
    if how == 'twice' and isinstance(place, list):
        place.append(inner)
    elif how == 'rename' and isinstance(place, dict):
        place[draw.choice(('x', '', '../x', name.upper()))] = place.pop(name)
    else:
        del place[name]
    return f'{where}: {how}'


def damage_json(draw: random.Random, path: pathlib.Path) -> str:
    text = path.read_text()
    content, how = json.loads(text), draw.random()
    if how < 0.15 or not isinstance(content, dict | list) or not content:
        content = draw.choice((value(draw), None, [], 'x', 7))
        what = f'= {str(content)[:40]!r}'
    elif how < 0.2:
        whole = draw.choice((DEEP, '{"a":' * 100_000, '\ufeff' + text, text + text, '\0'))
        path.write_text(whole)
        return f'begins {whole[:6]!r}'
    else:
        what = edit(draw, content)
    path.write_text(json.dumps(content))
    return what


def damage_rows(draw: random.Random, path: pathlib.Path) -> str:
    lines = path.read_text().splitlines()
    number, what = draw.randrange(len(lines)), ''
    how = draw.choice(('edit', 'edit', 'edit', 'remove', 'twice', 'other', 'end', 'blank'))
    if how == 'edit':
        row = json.loads(lines[number])
        what = edit(draw, row)
        lines[number] = json.dumps(row)
    elif how == 'remove':
        del lines[number]
    else:
        new = {'twice': lines[number], 'other': json.dumps(value(draw)), 'blank': ' '}
        lines.insert(number, new.get(how, DEEP[:9]))
    path.write_text('\n'.join(lines) + '\n' * draw.randrange(2))
    return f'row {number}: {how} {what}'


def npy_bytes(array: np.ndarray, header: str = '') -> bytes:
    """A .npy file, if need be with another header."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    if not header:
        return file.getvalue()
    text = header.encode() + b'\n'
    data = file.getvalue()[10 + int.from_bytes(file.getvalue()[8:10], 'little') :]
    return b'\x93NUMPY\x02\x00' + len(text).to_bytes(4, 'little') + text + data


def damage_arrays(draw: random.Random, path: pathlib.Path) -> str:
    with np.load(path) as archive:
        members = {f'{name}.npy': archive[name] for name in archive.files}
    name = draw.choice(list(members))
    array, what, header = members[name], '', ''
    packed = [(member, npy_bytes(content)) for member, content in members.items() if member != name]
    how = draw.choice(('dtype', 'shape', 'values', 'name', 'header', 'bomb', 'form'))
    match how:
        case 'dtype':
            what = draw.choice(DTYPES)
            zeros = what in ('V8', 'M8[s]') or array.dtype.kind in 'US'
            array = np.zeros(array.shape, what) if zeros else array.astype(what)
        case 'shape':
            what, array = draw.choice((
                ('flat', array.reshape(-1)), ('more axes', array[None]), ('shorter', array[:-1]),
                ('empty', array[:0]), ('scalar', np.asarray(array.reshape(-1)[0])),
                ('longer', np.concatenate([array, array[:1]])), ('transposed', array.T),
            ))  # fmt: skip
        case 'values':
            what = draw.choice((float('nan'), float('inf'), -1, 10**9, 0))
            with np.errstate(all='ignore'):
                array = np.full(array.shape, what).astype(array.dtype)
        case 'header':
            what = header = draw.choice(HEADERS)
        case 'form':
            what = draw.choice((b'', EMPTY_ZIP, b'x = 1\n', npy_bytes(array)))
            path.write_bytes(what)
            return f'the whole file {what[:8]!r}'
    content, names = npy_bytes(array, header), [name]
    if how == 'name':
        names = draw.choice(([], [name] * 2, ['../evil.npy'], ['x'], ['a/b/c.npy'], ['\u202e.npy']))
        what = names
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if how == 'bomb':  # zeros, ten thousand times as many as the bytes that hold them
            names = []
            with archive.open(name, 'w') as file:
                file.write(npy_bytes(np.zeros(0), NPY % ("'<f4'", False, (BOMB_BYTES // 4,))))
                for _ in range(BOMB_BYTES // BLOCK):
                    file.write(bytes(BLOCK))
        for member, member_bytes in [*packed, *((member, content) for member in names)]:
            archive.writestr(member, member_bytes)
    return f'{name}: {how} {str(what)[:60]}'


def damage_header(draw: random.Random, path: pathlib.Path) -> str:
    """Of a .safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], 'little')
    text, data = content[8 : 8 + size], content[8 + size :]
    if draw.random() < 0.3:
        size = draw.choice((0, 2**40, 2**63, size - 1, size + 1, len(content)))
        what = f'header of {size} bytes'
    else:
        header = json.loads(text)
        what = edit(draw, header)
        text = json.dumps(header).encode()
        size = len(text)
    path.write_bytes(size.to_bytes(8, 'little') + text + data)
    return what


CONTENT = {
    'arrays': damage_arrays, 'rows': damage_rows, 'json': damage_json, 'header': damage_header,
}  # fmt: skip
