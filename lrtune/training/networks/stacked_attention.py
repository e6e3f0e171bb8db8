"""PyTorch's fused attention on the CPU for several models at once, where :func:`torch.func.vmap` has a slow loop.

The kernel takes samples in its first dimension, so models and samples are one dimension for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["StackedAttention"]

SAMPLES_HEADS_PLACES_WIDTH = 4
QUERY_KEY_VALUE = 3
OPTIONS = ("attn_mask", "dropout_p", "is_causal")


class StackedAttention(TorchFunctionMode):
    """Within this context :func:`torch.nn.functional.scaled_dot_product_attention` can be stacked on the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        options = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            tensors, more = args[:QUERY_KEY_VALUE], dict(zip(OPTIONS, args[QUERY_KEY_VALUE:], strict=False)) | options
            if _is_fused(*tensors, **more):
                found: torch.Tensor = _Attention.apply(*tensors, more.get("is_causal", False), more.get("scale"))[0]  # type: ignore[no-untyped-call]
                return found
        return function(*args, **options)


def _is_fused(*tensors: torch.Tensor, **options: Any) -> bool:
    """Whether it is the attention for which PyTorch chooses that kernel, without mask and dropout."""
    plain = (bool, int, float, type(None))
    asked = {name for name, value in options.items() if not isinstance(value, plain) or value}
    width = tensors[0].shape[-1]
    alike = all(t.is_cpu and t.ndim == SAMPLES_HEADS_PLACES_WIDTH and t.shape[-1] == width for t in tensors)
    return len(tensors) == QUERY_KEY_VALUE and asked <= {"is_causal", "scale"} and alike


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(query: Any, key: Any, value: Any, causal: bool, scale: Any) -> Any:  # noqa: FBT001 -- see above
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 -- no public name
        return kernel(query, key, value, 0.0, causal, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.options = inputs[3:]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        found = _AttentionGradient.apply(gradients[0], *ctx.saved_tensors, *ctx.options)  # type: ignore[no-untyped-call]
        return (*found, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _as_samples(_Attention.apply, info.batch_size, in_dims, args)


class _AttentionGradient(torch.autograd.Function):
    @staticmethod
    def forward(gradient: Any, *saved: Any) -> Any:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 -- no public name
        *tensors, causal, scale = saved
        return kernel(gradient, *tensors, 0.0, causal, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: there are no second derivatives."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _as_samples(_AttentionGradient.apply, info.batch_size, in_dims, args)


def _as_samples(apply: Callable[..., Any], models: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> Any:
    """Call with models and samples as one dimension; the results' first dimensions are models and samples again."""
    merged = []
    for value, dim in zip(args, in_dims, strict=True):
        if not isinstance(value, torch.Tensor):
            merged.append(value)
            continue
        first = value.expand(models, *value.shape) if dim is None else value.movedim(dim, 0)
        merged.append(first.flatten(0, 1))
    found = tuple(one.unflatten(0, (models, -1)) for one in apply(*merged))
    return found, tuple(0 for _ in found)
