"""Ways to damage one file or folder: values, types, shapes, sizes, bits, and what stands there."""

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
DEEP = '[' * 100_000
DTYPES = ('bool', 'U5', 'M8[s]', 'complex64', 'f2', '>f4', 'i1', 'u8', 'O', 'V8', 'S3')
NPY = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }"
HEADERS = (
    NPY % 2**40,
    NPY % -1,
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': 'x', 'shape': 7, }",
    "{'descr': [('a', '<f4'), ('a', '<i4')], 'fortran_order': True, 'shape': (), }",
    '(' * 5000,
    '-' * 60_000 + '1',
)
BOMB_BYTES = 600 * 2**20


def damage(
    draw: random.Random, folder: pathlib.Path, precious: pathlib.Path, only: str, damaged: list
) -> tuple[str, str, pathlib.Path]:
    """Damages one file of a folder, or rarely a folder in it.

    Links may lead to `precious`, an equal folder; `only` is a pattern of what may be damaged, and
    `damaged` what already is. Returns the kind, what was done, and the path in the folder.
    """
    paths = sorted(path for path in folder.glob(only) if path.name != '.lock')
    paths = [path for path in paths if path.relative_to(folder) not in damaged]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    # The many files of checkpoints are together as likely as three others.
    weights = [3 / 40 if 'checkpoints' in path.parts else 1 for path in files]
    folders = [path for path in paths if path.is_dir() and not path.is_symlink()]
    if folders and draw.random() < 0.1:
        path = draw.choice(folders)
        kinds = [removed, dangling_link, link_elsewhere, file_instead, renamed]
    else:
        path = draw.choices(files, weights)[0]
        kinds = [*ANY, *2 * len(ANY) * contents(path)]
    kind = draw.choice(kinds)
    name = path.relative_to(folder)
    text = kind(draw, path, precious / name)
    return kind.__name__, f'{name}: {kind.__name__} {text or ""}'.strip(), name


def contents(path: pathlib.Path) -> list:
    """Damages of the content that fit a file."""
    if path.suffix in ('.npz', '.pth'):
        return [arrays] if path.suffix == '.npz' else [cut, bits]
    if path.suffix == '.safetensors':
        return [safetensors_header]
    content = path.read_bytes()
    if path.suffix == '.jsonl':
        return [rows] if content else []
    try:
        json.loads(content)
    except ValueError:
        return []
    return [json_value]


def value(draw: random.Random):
    """Any value of JSON."""
    kind = draw.randrange(6)
    if kind < 2:
        return draw.choice(NUMBERS)
    if kind == 2:
        return draw.choice(TEXTS)
    return (None, [], {}, [1], ['x', None], {'a': 1}, [[[[]]]])[draw.randrange(7)]


def edit(draw: random.Random, content) -> str:
    """Changes one value in the lists and objects of JSON, or its type, or its key."""
    place, names = content, []
    while True:
        name = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        names.append(str(name))
        inner = place[name]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.2:
            break
        place = inner
    how = draw.choice(('set', 'set', 'set', 'set', 'remove', 'rename', 'twice'))
    where = '.'.join(names)[:100]
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


def json_value(draw, path, _):
    text = path.read_text()
    content, how = json.loads(text), draw.random()
    if how < 0.15 or not isinstance(content, dict | list) or not content:
        whole = draw.choice((value(draw), None, [], 'x', 7))
        path.write_text(json.dumps(whole))
        return f'= {str(whole)[:40]!r}'
    if how < 0.2:
        path.write_text(draw.choice((DEEP, '{"a":' * 100_000, '\ufeff' + text, text + text, '\0')))
        return f'begins {path.read_text()[:6]!r}'
    what = edit(draw, content)
    path.write_text(json.dumps(content))
    return what


def rows(draw, path, _):
    lines = path.read_text().splitlines()
    number = draw.randrange(len(lines))
    how = draw.choice(('edit', 'edit', 'edit', 'remove', 'twice', 'other', 'end', 'blank'))
    what = ''
    if how == 'edit':
        row = json.loads(lines[number])
        what = edit(draw, row)
        lines[number] = json.dumps(row)
    elif how == 'remove':
        del lines[number]
    elif how == 'twice':
        lines.insert(number, lines[number])
    else:
        lines.insert(number, {'other': json.dumps(value(draw)), 'blank': ' '}.get(how, DEEP[:9]))
    path.write_text('\n'.join(lines) + '\n' * draw.randrange(2))
    return f'row {number}: {how} {what}'


def array_bytes(array: np.ndarray, header: str = '') -> bytes:
    """A .npy file, if need be with another header."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    if not header:
        return file.getvalue()
    text = header.encode() + b'\n'
    data = file.getvalue()[10 + int.from_bytes(file.getvalue()[8:10], 'little') :]
    return b'\x93NUMPY\x02\x00' + len(text).to_bytes(4, 'little') + text + data


def arrays(draw, path, _):
    with np.load(path) as archive:
        members = {f'{name}.npy': archive[name] for name in archive.files}
    name = draw.choice(list(members))
    array = members[name]
    packed = {member: array_bytes(content) for member, content in members.items()}
    how = draw.choice(('dtype', 'shape', 'values', 'name', 'header', 'bomb', 'form'))
    what, extra = '', {}
    if how == 'dtype':
        what = draw.choice(DTYPES)
        zeros = what in ('V8', 'M8[s]') or array.dtype.kind in 'US'
        new = np.zeros(array.shape, what) if zeros else array.astype(what)
        packed[name] = array_bytes(new)
    elif how == 'shape':
        what, new = draw.choice((
            ('flat', array.reshape(-1)), ('more axes', array[None]), ('shorter', array[:-1]),
            ('empty', array[:0]), ('scalar', np.asarray(array.reshape(-1)[0])),
            ('longer', np.concatenate([array, array[:1]])), ('transposed', array.T),
        ))  # fmt: skip
        packed[name] = array_bytes(new)
    elif how == 'values':
        what = draw.choice((float('nan'), float('inf'), -1, 10**9, 0))
        with np.errstate(all='ignore'):
            packed[name] = array_bytes(np.full(array.shape, what).astype(array.dtype))
    elif how == 'name':
        what = draw.choice(('removed', 'twice', '../evil.npy', 'x', 'a/b/c.npy', '\u202e.npy'))
        content = packed[name] if what == 'twice' else packed.pop(name)
        extra = {} if what == 'removed' else {name if what == 'twice' else what: content}
    elif how == 'header':
        what = draw.choice(HEADERS)
        packed[name] = array_bytes(array, what)
    elif how == 'form':
        what = draw.choice((b'', b'PK\x05\x06' + bytes(18), b'x = 1\n', array_bytes(array)))
        path.write_bytes(what)
        return f'the whole file {what[:8]!r}'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if how == 'bomb':  # zeros, ten thousand times as many as the bytes that hold them
            header = array_bytes(np.zeros(0), NPY % (BOMB_BYTES // 4))
            block = bytes(2**24)
            del packed[name]
            with archive.open(name, 'w') as file:
                file.write(header)
                for _ in range(BOMB_BYTES // len(block)):
                    file.write(block)
        for member, content in [*packed.items(), *extra.items()]:
            archive.writestr(member, content)
    return f'{name}: {how} {str(what)[:60]}'


def safetensors_header(draw, path, _):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], 'little')
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw.random() < 0.3:
        size = draw.choice((0, 2**40, 2**63, size - 1, size + 1, len(content)))
        path.write_bytes(size.to_bytes(8, 'little') + content[8:])
        return f'header of {size} bytes'
    what = edit(draw, header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    return what


def empty(_, path, __):
    path.write_bytes(b'')


def cut(draw, path, _):
    content = path.read_bytes()
    size = draw.randrange(len(content) + 1)
    path.write_bytes(content[:size])
    return f'after {size} of {len(content)} bytes'


def bits(draw, path, _):
    content = bytearray(path.read_bytes() or b'\0')
    flipped = [draw.randrange(8 * len(content)) for _ in range(draw.choice((1, 1, 8)))]
    for bit in flipped:
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return str(flipped)


def appended(draw, path, _):
    with path.open('ab') as file:
        file.write(draw.choice((b'x', bytes(100), b'\n{}\n', b'PK\x05\x06' + bytes(18))))


def huge(draw, path, _):
    size = draw.choice((900 * 2**20, 8 * 2**30, 2**41))
    os.truncate(path, size)
    return f'{size} bytes'


def pipe(_, path, __):
    path.unlink()
    os.mkfifo(path)


def unix_socket(_, path, __):
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name[:100])
    os.chdir(here)


def directory(_, path, __):
    path.unlink()
    path.mkdir()


def removed(_, path, __):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def dangling_link(draw, path, target):
    removed(draw, path, target)
    path.symlink_to(target.with_name('not-there'))


def link_to_itself(_, path, __):
    path.unlink()
    path.symlink_to(path.name)


def link_elsewhere(draw, path, target):
    removed(draw, path, target)
    path.symlink_to(target)


def file_instead(draw, path, target):
    removed(draw, path, target)
    path.write_bytes(b'{}')


def renamed(draw, path, _):
    name = draw.choice(('x', '7', '10', '9' * 20, '-1', path.name + '.orbax-checkpoint-tmp'))
    if not path.with_name(name).exists():
        path.rename(path.with_name(name))
    return name


ANY = [empty, cut, bits, appended, huge, pipe, unix_socket, directory, removed, dangling_link]
ANY += [link_to_itself, link_elsewhere]
