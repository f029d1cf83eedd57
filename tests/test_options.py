"""Options: declared once, with defaults in conf/ alone; a wrong one ends in one line, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from experiments.base.arguments import choices
from experiments.base.data import ContrastOptions, DataOptions
from experiments.base.experiment import experiment
from experiments.base.options import By
from experiments.base.run_options import GradingOptions, ModelOptions, RunOptions, SamplingOptions
from experiments.base.session import Session
from interp.errors import UserError
from tests.command import ROOT, SMALLEST, run

EXPERIMENTS = list(choices("experiment"))
GROUPS = {"model": ModelOptions, "generation": SamplingOptions, "grading": GradingOptions}


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """The options that a model declares, by name; those of a group within it in a dictionary of their own."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        by = next((one.model for one in field.metadata if isinstance(one, By)), field.annotation)
        inner = isinstance(by, type) and issubclass(by, BaseModel)
        found[field.alias or name] = fields(by) if inner else None  # type: ignore[arg-type]
    return found


def spelt(node: Any, declared: dict[str, Any]) -> dict[str, Any]:
    """The same of a node of conf/."""
    return {
        name: spelt(value, declared[name]) if isinstance(declared.get(name), dict) else None
        for name, value in node.items_ex(resolve=False)
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_of_an_experiment_is_declared_and_spelt_out(name: str) -> None:
    cfg, model = config(f"experiment={name}"), experiment(name).options
    assert spelt(cfg.experiment, fields(model)) == fields(model)
    given_here = [field for field, info in model.model_fields.items() if not info.is_required()]
    assert given_here == [], "defaults stand in conf/"


def test_every_option_of_the_groups_is_declared_and_spelt_out() -> None:
    cfg = config()
    for group, model in GROUPS.items():
        assert spelt(cfg[group], fields(model)) == fields(model), group
    top = {name for name in cfg if name not in (*GROUPS, "experiment", "data", "study")}
    assert top == set(fields(RunOptions))
    contrast = config("data=contrast").data
    assert set(contrast) == set(fields(ContrastOptions))
    for name in choices("data"):
        if (data := config(f"data={name}").data).kind != "contrast":
            assert set(data) <= set(fields(DataOptions)), name


WRONG = [
    ("heads", "experiment.topk=3", "unknown option experiment.topk: did you mean experiment.top_k?"),
    ("heads", "+experiment.topk=3", "unknown option experiment.topk: did you mean experiment.top_k?"),
    ("heads", "experiment.haystack.length=[40]", "did you mean experiment.haystack.lengths?"),
    ("heads", "sed=3", "unknown option sed: did you mean seed?"),
    ("heads", "+sed=3", "unknown option sed: did you mean seed?"),
    ("heads", "model.prompt.instructions=x", "did you mean model.prompt.instruction?"),
    ("heads", "seed=null", "seed must not be null"),
    ("heads", "seed=-1", "seed=-1 must not be negative"),
    ("heads", "seed=4294967296", "seed=4294967296 must be less than 4294967296"),
    ("heads", "seed=true", "seed=true must be a valid integer"),
    ("heads", "threads=0", "threads=0 must be at least 1"),
    ("heads", "shards=0", "shards=0 must be at least 1"),
    ("heads", "shards=2.5", "shards=2.5 must be a valid integer"),
    ("heads", "threads=99999999", "threads=99999999 must be less than or equal to"),
    ("heads", "generation.batch=0", "generation.batch=0 must be at least 1"),
    ("heads", "generation.temperature=inf", "generation.temperature=inf must be a finite number"),
    ("heads", "generation.temperature=nan", "must be a finite number"),
    ("heads", "generation.temperature=-1", "must not be negative"),
    ("heads", "generation.top_p=0", "generation.top_p=0 must be greater than 0"),
    ("heads", "generation.top_p=1.5", "must be less than or equal to 1"),
    ("heads", "data.limit=0", "data.limit=0 must be at least 1"),
    ("heads", "data.limit=1000000000000000000", "must be less than or equal to 1000000"),
    ("heads", "data.limit=[1,2]", "data.limit=[1, 2] must be a valid integer"),
    ("heads", "experiment.layers=0-99999999999", "experiment.layers=0-99999999999 is not known"),
    ("heads", "experiment.layers=0-99999999", "layer 99999999 is out of range"),
    ("heads", "experiment.min_mass=2", "must be less than or equal to 1"),
    ("heads", "experiment.haystack=3", "experiment.haystack=3 must be a valid dictionary"),
    ("heads", "grading.seconds=0", "grading.seconds=0 must be greater than 0"),
    ("heads", "model.device=gpu", "model.device=gpu must match"),
    ("heads", "data=contrast", "only experiment=patching measures"),
    ("rhythm", "experiment.sinks=[]", "must have at least 1 item"),
    ("rhythm", "experiment.sinks=[kept,kept]", "must name each once"),
    ("rhythm", "experiment.horizon=[5,1]", "must be [H_lo, H_hi]"),
    ("rhythm", "experiment.layers=[]", "must have at least 1 item"),
    ("rhythm", "experiment.layers=null", "must not be null"),
    ("key_tokens", "experiment.paraphrase='{} {'", "must hold no braces but {}"),
    ("patching", "data.phrase='{x} {y}'", "must be 1, 2 or a text with {x}"),
    ("ablate", "experiment={doses:[],knockouts:[],each_head:false}", "nothing would be cut"),
    ("evaluate", "experiment.judge.url=ftp://x", "experiment.judge.url=ftp://x must match"),
    ("train_word_reasoner", "experiment.size.heads=5", "must be a multiple of twice heads=5"),
    ("train_reasoner", "experiment.learning_rate=0", "must be greater than 0"),
    ("train_reasoner", "experiment.decay_steps=6000", "must not be more than steps=5000"),
    ("credit", "experiment.train.limit=abc", "experiment.train.limit=abc must be a valid integer"),
    ("credit", "+experiment.test.lines=3", "unknown option experiment.test.lines: did you mean"),
    ("credit", "experiment.grpo.beta=abc", "experiment.grpo"),
    ("credit", "experiment.grpo.learning_rate=inf", "experiment.grpo.learning_rate=inf must be a finite number"),
    ("credit", "experiment.grpo.per_device_train_batch_size=0", "experiment.grpo"),
    ("credit", "experiment.grpo.num_generations=[]", "experiment.grpo.num_generations=[]"),
    ("credit", "experiment.grpo.lr_scheduler_type=up", "experiment.grpo"),
    ("credit", "+experiment.grpo.optim=magic", "experiment.grpo"),
    ("paper", "+experiment.options.heads.topk=3", "did you mean experiment.options.heads.top_k?"),
    ("paper", "+experiment.options.heads.top_k=many", "experiment.options.heads.top_k=many must be a valid integer"),
    ("paper", "+experiment.options.heads.layers=9", "experiment.options.heads: layers=9: layer 9 is out of range"),
    ("paper", "+experiment.options.head.top_k=1", "experiment.options"),
]


@pytest.mark.parametrize(("name", "wrong", "complaint"), WRONG, ids=[wrong for _, wrong, _ in WRONG])
def test_a_wrong_option_is_one_line_and_leaves_nothing(name: str, wrong: str, complaint: str, tmp_path: Path) -> None:
    model = "reasoner-early" if name == "credit" else "planted"
    done = run(f"experiment={name}", f"model={model}", wrong, cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    assert complaint in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*"))


def leaves(schema: dict[str, Any], whole: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Every option of a model's JSON schema by its dotted name."""
    schema = resolved(schema, whole)
    if "properties" not in schema:
        return {path: schema}
    found = {}
    for name, inner in schema["properties"].items():
        found |= leaves(inner, whole, f"{path}.{name}".lstrip("."))
    return found


def resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref") or next((one["$ref"] for one in schema.get("allOf", []) if "$ref" in one), None)
    return {**schema, **whole["$defs"][reference.rpartition("/")[2]]} if reference else schema


def edges(schema: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    """The least and largest values of an option's type, those just outside, and every member of an enum."""
    schema = resolved(schema, whole)
    found: list[Any] = [value for one in schema.get("anyOf", []) for value in edges(one, whole)]
    found += schema.get("enum", [])
    for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if bound in schema:
            found += [schema[bound], schema[bound] - 1, schema[bound] + 1]
    if "items" in schema:
        inside = edges(schema["items"], whole)
        found += [[], inside, *([value] for value in inside)]
    return found


NASTY = [
    *(None, True, False, -1, 0, 1, 2, 0.5, -0.5, 10**18, -(10**30), 2**32, 1e308, float("inf"), float("nan"), 10**400),
    *(
        "",
        "abc",
        "3",
        "all",
        "0-99999999999",
        "1+1",
        "five",
        "-1",
        "\0",
        "\ud800",
        "{}",
        "${x}",
        "$x$",
        "[/red]",
        "???",
    ),
    *([], [None], [1], [-1], ["abc"], [[1]], [0.5, 0.1], [10, 100], {}, {"a": 1}, {"a": {"b": None}}),
]


def possible(name: str) -> dict[str, list[Any]]:
    """Every option that a command with this experiment takes, each with its edges."""
    cfg = config(f"experiment={name}")
    data = ContrastOptions if cfg.data.kind == "contrast" else DataOptions
    groups = {"experiment": experiment(name).options, "": RunOptions, "data": data, **GROUPS}
    found = {}
    for group, model in groups.items():
        whole = model.model_json_schema()
        for path, schema in leaves(whole, whole).items():
            found[f"{group}.{path}".lstrip(".")] = edges(schema, whole)
    return found


POSSIBLE = {name: possible(name) for name in EXPERIMENTS}
BARE = {name: config(f"experiment={name}") for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
@settings(max_examples=100, deadline=2000, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_options_are_valid_or_refused_in_one_line(name: str, data: st.DataObject) -> None:
    cfg = BARE[name].copy()
    OmegaConf.set_struct(cfg, False)
    for option in data.draw(st.lists(st.sampled_from(sorted(POSSIBLE[name])), min_size=1, max_size=3)):
        value = data.draw(st.sampled_from([*POSSIBLE[name][option], *NASTY]))
        OmegaConf.update(cfg, option, value, merge=False, force_add=True)
    session = Session(cfg, Path("nowhere"))
    try:
        session.check_options(experiment(name).options)
        complaint = None
    except UserError as error:
        complaint = str(error)
    assert complaint is None or len(complaint.splitlines()) == 1
    if complaint is None:
        assert session.generation.batch >= 1
        assert session.seed >= 0
    assert not Path("nowhere").exists()


RUNNING = [name for name in EXPERIMENTS if name in SMALLEST and name not in ("credit", "paper")]


def least(name: str) -> list[str]:
    """Every option of an experiment that may be 0 or empty, at that."""
    chosen = []
    for option, values in POSSIBLE[name].items():
        for value in [one for one in (0, []) if one in values and option.startswith("experiment.")]:
            cfg = BARE[name].copy()
            OmegaConf.update(cfg, option, value, merge=False)
            try:
                Session(cfg, Path("nowhere")).check_options(experiment(name).options)
            except UserError:
                continue
            chosen.append(f"{option}={value}")
    return chosen


@pytest.mark.parametrize("name", RUNNING)
def test_every_option_at_its_least(name: str, tmp_path: Path) -> None:
    """Options that are valid one by one end in a run, or in one line that says why not."""
    options = least(name)
    done = run(f"experiment={name}", "model=planted", *SMALLEST[name], *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode in (0, 2), done.stderr
    assert done.stderr.count("error: ") == (done.returncode == 2)
    assert (tmp_path / "run").exists() == (done.returncode == 0)
