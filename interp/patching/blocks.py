"""One layer at a time on packed rows, with edits of its activations, by either of two sets of modules.

*Hugging Face's* own layers with fused attention; edits are PyTorch hooks on the projections. *TransformerLens'* blocks
(`bridged`), where every hook of TransformerLens works. Both are called as Llama's layers are called, which is right for
layers built so and wrong for others: interp/patching/engine.py finds out by comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.lens import Lens
from interp.model.sites import Edit, Hook, Site, as_hook, flat
from interp.model.unembedding import logits_of
from interp.patching.patches import Layout


class Cache(Protocol):
    """What a layer asks for the keys and values to attend to."""

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """From a layer's own keys and values (entry, kv_head, position, d_head) to all of them."""
        ...


LLAMA_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
LLAMA_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


class Blocks:
    """Runs layers on the rows of a layout. A row sees the cached positions before it and its own, never another row."""

    def __init__(self, lens: Lens, layout: Layout, hooks: Sequence[Hook] = (), bridged: bool = False) -> None:
        self.lens, self.layout, self.hooks, self.fused = lens, layout, tuple(hooks), not bridged
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
        whole = {site: flat(edit) for site, edit in edits.items()}
        arguments = {
            "attention_mask": self.mask,
            "position_embeddings": self.cos_sin,
            "position_ids": self.position_ids,
            "past_key_values": cache,
        }
        if self.fused:
            model: Any = self.lens.hf.base_model
            module = model.layers[layer]
            if Site.RESID_PRE in whole:
                resid = whole[Site.RESID_PRE](resid)
            with _edited(module, whole):
                out = module(resid, **arguments)
        else:
            here = [hook for hook in self.hooks if hook[0].startswith(f"blocks.{layer}.")]
            own = [(site.hook(layer), as_hook(edit)) for site, edit in whole.items()]
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
            return self.logits(
                out.reshape(self.layout.entries, -1, out.shape[-1])[:, self.last.to(out.device)].flatten(0, 1)
            )
        model: Any = self.lens.hf.base_model
        module = model.layers[layer]
        resid = tokens.reshape(self.layout.entries, -1, tokens.shape[-1]).to(self.lens.device)
        if Site.RESID_PRE in edits:
            resid = flat(edits[Site.RESID_PRE])(resid)
        caught = _Catch()
        with suppress(_Seen):  # the layer's own way to keys and values, whatever it norms, clips or rotates
            module(
                resid,
                attention_mask=self.mask,
                position_embeddings=self.cos_sin,
                position_ids=self.position_ids,
                past_key_values=caught,
            )
        whole = _Given(cache.update(*caught.keys_values, layer))
        out = module(
            resid[:, self.last],
            attention_mask=self.mask[:, :, self.last],
            position_embeddings=tuple(part[:, self.last] for part in self.cos_sin),
            position_ids=self.position_ids[:, self.last],
            past_key_values=whole,
        )
        return self.logits((out[0] if isinstance(out, tuple) else out).flatten(0, 1))

    def logits(self, last: Float[Tensor, "row d"]) -> Float[Tensor, "row vocab"]:
        """Final norm and the model's own way to logits."""
        model: Any = self.lens.hf.base_model
        return logits_of(
            self.lens, model.norm(last) if self.fused else self.lens.bridge.ln_final(last[:, None])[:, 0].detach()
        )


class _Given:
    """A cache that has the keys and values already, those of the queries' own positions included."""

    def __init__(self, keys_values: tuple[Tensor, Tensor]) -> None:
        self._keys_values = keys_values

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._keys_values


class _Seen(Exception):  # noqa: N818 - not an error
    """The layer has made its keys and values: nothing else is wanted of it."""


class _Catch:
    """A cache that takes a layer's keys and values and stops it there."""

    keys_values: tuple[Tensor, Tensor]

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys_values = (key, value)
        raise _Seen


def like_llama(lens: Lens) -> bool:
    """Whether the layers have the parts of Llama's: two norms, one attention with four projections, one MLP.

    Without them the fast engine need not be tried; with them it may still be wrong.
    """
    model: Any = lens.hf.base_model
    if not (hasattr(model, "layers") and hasattr(model, "norm")):
        return False
    layer = model.layers[0]
    names = {name for name, _ in layer.named_children()}
    attention = {name for name, _ in layer.self_attn.named_children()} if "self_attn" in names else set()
    return names == LLAMA_LAYER and attention - {"q_norm", "k_norm"} == LLAMA_ATTENTION


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
            elif site == Site.Z:
                handle = attention.o_proj.register_forward_pre_hook(before(edit))
            elif site in (Site.ATTN_OUT, Site.MLP_OUT):
                module = attention.o_proj if site == Site.ATTN_OUT else layer.mlp
                handle = module.register_forward_hook(after(edit, heads=False))
            else:
                continue
            stack.callback(handle.remove)
        yield


def _by_head(edit: Edit, flat: Tensor, size: int) -> Tensor:
    return edit(flat.unflatten(-1, (-1, size))).flatten(-2)
