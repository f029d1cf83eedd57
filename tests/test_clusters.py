"""Real engines: a Ray cluster of two nodes, joined by address, and a Slurm; the commands are those of the README."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import slurm
from tests.command import NO_PROBES, ROOT, ok
from tests.test_shards import equal

pytestmark = pytest.mark.timeout(900)  # a dozen processes, each of which imports everything

SMALL = ["experiment=heads", "data.limit=6", "generation.batch=2", *NO_PROBES]
SMALL += [f"experiment.{option}" for option in ("resamples=20", "random_sets=3", "unrelated=false")]
SMALL += ["progress=false", "threads=1", "figures=false"]
SWEEP = ["-m", "model=planted,reasoner"]


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models by one process each."""
    directory = tmp_path_factory.mktemp("serial") / "sweep"
    ok(*SWEEP, *SMALL, f"hydra.sweep.dir={directory}")
    return directory


def documented(name: str) -> list[str]:
    """The options by which the README runs something on a cluster, but for what to measure and where: of the command
    behind the line `# NAME`."""
    command = re.search(rf"^# {name}.*\n((?:.*\\\n)*.*)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command, name
    words = command[1].replace("\\\n", " ").split()
    return [word for word in words if word.lstrip("+").startswith(("hydra/", "hydra.launcher."))]


def command(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def wait_for(file: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while words not in file.read_text():
        assert process.poll() is None, file.read_text()
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster of two nodes of one CPU and, they are told, one GPU; the environment of its commands."""
    if find_spec("ray") is None or find_spec("hydra_plugins") is None:
        pytest.skip("ray is not installed: pip install 'anchorlens[ray]'")
    port, client = slurm.free_ports(2)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",  # they would starve beside the other tests
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    small = ["--num-cpus=1", "--num-gpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1", "--block"]
    small.append("--disable-usage-stats")
    ports = [f"--port={port}", f"--ray-client-server-port={client}"]
    head = [ray, "start", "--head", *ports, "--include-dashboard=false", *small]
    node = [ray, "start", f"--address=127.0.0.1:{port}", *small]
    folder = tmp_path_factory.mktemp("ray")
    nodes = []
    try:
        for name, line in (("head", head), ("node", node)):
            with (folder / name).open("wb") as out:
                nodes.append(subprocess.Popen(line, env=environment, stdout=out, stderr=out, start_new_session=True))
            wait_for(folder / name, "Ray runtime started", nodes[-1])
        yield f"127.0.0.1:{port}", environment
    finally:
        for one in reversed(nodes):
            one.terminate()
            one.wait(30)


def test_ray_by_address(serial: Path, ray_cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = ray_cluster
    launcher = [word.replace("head-node:6379", address) for word in documented("Ray")]
    assert f"hydra.launcher.ray.init.address={address}" in launcher
    command(environment, *launcher, *SMALL, "model=reasoner", "shards=2", f"hydra.run.dir={tmp_path / 'shards'}")
    equal(serial / "1-heads-reasoner", tmp_path / "shards")
    command(environment, *SWEEP, *launcher, *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    for job in ("0-heads-planted", "1-heads-reasoner"):
        equal(serial / job, tmp_path / "sweep" / job)


def test_slurm(serial: Path, tmp_path: Path) -> None:
    if why := slurm.missing():
        pytest.skip(why)
    if find_spec("submitit") is None or find_spec("hydra_plugins") is None:
        pytest.skip("submitit is not installed: pip install 'anchorlens[slurm]'")
    launcher = documented("Slurm")
    with slurm.cluster() as environment:
        command(environment, *launcher, *SMALL, "model=reasoner", "shards=2", f"hydra.run.dir={tmp_path / 'shards'}")
        equal(serial / "1-heads-reasoner", tmp_path / "shards")
        command(environment, *SWEEP, *launcher, *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}")
        for job in ("0-heads-planted", "1-heads-reasoner"):
            equal(serial / job, tmp_path / "sweep" / job)
