"""Every kind of linear of the demo's model, on the activations that eager PyTorch feeds it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.e2e import smollm2
from tests.e2e.running import Direct, export, relative_rms
from zeropoint.llm.export import TextExportOptions, quantize_text_model
from zeropoint.llm.models import find_model, load_weights
from zeropoint.runtime.player import validation

N_TOKENS = 40
# Of thirty: the linears of one have every shape but lm_head's, which follows.
LAYERS = [1, 3]


@pytest.fixture(autouse=True)
def no_validation_message() -> None:
    validation(clear=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [pytest.param(smollm2.SMALL, id="int8"), pytest.param(TextExportOptions(recipe="8da4w-float-zp"), id="float32")],
)
@pytest.mark.parametrize("n_layers", LAYERS)
def test_linears_on_real_activations(options: TextExportOptions, n_layers: int) -> None:
    model = quantize_text_model(load_weights(find_model(smollm2.NAME), n_layers=n_layers), options)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen[name] = (inputs[0].detach().clone(), output.detach().clone())

        return hook

    linears = {name: module for name, module in model.named_modules() if hasattr(module, "in_features")}
    for name, module in linears.items():
        module.register_forward_hook(keep(name))
    tokens = torch.randint(3, 40_000, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(tokens)
    assert len(seen) == 7 * n_layers + 1
    for name, (x, wanted) in seen.items():
        program = export(linears[name], x.clone())
        (found,) = Direct(program.run_decompositions({}))(x)
        assert relative_rms(found, wanted) <= 1e-6, name
    found_messages = validation(clear=True)
    assert found_messages.active
    assert found_messages.count == 0, found_messages.messages[0]
