"""A StatsD server: it listens on a UDP socket of this machine, and keeps what arrives."""

from __future__ import annotations

import socket
import threading
from collections import Counter, defaultdict
from typing import Self

from tests.patience import PATIENCE

END = b"end of the test"


class StatsdListener:
    """Keep all datagrams that arrive, in order. Use it as a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._lines: list[str] = []
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._send(b"")
        self._thread.join()
        self._socket.close()

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that make an Airflow send its metrics here."""
        values = {"STATSD_ON": "True", "STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(self.port)}
        return {f"AIRFLOW__METRICS__{name}": value for name, value in values.items()}

    def all_lines(self) -> list[str]:
        """Return all metrics so far, as ``name:value|type``, Airflow's own too."""
        self._caught_up.clear()
        self._send(END)  # it arrives after what was sent before it
        assert self._caught_up.wait(PATIENCE)
        return list(self._lines)

    def lines(self) -> list[str]:
        """Return all metrics of this package so far, as ``name:value|type`` without the prefix ``airflow.``."""
        lines = (line.removeprefix("airflow.") for line in self.all_lines())
        return [line for line in lines if line.startswith("rtisms.")]

    def counts(self) -> dict[str, int]:
        """Return the sum of each counter, and how often each timer was reported, by name."""
        counts: Counter[str] = Counter()
        for name, value, kind in map(_parse, self.lines()):
            if kind != "g":
                counts[name] += int(value) if kind == "c" else 1
        return dict(counts)

    def gauges(self) -> dict[str, list[float]]:
        """Return the values of each gauge, by name, in the order in which they arrived."""
        return self._values("g")

    def timers(self) -> dict[str, list[float]]:
        """Return the values of each timer (milliseconds), by name."""
        return self._values("ms")

    def _values(self, wanted: str) -> dict[str, list[float]]:
        values: defaultdict[str, list[float]] = defaultdict(list)
        for name, value, kind in map(_parse, self.lines()):
            if kind == wanted:
                values[name].append(float(value))
        return dict(values)

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, ("127.0.0.1", self.port))

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            if data == END:
                self._caught_up.set()
            else:
                self._lines += data.decode().splitlines()


def _parse(line: str) -> tuple[str, str, str]:
    name, _, rest = line.partition(":")
    value, _, kind = rest.partition("|")
    return name, value, kind
