"""Run Debian's PostgreSQL, MariaDB and Redis inside a `with` block, each with a port and a directory of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.processes import Session, wait_until

DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")


class Server(ABC):
    """A server on loopback, with a directory that is removed at the end of the `with` block."""

    def __init__(self) -> None:
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.crash()
        finally:
            self._remove()

    @abstractmethod
    def start(self) -> None:
        """Start the server, the first time or after a crash, and return once it accepts connections."""

    @abstractmethod
    def crash(self) -> None:
        """Stop the server without a clean shutdown."""

    @contextmanager
    def down(self) -> Iterator[None]:
        """Crash the server, and start it again at the end of the `with` block."""
        self.crash()
        try:
            yield
        finally:
            self.start()

    def _remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)


class Postgres(Server):
    """A new PostgreSQL server without passwords. Root runs it as the user postgres, because PostgreSQL refuses root."""

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server. The first time, create the database."""
        if not (self.home / "data").exists():
            if os.geteuid() == 0:
                shutil.chown(self.home, "postgres", "postgres")
            self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self.home / 'postgres.log'}", f"--options={options}")

    def crash(self) -> None:
        """Kill the server and its sessions; the next start recovers from the write-ahead log."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [_postgresql(program), f"--pgdata={self.home / 'data'}", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,  # a pipe would stay open while the server runs
            cwd=self.home,
            user="postgres" if os.geteuid() == 0 else None,
            group="postgres" if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )


class MariaDb(Server):
    """A new MariaDB server whose user root has no password, with a database ``warehouse``."""

    def start(self) -> None:
        """Start the server. The first time, create the database."""
        data, is_root = self.home / "data", os.geteuid() == 0
        options = ["--no-defaults", f"--datadir={data}", *(["--user=mysql"] if is_root else [])]
        if not data.exists():
            if is_root:
                shutil.chown(self.home, "mysql", "mysql")
            install = [_installed("mariadb-install-db", "mariadb-server"), *options]
            install.append("--auth-root-authentication-method=normal")
            subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
            (data / "warehouse").mkdir()
            if is_root:
                shutil.chown(data / "warehouse", "mysql", "mysql")
        command = [_installed("mariadbd", "mariadb-server"), *options, f"--port={self.port}"]
        command += ["--bind-address=127.0.0.1", f"--socket={self.home / 'socket'}"]
        command += ["--character-set-server=utf8mb4"]  # as Debian's settings have it
        self._session = Session("mariadbd", command, log=self.home / "mariadb.log", env=dict(os.environ))
        wait_until(lambda: is_listening(self.port), what="mariadbd to listen", watching=[self._session])

    def crash(self) -> None:
        """Kill the server (SIGKILL); the next start recovers from its log."""
        self._session.kill()


class Redis(Server):
    """A Redis server that keeps its data in memory only."""

    @property
    def url(self) -> str:
        """The URL of the server, for Celery."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server."""
        program = _installed("redis-server", "redis-server")
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._session = Session("redis-server", command, log=self.home / "redis.log", env=dict(os.environ))
        wait_until(lambda: is_listening(self.port), what="redis-server to listen", watching=[self._session])

    def crash(self) -> None:
        """Kill the server (SIGKILL). All its data is lost."""
        self._session.kill()


def is_listening(port: int) -> bool:
    """Return whether something on loopback accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgresql(program: str) -> str:
    """Return the path of a program of the newest PostgreSQL. Debian does not put these programs on PATH."""
    installed = sorted(DEBIAN_POSTGRESQL.glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    return str(installed[-1]) if installed else _installed(program, "postgresql")


def _installed(program: str, package: str) -> str:
    """
    Return the path of a program.

    :raises FileNotFoundError: if it is not on PATH; the message names Debian's package.
    """
    if path := shutil.which(program):
        return path
    raise FileNotFoundError(f"{program} is not on PATH. Install it; on Debian: apt-get install {package}")
