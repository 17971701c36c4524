"""A text program small enough to be exported in a test: the next token follows from the last one alone."""

from __future__ import annotations

from pathlib import Path

import torch
from executorch.exir import to_edge_transform_and_lower

import zeropoint

VOCABULARY, CONTEXT, PREFILL, END = 40, 16, 6, 7
METADATA = {
    "get_vocab_size": VOCABULARY,
    "get_max_seq_len": PREFILL,
    "get_max_context_len": CONTEXT,
    "get_bos_id": 1,
    "get_eos_ids": [END, 39],
    "get_chat_template": "{{ messages[0]['content'] }}",
    "get_n_linears": 1,
}


class Follow(torch.nn.Module):
    """Logits that are largest at token + 1; at position 11 and later, at the end token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 64)
        torch.nn.init.orthogonal_(self.embedding.weight)
        self.head = torch.nn.Linear(64, VOCABULARY, bias=False)
        self.head.weight = torch.nn.Parameter(self.embedding.weight.roll(1, 0).clone())

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        last = torch.where(cache_position[-1:] > 10, END - 1, input_ids[:, -1])
        return self.head(self.embedding(last)).unsqueeze(1)


def write(path: Path, metadata: dict[str, object]) -> Path:
    model = Follow().eval()
    zeropoint.quantize(model, recipe="8da8w")
    length = torch.export.Dim("length", min=1, max=PREFILL)
    example = (torch.zeros(1, 3, dtype=torch.long), torch.arange(3))
    exported = torch.export.export(model, example, dynamic_shapes=({1: length}, {0: length}), strict=True)
    lowered = to_edge_transform_and_lower(
        exported, partitioner=[zeropoint.ZeropointPartitioner()], constant_methods=metadata
    )
    path.write_bytes(lowered.to_executorch().buffer)
    return path
