"""Two devices that are not there: tensors that say where they lie, hold real values, and refuse to mix.

What a model spread over GPUs demands of a measure (every operand on one device) can so be checked on a CPU. As on real
devices, numbers of no dimension and indices may lie on the CPU, and copies go from anywhere to anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

KIND = "meta"
"""The only kind of device of which PyTorch allows any number on a CPU; here its tensors have values after all."""

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
CPU = torch.device("cpu")


class Placed(Tensor):
    """A tensor that lies on a device by its own account, and whose values are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> Placed:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=device
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"{self.values} on {self.device}"

    def tolist(self) -> Any:
        return self.values.tolist()

    def item(self) -> Any:
        return self.values.item()

    __float__, __int__, __bool__, __index__ = (
        lambda self: float(self.values.item()),
        lambda self: int(self.values.item()),
        lambda self: bool(self.values.item()),
        lambda self: int(self.values.item()),
    )


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the values, with the result on its device. Raises RuntimeError where operands lie on two."""
    name = function.overloadpacket.__name__
    asked = kwargs.get("device")
    wanted = None if asked is None else torch.device(asked)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if any(t.device.type == KIND and not isinstance(t, Placed) for t in tensors):
        raise AssertionError(f"{function} has an operand without values")
    operands = [t for t in tensors if t is args[0] or t.device.type == KIND] if name in INDEXED else tensors
    places = {t.device for t in operands if t.ndim > 0 or t.device.type == KIND}
    if wanted is not None and name != "_to_copy":
        places.add(wanted)
    if len(places) > 1 and name not in ("copy_", "_to_copy"):
        raise RuntimeError(f"{function} has operands on {sorted(map(str, places))}")
    place = wanted or (operands[0].device if name == "copy_" else max(places, key=str, default=CPU))
    kwargs_here = kwargs if wanted is None else {**kwargs, "device": CPU}
    if name == "histc":
        args = (args[0].float(), *args[1:])  # of whole numbers on GPUs alone
    plain = tree_map(lambda t: t.values if isinstance(t, Placed) else t, (args, kwargs_here))
    found = function(*plain[0], **plain[1])
    if place.type != KIND:
        return found
    found = tree_map(lambda t: Placed(t, place) if isinstance(t, Tensor) else t, found)
    return return_and_correct_aliasing(function, args, kwargs, found)


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Constants(TorchFunctionMode):
    """`torch.tensor` and its like do not ask a mode where they put what they make."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        if function is Tensor.new_tensor and args[0].device.type == KIND:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(args[0].device)
        if function in (Tensor.__getitem__, Tensor.__setitem__):  # lists become tensors where no mode sees it
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in index), *args[2:])
        return function(*args, **kwargs)


@contextmanager
def two_devices(model: PreTrainedModel) -> Iterator[None]:
    """The second half of the layers and what comes behind them on a second device, all else on the first, as accelerate
    lays a model out: what a part is given is moved to where it lies, and what the model gives to where its input was.
    While open, no other model can be used."""
    first, second = torch.device(KIND, 0), torch.device(KIND, 1)
    layers = next(m for m in model.get_decoder().modules() if isinstance(m, nn.ModuleList))
    own = {id(module) for layer in layers for module in layer.modules()}
    behind = [m for m in model.modules() if not list(m.children()) and id(m) not in own and m is not first_of(model)]
    with Operations(), Constants():
        for part in [*list(layers)[len(layers) // 2 :], *(m for m in behind if not rotary(m))]:
            _place(part, second)
        for part in [*list(layers)[: len(layers) // 2], model.get_input_embeddings(), *filter(rotary, behind)]:
            _place(part, first)
        model.register_forward_pre_hook(_moved_to(first), with_kwargs=True)
        model.register_forward_hook(lambda _module, _args, out: tree_map(_mover(first), out))
        yield


def first_of(model: PreTrainedModel) -> nn.Module:
    return model.get_input_embeddings()


def rotary(module: nn.Module) -> bool:
    return "rotary" in type(module).__name__.lower()


def _place(part: nn.Module, device: torch.device) -> None:
    for tensors in [t for module in part.modules() for t in (module._parameters, module._buffers)]:
        for name, tensor in tensors.items():
            if tensor is not None and not isinstance(tensor, Placed):
                placed: Any = Placed(tensor.data, device)
                tensors[name] = nn.Parameter(placed, False) if isinstance(tensor, nn.Parameter) else placed
    part.register_forward_pre_hook(_moved_to(device), with_kwargs=True)


def _mover(device: torch.device) -> Callable[[Any], Any]:
    return lambda value: value.to(device) if isinstance(value, Tensor) else value


def _moved_to(device: torch.device) -> Callable[..., Any]:
    return lambda _module, args, kwargs: tree_map(_mover(device), (args, kwargs))
