"""Where weights that a user names lie: `weights_path`."""

import hashlib
import http.client
import pathlib
import posixpath
import urllib.parse
import urllib.request

from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, error_context
from mixer_dilated.paths import expand_user, user_cache
from mixer_dilated.pretrained.weight_files import SUFFIXES

MAX_BYTES = 2**34  # of a download
TIMEOUT = 60  # seconds without an answer
CHUNK = 2**20  # bytes


def weights_path(source: str) -> pathlib.Path:
    """The path of weights; `source` may be an address, https://…/NAME.npz, say, which is downloaded
    once, into the user's cache.

    Raises:
      UserError: the download fails or is no such file, or a bucket's client is not installed.
    """
    if not source.startswith(('https://', 'http://')):
        return expand_user(source)
    name = posixpath.basename(urllib.parse.urlsplit(source).path)
    if not name.endswith(SUFFIXES):
        raise UserError(f'{source}: allowed is the address of a {", ".join(SUFFIXES)} file')
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    target = user_cache() / 'weights' / key / name
    if not target.exists():
        with error_context(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        _download(source, target)
    return target


def _download(address: str, target: pathlib.Path) -> None:
    size = 0
    with AtomicFile(target) as file:
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
                while chunk := response.read(CHUNK):
                    # Of zip, of pickle (PyTorch's older files), of JSON behind its length.
                    if not size and chunk[:2] not in (b'PK', b'\x80\x02') and chunk[8:9] != b'{':
                        raise ValueError(f'what is there is no {", ".join(SUFFIXES)} file')
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise ValueError(f'more than {MAX_BYTES} bytes')
                    file.write(chunk)
                length = response.headers['Content-Length']
                if not size or (length and int(length) != size):
                    raise ValueError(f'it ended after {size} bytes')
        except UserError:  # of the cache
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, 'reason', None) or error  # the system's, in a URLError
            raise UserError(
                f'{address}: cannot be downloaded: {getattr(cause, "strerror", None) or cause}; '
                'get the file, and name its path'
            ) from None
