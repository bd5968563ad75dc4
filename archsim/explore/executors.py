"""Where the points run: processes of this machine, a Dask cluster, a batch system, or whatever the caller brings."""

from __future__ import annotations

import builtins
import importlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from archsim.errors import InputError

__all__ = ["QUEUES", "cores", "dask", "local", "queued", "started"]

#: batch systems and the classes of dask-jobqueue that speak to them
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ignore_interrupts() -> None:
    """Ctrl-C is for the driver, which then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _follow_driver() -> None:
    """End with the driver, however that ends: a worker that waits for work would not notice that it was killed."""
    _ignore_interrupts()
    driver = multiprocessing.parent_process()

    def watch() -> None:
        if driver is not None:
            driver.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def local(workers: int) -> Callable[[], Executor]:
    """A pool of processes. They are spawned, not forked: a fork copies threads' locks in whatever state they are.

    In a notebook it is loky's, where that is installed: it needs no main module to start again from.
    """
    if _in_notebook():
        try:
            loky: Any = importlib.import_module("loky")
        except ImportError:
            pass
        else:
            return lambda: loky.ProcessPoolExecutor(workers, initializer=_ignore_interrupts)
    return lambda: ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_driver
    )


def started(pool: Executor) -> Executor:
    """The executor, once a worker of it has answered.

    Raises
    ------
    InputError
        where its workers die as they start, which no point is to blame for.
    """
    try:
        pool.submit(os.getpid).result()
    except BrokenExecutor:
        pool.shutdown()  # and wait: an interpreter that ends meanwhile may write to a pipe that the pool closes
        raise InputError(
            "the sweep's worker processes die as they start: a script must call run_sweep under "
            '`if __name__ == "__main__":`, because every worker imports it'
        ) from None
    return pool


def _in_notebook() -> bool:
    return hasattr(builtins, "__IPYTHON__")


def dask(address: str) -> tuple[Callable[[], Executor], int]:
    """The executor of an existing Dask cluster at `address` (``tcp://host:8786``), and its number of threads."""
    distributed = _import("distributed", "--executor dask needs Dask: pip install 'archsim[explore]'")
    try:
        _knock(address)
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"--address {address}: no Dask scheduler answers there ({error})") from None
    threads: int = sum(client.nthreads().values())
    return lambda: client.get_executor(pure=False, retries=2), threads


def queued(system: str, jobs: int, workers: int, options: Sequence[str] = ()) -> tuple[Callable[[], Executor], int]:
    """Dask workers that are `jobs` jobs of a batch system, each of `workers` processes; and the number of processes.

    system: a key of `QUEUES`. options: lines of the job's header, such as ``--partition=cpu``; everything else comes
    from dask-jobqueue's own configuration (``~/.config/dask/jobqueue.yaml``). The jobs end with this process.
    """
    distributed = _import("distributed", "--executor dask needs Dask: pip install 'archsim[explore]'")
    needs = "--queue needs dask-jobqueue: pip install dask-jobqueue"
    make = getattr(_import("dask_jobqueue", needs), QUEUES[system])
    memory = _import("dask", needs).config.get(f"jobqueue.{system}.memory", None) or f"{2 * workers} GB"
    cluster = make(cores=workers, processes=workers, memory=memory, job_extra_directives=list(options))
    cluster.scale(jobs=jobs)
    client = distributed.Client(cluster)
    return lambda: client.get_executor(pure=False, retries=2), jobs * workers


def _import(name: str, otherwise: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(otherwise) from None


def _knock(address: str) -> None:
    """OSError at once where nothing listens at a TCP address; Dask itself would go on trying."""
    place = urlsplit(address)
    if place.scheme in ("tcp", "tls") and place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
