"""Files from the network in torch's cache: each is there whole or not at all, and is downloaded by one process."""

import fcntl
import glob
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log

from mmdet.io.atomic import replace_when_done

#: seconds without an answer, after which a download is given up
TIMEOUT = 60.0
ABSENT = 'not there yet'


def fetch(name: str, url: str, check: Callable[[str], str], advice: str) -> str:
    """The file of a URL in torch's cache, where it is downloaded to unless it is there and ``check`` finds no fault.

    Args:
        name: what the user has called it, for the error.
        check: from a path to what is wrong with the file, or ''. Nothing else than a file without fault is kept.
        advice: what else to do, for the error.

    Raises:
        FileNotFoundError: there is no such file, and it could not be downloaded.
    """
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(url).path))
    problem = _problem(path, check)
    try:
        if problem:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with _alone(path) as alone:
                problem = _problem(path, check)  # none if another process has downloaded it meanwhile
                if problem:
                    print_log(f'{path}: {problem}; downloading {url}', 'current')
                    if alone:
                        _remove_leftovers(path)
                    _download(url, path, check)
    except (OSError, HTTPException, ValueError) as error:
        if problem == ABSENT:
            words = f'neither is {path} there, nor could {url} be downloaded ({error})'
        else:
            words = f'{path} is damaged ({problem}), and {url} could not be downloaded ({error})'
        raise FileNotFoundError(f'checkpoint {name}: {words}. Put the file there, {advice}') from None
    return path


def _problem(path: str, check: Callable[[str], str]) -> str:
    return check(path) if os.path.isfile(path) else ABSENT


def _download(url: str, path: str, check: Callable[[str], str]) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or TIMEOUT)
    try:
        with replace_when_done(path) as temporary:
            torch.hub.download_url_to_file(url, temporary, progress=os.isatty(2))
            problem = check(temporary)
            if problem:
                raise ValueError(problem)
    finally:
        socket.setdefaulttimeout(before)


def _remove_leftovers(path: str) -> None:
    """Remove what a killed process has left of its download to ``path``, where no other process is at it."""
    folder, file = os.path.split(path)
    stem = glob.escape(os.path.join(folder, f'.{os.path.splitext(file)[0]}'))
    for left in glob.glob(f'{stem}.????????.tmp*'):
        os.unlink(left)


@contextmanager
def _alone(path: str) -> Iterator[bool]:
    """Within is one process at a time of those that name ``path``; where one is killed the next one enters.

    False is given on a file system without locks: there several may be within.
    """
    lock = os.path.join(os.path.dirname(path), f'.{os.path.basename(path)}.lock')
    while True:
        file, alone = open(lock, 'ab'), False
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()  # the one before has removed it
    try:
        yield alone
    finally:
        with suppress(FileNotFoundError):
            os.unlink(lock)
        file.close()
