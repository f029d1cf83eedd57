"""A finished run as a Hugging Face data set: its tables, and a card with the command, versions and numbers."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from experiments.base.experiment import Experiment
from experiments.base.options import Options, Text
from experiments.base.plan import Plan
from experiments.base.session import Session
from interp.errors import UserError
from interp.runs.about import About
from interp.runs.directory import DATA_SET, ENVIRONMENT, SUMMARY
from interp.runs.findings import Findings
from interp.runs.finished import finished_run, measured_by
from interp.runs.store import read_json
from interp.runs.verdicts import UNITS
from interp.stats import ComparedBy
from interp.text.numbers import difference_text, three_digits, with_interval

log = logging.getLogger(__name__)


def _hub_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError("must be OWNER/NAME")
    return name


class ExportOptions(Options):
    """conf/experiment/export.yaml"""

    name: Text
    hub: Annotated[Text, AfterValidator(_hub_name)] | None
    private: bool


@dataclass(frozen=True)
class ExportFacts:
    """Which run was exported, where to, and its tables."""

    exported: str
    folder: str
    tables: list[str]


def export(session: Session, options: ExportOptions) -> None:
    """Copies the tables into a folder of the run's own, writes the card, and uploads it if asked."""
    source, folder = _source(session), session.own_folder(DATA_SET)
    tables = _tables(source)
    for name in tables:
        (folder / name).mkdir(exist_ok=True)
        shutil.copyfile(source / f"{name}.parquet", folder / name / "run-00000-of-00001.parquet")
    for name in (SUMMARY, ENVIRONMENT):
        shutil.copyfile(source / name, folder / name)
    (folder / "README.md").write_text(card(source, tables), encoding="utf-8")
    if options.hub is not None:
        _upload(folder, options.hub, options.private)


def card(source: Path, tables: list[str]) -> str:
    """The data set's README.md: its configurations for the hub, then how the run was made and what it found."""
    environment, summary = read_json(source / ENVIRONMENT), read_json(source / SUMMARY)
    configs = [{"config_name": name, "data_files": [{"split": "run", "path": f"{name}/*.parquet"}]} for name in tables]
    head = yaml.safe_dump({"configs": configs, "tags": ["interpretability", "anchorlens"]}, sort_keys=False)
    model, data = measured_by(environment)
    lines = [
        f"# {environment['options']['experiment']['name']} on {model}, data {data}",
        "",
        "Made by",
        "",
        "```",
        environment["command"],
        "```",
        "",
        f"with seed {environment['seed']}, commit {environment['git_commit']}, "
        + ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
        + ".",
        "",
        "| number | value | 95 % interval | n | control | difference | p |",
        "|---|---|---|---|---|---|---|",
        *(_row(headline) for headline in summary["headlines"]),
        "",
        'Every table is a configuration: `datasets.load_dataset(PATH, "heads", split="run")`.',
    ]
    return f"---\n{head}---\n" + "\n".join(lines) + "\n"


def _row(headline: dict[str, Any]) -> str:
    control, compared = headline["control"], headline.get("comparison")
    interval = "" if headline["low"] is None else f"{three_digits(headline['low'])} to {three_digits(headline['high'])}"
    cells = [headline["name"], three_digits(headline["value"]), interval, str(headline["n"]), "", "", ""]
    if control:
        cells[4] = f"{control['kind']}: {with_interval(control['value'], control['low'], control['high'])}"
    if compared and compared["value"] is not None:
        over = UNITS[ComparedBy(compared["test"])].format(n=compared["n"])
        cells[5] = f"{difference_text(compared['value'], compared['low'], compared['high'])}, {over}"
        cells[6] = "" if compared["p"] is None else f"{compared['p']:.2g}"
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _upload(folder: Path, name: str, private: bool) -> None:
    from huggingface_hub import HfApi  # only where something is uploaded

    try:
        api = HfApi()
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), repo_type="dataset", ignore_patterns=[".run"])
    except Exception as error:  # offline, no login, no right to write: its errors have no common class
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"cannot upload to {name}: {first}; the data set lies in {folder}") from error
    log.info("uploaded to https://huggingface.co/datasets/%s", name)


def _tables(source: Path) -> list[str]:
    return sorted(file.stem for file in source.glob("*.parquet"))


def _source(session: Session) -> Path:
    """The finished run."""
    source = finished_run(session.cfg.run)
    if not _tables(source):
        raise UserError(f"{source} has no tables: a run of several parts is exported part by part")
    return source


def tell(session: Session, options: ExportOptions) -> Findings[ExportFacts]:
    """Where the data set lies."""
    source, folder = _source(session), session.directory / DATA_SET
    lines = [f"data set: {folder}", f"tables:   {', '.join(_tables(source))}"]
    return Findings([], ExportFacts(str(source), str(folder), _tables(source)), lines, f"export of {source}")


def plan(session: Session, options: ExportOptions) -> Plan:
    """No model is needed."""
    return Plan(0, 0, 0, 0, 5.0, f"nothing: the tables of {_source(session)} are copied")


EXPERIMENT = Experiment(
    reads="run",
    options=ExportOptions,
    about=About(
        title="How are a run's tables handed on?",
        question="A finished run becomes a data set that `datasets` loads, on disk or on the hub.",
        source="both papers",
    ),
    unit=None,
    splits=False,
    needs_data=False,
    needs_model=lambda _: False,
    comparable=False,
    check=lambda session, _: _source(session),
    analyse=export,
    findings=tell,
    facts=ExportFacts,
    plan=plan,
)
