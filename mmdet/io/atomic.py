"""Files are written whole or not at all: an interrupted checkpoint never replaces a good one."""

import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmengine.fileio import LocalBackend, register_backend


@contextmanager
def replace_when_done(path: str | Path) -> Iterator[str]:
    """A name beside ``path`` to write to, with the same ending; at the end that file is moved to ``path``.

    Parent folders are made. If the block raises, nothing is left of it; of a process that is killed
    :func:`remove_leftovers` clears up.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=f'.tmp{path.suffix}', dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes have left of their writes in a folder that no other process writes to."""
    for pattern in ('.*.????????.tmp*', '.*_*.????????.pth'):  # the second before November 2026
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def write_atomic(data: bytes, path: str | Path) -> None:
    """Write ``data`` beside ``path`` and move it there once it is on disk; parent folders are made.

    What :func:`torch.save` has made is sealed, see :func:`is_whole`.

    Raises:
        OSError: it cannot be written; says how much room is needed and how much there is.
    """
    try:
        with replace_when_done(path) as temporary, open(temporary, 'wb') as file:
            for part in sealed(data):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise type(error)(
            error.errno,
            f'{path}: cannot be written: {error.strerror or error}; it needs '
            f'{len(data) / 2**20:.1f} MiB{_free(Path(path).parent)}',
        ) from error


def _free(folder: Path) -> str:
    try:
        return f', {shutil.disk_usage(folder).free / 2**20:.1f} MiB are free in {folder}'
    except OSError:
        return f', and {folder} cannot be reached'


# -- a seal on checkpoints ----------------------------------------------------------------------------------------

# The end of a zip archive, 22 bytes, closes with the length of a comment that follows it and that all readers skip.
_END, _NO_COMMENT = b'PK\5\6', b'\0\0'
_LENGTH = 72  # of 'sha256 ', 64 digits and a line's end


def sealed(data: bytes) -> Iterator[bytes | memoryview]:
    """``data`` in parts; a zip archive without a comment gets one, the SHA-256 of all before it."""
    view = memoryview(data)
    if len(data) < 22 or view[:2] != b'PK' or view[-22:-18] != _END or view[-2:] != _NO_COMMENT:
        yield data
        return
    digest = hashlib.sha256(view[:-2])
    length = struct.pack('<H', _LENGTH)
    digest.update(length)
    yield view[:-2]
    yield length
    yield f'sha256 {digest.hexdigest()}\n'.encode()


def seal(path: str | Path) -> None:
    """As :func:`sealed`, of a zip archive that is a file."""
    with open(path, 'r+b') as file:
        size = file.seek(0, os.SEEK_END)
        digest = sha256(file, size - 2)
        length = struct.pack('<H', _LENGTH)
        digest.update(length)
        file.seek(size - 2)
        file.write(length + f'sha256 {digest.hexdigest()}\n'.encode())


def sha256(file: BinaryIO, length: int) -> Any:
    """hashlib's SHA-256 of a file's first ``length`` bytes, which are never in memory all at once."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        block = file.read(min(length, 1 << 20))
        if not block:
            break
        digest.update(block)
        length -= len(block)
    return digest


def is_whole(file: BinaryIO) -> bool:
    """Whether a zip archive holds what was written: by its seal, or else by the checksums of what is in it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1024))
    tail = file.read()
    end = tail.rfind(_END)
    length = int.from_bytes(tail[end + 20 : end + 22], 'little')
    if end < 0 or len(tail) - end - 22 != length:  # cut off, or something behind it
        return False
    file.seek(0)
    if length != _LENGTH:
        try:
            with zipfile.ZipFile(file) as archive:
                # torch's reader leaves a tensor as it is where an entry is marked as a folder (MS-DOS, 0x10)
                return not any(entry.external_attr & 0x10 for entry in archive.infolist()) and archive.testzip() is None
        except Exception:  # of a damaged index anything
            return False
    digest = sha256(file, size - _LENGTH)
    return tail[-_LENGTH:] == f'sha256 {digest.hexdigest()}\n'.encode()


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written with :func:`write_atomic`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_atomic(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        write_atomic(obj.encode(encoding), filepath)


def install_backend() -> None:
    """Put :class:`AtomicLocalBackend` in the place of mmengine's local files."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
