"""One layer at a time on packed rows, with edits of its activations, by either of two engines.

*Fused*: Hugging Face's own layers with fused attention; edits are PyTorch hooks on the projections. *Bridge*:
TransformerLens' blocks, where every hook of TransformerLens works; taken whenever hooks are given, and for layers that
are not built as Llama's are. Both give the same activations up to rounding; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from interp.errors import UserError
from interp.lens import Lens

Hook = tuple[str, Callable[..., Any]]
"""A TransformerLens hook: its name and a function of (activation, hook=)."""
Edit = Callable[[Tensor], Tensor]
"""From an activation to what stands in its place."""


class Cache(Protocol):
    """What a layer asks for the keys and values to attend to."""

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """From a layer's own keys and values (entry, kv_head, position, d_head) to all of them."""
        ...


LLAMA_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
LLAMA_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class Site(StrEnum):
    """Where an activation is replaced; each is TransformerLens' hook of that name."""

    RESID_PRE = "resid_pre"
    """Residual stream before a layer."""
    ATTN_OUT = "attn_out"
    MLP_OUT = "mlp_out"
    Z = "z"
    """A head's output before the output projection; all heads if none is named."""
    Q = "q"
    """Queries, keys and values before rotation; keys and values have the model's key-value heads."""
    K = "k"
    V = "v"

    @property
    def per_head(self) -> bool:
        return self in (Site.Z, Site.Q, Site.K, Site.V)

    def hook(self, layer: int) -> str:
        return f"blocks.{layer}.{'attn.' if self.per_head else ''}hook_{self}"


@dataclass(frozen=True)
class Layout:
    """Where rows lie: row i holds positions starts[i]..stop-1. Rows fill `entries` batch entries, one after another.

    One entry holds rows of any widths behind one another, kept apart by the mask, on one copy of the keys before them;
    several entries hold one row each, all of the same width.
    """

    starts: tuple[int, ...]
    stop: int
    entries: int = 1

    def __post_init__(self) -> None:
        if self.entries > 1 and (len(set(self.starts)) > 1 or self.entries != len(self.starts)):
            raise ValueError("several entries hold one row each, all from the same start")

    @property
    def widths(self) -> list[int]:
        return [self.stop - start for start in self.starts]

    @property
    def offsets(self) -> list[int]:
        """Index of each row's first token among all tokens."""
        return [0, *np.cumsum(self.widths)[:-1].tolist()]

    @property
    def cached(self) -> int:
        """How many cached keys are put before the rows' own."""
        return max(self.starts)

    def positions(self) -> Int[Tensor, " token"]:
        return torch.cat([torch.arange(start, self.stop) for start in self.starts])


class Blocks:
    """Runs layers on the rows of a layout. A row sees the cached positions before it and its own, never another row."""

    def __init__(self, lens: Lens, layout: Layout, hooks: Sequence[Hook] = ()) -> None:
        _require_full_attention(lens, layout.stop)
        self.lens, self.layout, self.hooks = lens, layout, tuple(hooks)
        rows = layout.starts if layout.entries == 1 else layout.starts[:1]
        one = Layout(rows, layout.stop)
        positions = one.positions()
        row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(one.widths))
        first = torch.tensor(rows)[row]
        before = torch.arange(layout.cached)[None] < first[:, None]
        own = (row[:, None] == row[None]) & (positions[:, None] >= positions[None])
        self.mask = torch.cat([before, own], dim=1)[None, None].to(lens.device)
        self.position_ids = positions[None].to(lens.device)
        self.last = torch.tensor(one.offsets, device=lens.device) + torch.tensor(one.widths, device=lens.device) - 1
        probe = torch.zeros(1, 1, device=lens.device, dtype=lens.hf.dtype)
        model: Any = lens.hf.base_model
        self.cos_sin = model.rotary_emb(probe, position_ids=self.position_ids)

    @property
    def fused(self) -> bool:
        return not self.hooks and like_llama(self.lens)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Float[Tensor, "1 pos d"]:
        tokens = torch.tensor([list(ids)], device=self.lens.device)
        if self.fused:
            return self.lens.hf.get_input_embeddings()(tokens)
        with self.lens.bridge.hooks(fwd_hooks=[hook for hook in self.hooks if not hook[0].startswith("blocks.")]):
            return self.lens.bridge.embed(tokens)

    @torch.no_grad()
    def run(
        self, layer: int, tokens: Float[Tensor, "token d"], cache: Cache, edits: Mapping[Site, Edit]
    ) -> Float[Tensor, "token d"]:
        """The residual stream behind a layer. Edits see activations as (token, ...) or (token, head, d_head)."""
        resid = tokens.reshape(self.layout.entries, -1, tokens.shape[-1])
        flat = {site: _flat(edit) for site, edit in edits.items()}
        arguments = {
            "attention_mask": self.mask,
            "position_embeddings": self.cos_sin,
            "position_ids": self.position_ids,
            "past_key_values": cache,
        }
        if self.fused:
            model: Any = self.lens.hf.base_model
            module = model.layers[layer]
            if Site.RESID_PRE in flat:
                resid = flat[Site.RESID_PRE](resid)
            with _edited(module, flat):
                out = module(resid, **arguments)
        else:
            here = [hook for hook in self.hooks if hook[0].startswith(f"blocks.{layer}.")]
            own = [(site.hook(layer), _as_hook(edit)) for site, edit in flat.items()]
            with self.lens.bridge.hooks(fwd_hooks=[*own, *here]):
                out = self.lens.bridge.blocks[layer](resid, **arguments)
        return (out[0] if isinstance(out, tuple) else out).flatten(0, 1)

    @torch.no_grad()
    def finish(
        self, tokens: Float[Tensor, "token d"], cache: Cache, edits: Mapping[Site, Edit]
    ) -> Float[Tensor, "row vocab"]:
        """The last layer and the logits of each row's last position.

        Of the last layer only the keys and values are needed at other positions, so the rest is left out where no edit
        but one of the residual stream asks for it.
        """
        layer = self.lens.n_layers - 1
        if not self.fused or edits.keys() - {Site.RESID_PRE}:
            out = self.run(layer, tokens, cache, edits)
            return self.logits(out.reshape(self.layout.entries, -1, out.shape[-1])[:, self.last].flatten(0, 1))
        model: Any = self.lens.hf.base_model
        module = model.layers[layer]
        resid = tokens.reshape(self.layout.entries, -1, tokens.shape[-1])
        if Site.RESID_PRE in edits:
            resid = _flat(edits[Site.RESID_PRE])(resid)
        key, value = _keys_values(module, resid, self.cos_sin)
        whole = _Given(cache.update(key, value, layer))
        out = module(
            resid[:, self.last],
            attention_mask=self.mask[:, :, self.last],
            position_embeddings=tuple(part[:, self.last] for part in self.cos_sin),
            position_ids=self.position_ids[:, self.last],
            past_key_values=whole,
        )
        return self.logits((out[0] if isinstance(out, tuple) else out).flatten(0, 1))

    def logits(self, last: Float[Tensor, "row d"]) -> Float[Tensor, "row vocab"]:
        """Final norm and unembedding, in float32 even for half-precision models, whose own logits are too coarse."""
        model: Any = self.lens.hf.base_model
        normed = model.norm(last) if self.fused else self.lens.bridge.ln_final(last[:, None])[:, 0]
        if normed.dtype in (torch.float32, torch.float64):
            if self.fused:
                return self.lens.hf.get_output_embeddings()(normed)
            return self.lens.bridge.unembed(normed[:, None])[:, 0].detach()
        weight = self.lens.hf.get_output_embeddings().weight
        return torch.cat([normed.float() @ part.float().T for part in weight.split(16384)], dim=-1)


class _Given:
    """A cache that has the keys and values already, those of the queries' own positions included."""

    def __init__(self, keys_values: tuple[Tensor, Tensor]) -> None:
        self._keys_values = keys_values

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._keys_values


def _keys_values(layer: Any, resid: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Rotated keys, and values, of a Llama-like layer: (entry, kv_head, position, d_head)."""
    attention = layer.self_attn
    normed = layer.input_layernorm(resid)
    projections = (attention.k_proj, attention.v_proj)
    key, value = (project(normed).unflatten(-1, (-1, attention.head_dim)) for project in projections)
    if hasattr(attention, "k_norm"):
        key = attention.k_norm(key)
    key = key.transpose(1, 2)
    return apply_rotary_pos_emb(key, key, *cos_sin)[1], value.transpose(1, 2)


def _flat(edit: Edit) -> Edit:
    """An edit of (token, ...) for activations of shape (entry, position, ...)."""

    def edited(activation: Tensor) -> Tensor:
        return edit(activation.flatten(0, 1)).reshape(activation.shape)

    return edited


def like_llama(lens: Lens) -> bool:
    """Whether the layers are built as Llama's and Qwen's: two norms, one attention with four projections, one MLP."""
    model: Any = lens.hf.base_model
    if not (hasattr(model, "layers") and hasattr(model, "norm")):
        return False
    layer = model.layers[0]
    names = {name for name, _ in layer.named_children()}
    attention = {name for name, _ in layer.self_attn.named_children()} if "self_attn" in names else set()
    return names == LLAMA_LAYER and attention - {"q_norm", "k_norm"} == LLAMA_ATTENTION


def _require_full_attention(lens: Lens, tokens: int) -> None:
    config = lens.hf.config
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or []
    if window is not None and window < tokens and any("sliding" in str(kind) for kind in types):
        raise UserError(f"{lens.name} has sliding windows of {window} tokens: {tokens} tokens cannot be patched yet")


def _as_hook(edit: Edit) -> Callable[..., Tensor]:
    def hook(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 - TransformerLens passes it by name
        return edit(activation)

    return hook


@contextmanager
def _edited(layer: Any, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """PyTorch hooks on the modules of a Llama-like layer; edits see heads as (entry, position, head, d_head)."""
    attention, size = layer.self_attn, layer.self_attn.head_dim

    def after(edit: Edit, heads: bool) -> Callable[..., Tensor]:
        def hook(module: object, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001 - PyTorch's signature
            return _by_head(edit, output, size) if heads else edit(output)

        return hook

    def before(edit: Edit) -> Callable[..., tuple[Tensor]]:
        def hook(module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:  # noqa: ARG001 - PyTorch's signature
            return (_by_head(edit, inputs[0], size),)

        return hook

    projections = {Site.Q: attention.q_proj, Site.K: attention.k_proj, Site.V: attention.v_proj}
    with ExitStack() as stack:
        for site, edit in edits.items():
            if site in projections:
                handle = projections[site].register_forward_hook(after(edit, heads=True))
            elif site is Site.Z:
                handle = attention.o_proj.register_forward_pre_hook(before(edit))
            elif site in (Site.ATTN_OUT, Site.MLP_OUT):
                module = attention.o_proj if site is Site.ATTN_OUT else layer.mlp
                handle = module.register_forward_hook(after(edit, heads=False))
            else:
                continue
            stack.callback(handle.remove)
        yield


def _by_head(edit: Edit, flat: Tensor, size: int) -> Tensor:
    return edit(flat.unflatten(-1, (-1, size))).flatten(-2)
