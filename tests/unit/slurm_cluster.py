"""A real Slurm of one node on this machine, without systemd: munged, slurmctld and slurmd started by hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")


def missing() -> str:
    """Why no Slurm can run here; empty where one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons are started by root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(absent)} not installed (Debian, Ubuntu: apt install slurm-wlm munge)" if absent else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run the daemons while the block lasts; SLURM_CONF points to them."""
    host = socket.gethostname().partition(".")[0]
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge_socket = folder / "munge.socket"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config.write_text(
        f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        f"SlurmctldPort={_free_port()}\nSlurmdPort={_free_port()}\n"
        f"AuthType=auth/munge\nAuthInfo=socket={munge_socket}\nCredType=cred/munge\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n"
        f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/d.pid\n"
        f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/d.log\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
        "SelectTypeParameters=CR_CPU\nJobAcctGatherType=jobacct_gather/none\nMpiDefault=none\nReturnToService=2\n"
        f"SchedulerParameters=batch_sched_delay=1,sched_interval=1\n"
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=4000 State=UNKNOWN\n"
        f"PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    )
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(config)
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge_socket}",
             f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed", "--log-file", f"{folder}/munge.log"],
            ["slurmctld", "-D", "-f", str(config)],
            ["slurmd", "-D", "-f", str(config)],
        ):  # fmt: skip
            log = (folder / f"{command[0]}.out").open("wb")
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
        _wait_for_node(folder)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _wait_for_node(folder: Path) -> None:
    for _ in range(120):
        answer = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if "idle" in answer.stdout:
            return
        time.sleep(0.5)
    logs = "\n".join(f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in sorted(folder.glob("*.out")))
    raise RuntimeError(f"the node of the test's Slurm did not come up: {answer.stdout}{answer.stderr}\n{logs}")
