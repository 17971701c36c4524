"""RMS norm in every form that models write and export leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.unit.rules.lowered import lower_and_compare

LENGTH = 32
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
S = ({1: Dim("s", min=1, max=9)},)


def squares(x: torch.Tensor) -> torch.Tensor:
    return x.pow(2).mean(-1, keepdim=True) + 1e-3


def products(x: torch.Tensor) -> torch.Tensor:
    return (x * x).mean(-1, keepdim=True) + 1e-3


FORMS: dict[str, Forward] = {
    "hugging_face": lambda x, w: w * (x.float() * torch.rsqrt(squares(x.float()))).to(x.dtype),
    "executorch": lambda x, w: (x * torch.rsqrt(products(x))) * w,
    "weight_before_cast": lambda x, w: (x.float() * torch.rsqrt(squares(x.float())) * w.float()).type_as(x),
    "gemma": lambda x, w: (x.float() * torch.rsqrt(squares(x.float())) * (1.0 + w.float())).type_as(x),
    "no_weight": lambda x, w: x * torch.rsqrt(squares(x)),
    "root": lambda x, w: x / torch.sqrt(squares(x)) * w,
    "power": lambda x, w: x * torch.pow(squares(x), -0.5) * w,
    "whole": lambda x, w: nn.functional.rms_norm(x, (LENGTH,), w, 1e-3),
    "whole_no_eps": lambda x, w: nn.functional.rms_norm(x, (LENGTH,)),
    "whole_two_dimensions": lambda x, w: nn.functional.rms_norm(x, (3, LENGTH)),
}


class Norm(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(LENGTH)), forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    x = torch.randn(2, 3, LENGTH)
    shapes = None if "two_dimensions" in form else S
    calls = [] if shapes is None else [(torch.randn(2, 1, LENGTH),), (torch.randn(2, 9, LENGTH),)]
    result = lower_and_compare(Norm(FORMS[form]), (x,), dynamic_shapes=shapes, calls=calls)
    assert result.kernels() == ["rms_norm"]


@pytest.mark.parametrize("form", ["hugging_face", "weight_before_cast", "gemma", "whole"])
def test_half_models_compute_in_f32_without_casts(form: str) -> None:
    result = lower_and_compare(Norm(FORMS[form]).half(), (torch.randn(2, 3, LENGTH).half(),), rtol=2e-3, atol=2e-3)
    assert result.kernels() == ["rms_norm"]


def test_rows_of_heads_in_a_merged_projection_are_not_copied() -> None:
    """q of [B, S, 3 * H * D], normalized by head and read with two strides."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Norm(FORMS["hugging_face"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x[..., 64:128].view(1, x.shape[1], 2, LENGTH).transpose(1, 2))

    result = lower_and_compare(Heads(), (torch.randn(1, 3, 192),), dynamic_shapes=S, calls=[(torch.randn(1, 7, 192),)])
    assert result.kernels() == ["rms_norm"]


NO_NORMS: dict[str, Forward] = {
    "another_x": lambda x, w: (x + 1) * torch.rsqrt(squares(x)),
    "no_mean": lambda x, w: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1.0),
    "another_axis": lambda x, w: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1.0),
    "cubes": lambda x, w: x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + 1.0),
    "three_quarters": lambda x, w: x * torch.pow(squares(x), -0.75),
}


@pytest.mark.parametrize("form", NO_NORMS)
def test_what_is_no_norm_stays_a_product(form: str) -> None:
    result = lower_and_compare(Norm(NO_NORMS[form]), (torch.rand(2, 3, LENGTH) + 0.5,), dialects=("aten",))
    assert "rms_norm" not in result.kernels()


def test_a_weight_of_another_shape_is_applied_afterwards() -> None:
    class Columns(Norm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(squares(x)) * self.weight[:3].view(3, 1)

    assert lower_and_compare(Columns(FORMS["root"]), (torch.randn(2, 3, LENGTH),)).kernels("aten") == [
        "rms_norm",
        "elementwise_binary",
    ]


def test_rows_of_nothing() -> None:
    result = lower_and_compare(nn.RMSNorm(0, elementwise_affine=False), (torch.empty(5, 0),))
    assert all("rms_norm" not in result.kernels(dialect) for dialect in result.programs)
