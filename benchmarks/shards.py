"""One run by one process against the same run split over workers: seconds, CPU seconds, and whether tables are equal.

    python -m benchmarks.shards                                       # heads on reasoner, 128 questions, 2 workers
    python -m benchmarks.shards --workers 2 4 --options experiment=perturb model=reasoner data.limit=16

Every run is a command of its own, so that the seconds hold all that a user waits for: the workers' imports, their
loading of the model and the gathering too. With --repeats the ways take turns and the medians are printed. Each worker
has one CPU thread: more workers than cores show what splitting costs and gain nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = ["experiment=heads", "model=reasoner", "data.limit=128", "generation.batch=8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--options", nargs="+", default=OPTIONS)
    options = parser.parse_args()
    ways = [1, *options.workers]
    taken: dict[int, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            for way in ways:
                directory = Path(folder) / f"{way}-{repeat}"
                taken[way].append(timed(options.options, way, directory))
                check_equal(Path(folder) / "1-0", directory)
    medians = {way: [statistics.median(column) for column in zip(*taken[way], strict=True)] for way in ways}
    print(f"{' '.join(options.options)}, {os.cpu_count()} cores, {options.repeats} runs each; all tables are equal")
    print("| workers | seconds | one process / this | CPU seconds | this / one process |")
    print("|---|---|---|---|---|")
    for way in ways:
        (seconds, cpu), (alone, cpu_alone) = medians[way], medians[1]
        name = way if way > 1 else "one process"
        print(f"| {name} | {seconds:.1f} | {alone / seconds:.2f} | {cpu:.1f} | {cpu / cpu_alone:.2f} |")


def timed(options: list[str], shards: int, directory: Path) -> tuple[float, float]:
    """Seconds of a whole command, and CPU seconds of all its processes."""
    more = [f"shards={shards}", "threads=1", "figures=false", "progress=false", f"hydra.run.dir={directory}"]
    command = [sys.executable, "-m", "experiments.run", *options, *more]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check_equal(one: Path, other: Path) -> None:
    """Ends the program unless all tables of two runs are the same bytes."""
    for file in sorted(one.rglob("*.parquet")):
        if file.read_bytes() != (other / file.relative_to(one)).read_bytes():
            sys.exit(f"{file.relative_to(one)} differs between {one} and {other}")


if __name__ == "__main__":
    main()
