"""Files are written whole or not at all: an interrupted checkpoint never replaces a good one."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from mmengine.fileio import LocalBackend, register_backend


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[str]:
    """A name beside ``path`` to write to, with the same ending; at the end that file is moved to ``path``.

    Parent folders are made. If the block raises, nothing is left of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=path.suffix, dir=path.parent)
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


def write_atomic(data: bytes, path: Union[str, Path]) -> None:
    """Write ``data`` beside ``path`` and move it there once it is on disk; parent folders are made."""
    with replace_when_done(path) as temporary, open(temporary, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written with :func:`write_atomic`."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        write_atomic(obj, filepath)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
        write_atomic(obj.encode(encoding), filepath)


register_backend('local', AtomicLocalBackend, force=True, prefixes='')
