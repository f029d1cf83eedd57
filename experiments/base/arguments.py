"""What can be said of a command line before anything is loaded: group names, option names, the directory of a sweep."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.base.sweeps import BY_HYDRA
from interp.errors import UserError, nearest

_HERE = Path(__file__).resolve().parent
CONF = next(conf for conf in (_HERE.parent / "conf", _HERE.parents[1] / "conf") if conf.is_dir())
"""The configuration: inside the installed package, or at the top of the repository."""
GROUPS = ("experiment", "model", "data", "generation", "study")
NOT_A_CHOICE = {"base"}


def choices(group: str, more: Sequence[Path] = ()) -> dict[str, str]:
    """The names of a config group, each with the first comment line of its file; also those of `more` directories."""
    files = [file for conf in (CONF, *more) for file in sorted((conf / group).glob("*.yaml"))]
    return {f.stem: _about(f) for f in files if f.stem not in NOT_A_CHOICE}


def searched_directories() -> list[Path]:
    """Where the running job's configuration comes from, directories of one's own included."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.schema == "file"]


def _about(file: Path) -> str:
    """The first line that is not for Hydra."""
    return next((line.lstrip("# ") for line in file.read_text().splitlines() if not line.startswith("# @")), "")


def check_arguments(arguments: list[str]) -> None:
    """Raises UserError for a group choice that has no file, a number that the experiment takes from elsewhere, or a
    sweep into a directory that is not empty."""
    strange = [one for one in get_args_parser().parse_known_args(arguments)[1] if one.startswith("-")]
    if strange:
        raise UserError(f"there is no flag {strange[0]}: options are given as key=value; --help shows them")
    overrides = _overrides(arguments)
    more = _search_path(arguments, overrides)
    for override in overrides:
        if override.key_or_group in GROUPS:
            known = choices(override.key_or_group, more)
            for name in _values(override):
                if name not in known:
                    raise UserError(f"unknown {override.key_or_group} {name!r}; {nearest(name, known)}")
    given = {override.key_or_group: override for override in overrides}
    if "data.limit" in given and "experiment" in given and "paper" in _values(given["experiment"]):
        raise UserError("data.limit is not read by a report: set experiment.questions, experiment.traces or .pairs")
    sweeps = {"-m", "--multirun"} & set(arguments) or ("study" in given and _values(given["study"]) != ["none"])
    if sweeps and "hydra.run.dir" in given and "hydra.mode" not in given:
        raise UserError("hydra.run.dir is the directory of one run: set hydra.sweep.dir for a sweep")
    if "hydra.sweep.dir" in given:
        _check_sweep(arguments, overrides)


def unknown_option(complaint: str, arguments: list[str]) -> str | None:
    """What Hydra's complaint about an option that does not exist should say: the names that come closest."""
    found = re.search(r"Could not override '([^']+)'", complaint)
    if not found:
        return None
    unknown = _of_value(found[1], arguments) or found[1]
    known = _known_names(arguments)
    return f"unknown option {unknown}: {nearest_option(unknown, known)}"


def _known_names(arguments: list[str]) -> list[str]:
    return list(_names(_compose([o for o in _overrides(arguments) if o.key_or_group in GROUPS], hydra=False)))


def _of_value(option: str, arguments: list[str]) -> str | None:
    """The first unknown option inside a value such as {seed: 0, limt: 5} that was given for a known one, which Hydra
    complains of by the name of the whole."""
    known = _known_names(arguments)
    given = next((one.value() for one in _overrides(arguments) if one.key_or_group == option), None)
    if option not in known or not isinstance(given, dict):
        return None
    inside = (f"{option}.{name}" for name in _names(OmegaConf.create(given)))
    return next((name for name in inside if name not in known), None)


def nearest_option(unknown: str, known: list[str]) -> str:
    """The known options closest to an unknown one: in its own group if there is one, else those of its last name."""
    group, _, name = unknown.rpartition(".")
    beside = [option.rpartition(".")[2] for option in known if option.rpartition(".")[0] == group]
    if close := difflib.get_close_matches(name, beside, n=1, cutoff=0.5):
        return f"did you mean {'.'.join(filter(None, (group, *close)))}?"
    elsewhere = [option for option in known if option.rpartition(".")[2] == name]
    return nearest(unknown, elsewhere or (known if not beside else [f"{group}.{one}".lstrip(".") for one in beside]))


def own_directories(arguments: list[str]) -> list[Path]:
    """The directories of configuration of one's own that a command line names, even one that Hydra cannot read."""
    try:
        overrides = _overrides(arguments)
    except HydraException:
        overrides = []
    return _search_path(arguments, overrides)


def _search_path(arguments: list[str], overrides: list[Override]) -> list[Path]:
    """The user's own directories of configuration: `--config-dir`, and `hydra.searchpath` where it names files."""
    directory = get_args_parser().parse_known_args(arguments)[0].config_dir
    named = [one.value() for one in overrides if one.key_or_group == "hydra.searchpath"]
    paths = [str(path) for value in named for path in (value if isinstance(value, list) else [value])]
    files = [path.removeprefix("file://") for path in paths if path.startswith("file://")]
    return [Path(path).expanduser() for path in ([directory] if directory else []) + files]


def _overrides(arguments: list[str]) -> list[Override]:
    """The arguments as Hydra reads them."""
    given = get_args_parser().parse_known_args(arguments)[0].overrides
    return OverridesParser.create().parse_overrides(given)


def _values(override: Override) -> list[str]:
    """The names that a group is set to; those of a sweep one by one; none for what only Hydra can tell."""
    value = override.value()
    if override.is_sweep_override():
        return [str(one) for one in override.sweep_string_iterator()] if override.is_choice_sweep() else []
    return [value] if isinstance(value, str) and "$" not in value else []


def _compose(overrides: list[Override], *, hydra: bool) -> Any:
    single = [override.input_line for override in overrides if not override.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [str(line) for line in single], return_hydra_config=hydra)


def _names(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items_ex(resolve=False):
        yield f"{prefix}{name}"
        if OmegaConf.is_dict(value) and not value._is_interpolation():
            yield from _names(value, f"{prefix}{name}.")


def _check_sweep(arguments: list[str], overrides: list[Override]) -> None:
    try:
        cfg = _compose(overrides, hydra=True)
        directory = Path(str(OmegaConf.select(cfg, "hydra.sweep.dir")))
    except (HydraException, OmegaConfBaseException):
        return  # Hydra says it, with the whole command line at hand
    sweeps = {"-m", "--multirun"} & set(arguments) or str(cfg.hydra.mode).endswith("MULTIRUN")
    if not (sweeps and directory.is_dir() and any(directory.iterdir())):
        return
    begun = (directory / BY_HYDRA).is_file()
    if not (begun and OmegaConf.select(cfg, "go_on")):
        more = " or add go_on=true" if begun else ""
        raise UserError(f"{directory} is not empty: choose another hydra.sweep.dir for the sweep{more}")
