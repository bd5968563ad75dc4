"""Where the points run: processes of this machine, a Dask cluster, or whatever the caller brings."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from archsim.errors import InputError

__all__ = ["cores", "dask", "local"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ignore_interrupts() -> None:
    """Ctrl-C is for the driver, which then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def local(workers: int) -> Callable[[], Executor]:
    """A pool of processes. They are spawned, not forked: a fork copies threads' locks in whatever state they are."""
    return lambda: ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )


def dask(address: str) -> tuple[Callable[[], Executor], int]:
    """The executor of an existing Dask cluster at `address` (``tcp://host:8786``), and its number of threads."""
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise InputError("--executor dask needs Dask: pip install 'archsim[explore]'") from None
    try:
        _knock(address)
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"--address {address}: no Dask scheduler answers there ({error})") from None
    threads: int = sum(client.nthreads().values())
    return lambda: client.get_executor(pure=False, retries=2), threads


def _knock(address: str) -> None:
    """OSError at once where nothing listens at a TCP address; Dask itself would go on trying."""
    place = urlsplit(address)
    if place.scheme in ("tcp", "tls") and place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
