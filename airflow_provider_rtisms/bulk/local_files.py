"""Local files that only their owner may read, and files that get their name once they are complete."""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, explain_failures

log = logging.getLogger(__name__)

#: What fills a file: called with the file, opened for binary writing.
Fill = Callable[[IO[bytes]], None]


def open_private(path: Path, *, is_new: bool = False) -> int:
    """
    Open a regular file for reading and writing, and let only its owner read it.

    :param path: the file; a symbolic link is never followed.
    :param is_new: create the file, and fail if something has that name.
    :return: the file descriptor.
    :raises RtiSmsStorageError: the name belongs to a symbolic link, or to anything else that is not a regular file.
    :raises OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_EXCL if is_new else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: Path) -> RtiSmsStorageError:
    return RtiSmsStorageError(
        f"{path} is a symbolic link, or not a regular file. Only this package may create that file: "
        "find out who made it, and remove it."
    )


class LocalOutput:
    """
    A local file that gets its name once it is complete.

    :param path: the final name.
    :param staging_path: the name until then, in the same folder.
    """

    def __init__(self, path: Path, staging_path: Path) -> None:
        self.path = path
        self._staging_path = staging_path

    def probe(self) -> None:
        """
        Create the staging file and remove it, so that a folder that refuses it is found out before the first request.

        :raises RtiSmsError: the folder cannot be written to, or the final name belongs to a folder.
        """
        with explain_failures(f"Writing {self.path}"):
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._staging_path.parent.mkdir(parents=True, exist_ok=True)
            os.close(_create(self._staging_path))
            self._staging_path.unlink()

    def commit(self, fill: Fill) -> None:
        """
        Write the file, then give it its name in one step (POSIX: rename is atomic).

        The file has the mode that the umask asks for. Until it is complete, only its owner may read it.

        :param fill: writes the content.
        :raises RtiSmsError: the file cannot be written.
        """
        with explain_failures(f"Writing {self.path}"):
            try:
                mode = write_private(self._staging_path, fill)
                self._staging_path.chmod(mode)
                self._staging_path.replace(self.path)
            except BaseException:
                self._staging_path.unlink(missing_ok=True)
                raise


def write_private(path: Path, fill: Fill) -> int:
    """
    Write a new file that only its owner may read. What had its name before is removed.

    :param path: the file.
    :param fill: writes the content.
    :return: the mode that the umask asks for.
    :raises OSError: the file cannot be written.
    """
    with os.fdopen(_create(path), "wb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        os.fchmod(file.fileno(), 0o600)
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    return mode


def private_folder() -> Path:
    """
    Return a folder for temporary files that only this user may enter; each call returns the same one if it can.

    :raises OSError: it cannot be created.
    """
    folder = Path(tempfile.gettempdir(), f"rtisms-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return folder
    log.warning("%s belongs to another user, or others may enter it: a new folder is used instead", folder)
    return Path(tempfile.mkdtemp(prefix="rtisms-"))


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)  # of an attempt that was killed
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
