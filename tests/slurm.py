"""A Slurm of one node for tests: munged, slurmctld and slurmd as root, with everything in a temporary directory.

apt-get install -y --no-install-recommends slurm-wlm munge
python -m tests.slurm python -m experiments.run hydra/launcher=submitit_slurm shards=2   # any command
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=256000 Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    if absent := [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=PATH) is None]:
        return f"{absent[0]} is not installed: apt-get install -y --no-install-recommends slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting Slurm needs root"


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ports=free_ports(2)))
    for gpu in range(2):  # so it is told: files stand in for them
        (folder / f"gpu{gpu}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    files = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: _idle(environment), folder)
        yield environment
    finally:
        _let_jobs_end(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _idle(environment: dict[str, str]) -> bool:
    said = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False)
    return said.stdout.split() == ["idle"]


def _let_jobs_end(environment: dict[str, str]) -> None:
    """Results are there a moment before their jobs are gone; what is left then is cancelled."""
    for cancel in (False, True):
        deadline = time.monotonic() + 15
        if cancel:
            subprocess.run(["scancel", "--full", "--user=root"], env=environment, capture_output=True, check=False)
        while time.monotonic() < deadline:
            left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=False)
            if left.returncode or not left.stdout.strip():
                return
            time.sleep(0.2)


def _wait(ready, folder: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not ready():
        if time.monotonic() > deadline:
            said = [f"{file.name}: {file.read_text(errors='replace')[-800:]}" for file in folder.glob("*.[lo][ou]*")]
            raise RuntimeError("\n".join(["Slurm did not start", *said]))
        time.sleep(0.1)


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    with cluster() as environment:
        sys.exit(subprocess.run(sys.argv[1:], env=environment, check=False).returncode)
