"""Options as typed values: a wrong one is a UserError that names it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from interp.errors import UserError

T = TypeVar("T")


def typed(kind: type[T], node: DictConfig, where: str) -> T:
    """The options of a group as a dataclass. A missing, unknown or ill-typed one is a UserError that names it."""
    path = f"{where}." if where else ""
    try:
        schema = OmegaConf.structured(kind)
        _make_writable(schema)  # frozen dataclasses make read-only nodes
        return cast(T, OmegaConf.to_object(OmegaConf.merge(schema, _plain(node, kind))))
    except MissingMandatoryValue as error:
        raise UserError(f"{path}{error.full_key} must be set") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}{error.full_key or where}: {str(error).splitlines()[0]}") from error


def choice(kind: Any, value: str, option: str) -> Any:
    """A member of an enum by its value, or a UserError that lists them."""
    try:
        return kind(value)
    except ValueError as error:
        raise UserError(f"{option}={value} is not known: use {', '.join(kind)}") from error


def _plain(node: DictConfig, kind: Any) -> dict[str, Any]:
    """The node's values; at the top of the configuration, only those that `kind` has."""
    values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    known = {f.name for f in fields(kind)} if node._get_parent() is None else values
    return {name: value for name, value in values.items() if name in known}


def _make_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _make_writable(node[key])
