"""All runs below a folder on one page: what each was about, its first number, and a link to its report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from interp.runs.directory import DATA_SET, ENVIRONMENT, SHARES, SUMMARY
from interp.runs.finished import experiment_of, measured_by
from interp.runs.report import environment, lead_of, sentence
from interp.runs.store import read_json


@dataclass(frozen=True)
class Listed:
    """A finished run."""

    name: str
    experiment: str
    model: str
    data: str
    seed: int
    sentence: Markup
    """Its first headline number that has a control, in words."""
    page: str | None
    """Its report, or the first page or picture among its figures, relative to the index."""


def runs_below(folder: Path) -> list[Path]:
    """The directories of all runs below a folder, parts of a report included."""
    found = (file.parent for file in folder.rglob(ENVIRONMENT))
    return sorted(one for one in found if not _of_worker(one) and not _exported(one))


def _of_worker(directory: Path) -> bool:
    shares = directory.parent
    return shares.name == SHARES and (shares.parent / ENVIRONMENT).is_file()


def _exported(directory: Path) -> bool:
    """Whether it is a data set that `experiment=export` made of another run."""
    maker = directory.parent / ENVIRONMENT
    return directory.name == DATA_SET and maker.is_file() and experiment_of(read_json(maker)) == "export"


def index_page(folder: Path, runs: Sequence[Path], directory: Path) -> str:
    """The HTML of a page that will stand in `directory`, for runs below `folder`."""
    finished = [run for run in runs if (run / SUMMARY).is_file()]
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            runs=[_listed(folder, run, directory) for run in finished],
            unfinished=[str(run.relative_to(folder)) for run in runs if run not in finished],
        )
    )


def _listed(folder: Path, run: Path, directory: Path) -> Listed:
    made = read_json(run / ENVIRONMENT)
    headlines = read_json(run / SUMMARY)["headlines"]
    experiment, (model, data) = experiment_of(made), measured_by(made)
    told = Markup(sentence(lead_of(headlines))) if headlines else Markup("")
    name, seed = str(run.relative_to(folder)), int(made["options"]["seed"])
    return Listed(name, experiment, model, data, seed, told, _page(run, directory))


def _page(run: Path, directory: Path) -> str | None:
    pages = [run / "report.html", *sorted(run.glob("figures/*.html")), *sorted(run.glob("figures/*.png"))]
    found = next((page for page in pages if page.is_file()), None)
    return None if found is None else quote(os.path.relpath(found, directory))
