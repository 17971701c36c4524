"""ExecuTorch's own Llama export (`export_llama -qmode 8da4w -kv`) with this package's partitioner.

    manager = export_llama(["--checkpoint", "consolidated.pth", "--params", "params.json", "-kv",
                            "--use_sdpa_with_kv_cache", "-qmode", "8da4w", "-G", "32", "-d", "fp32"], Path("llama.pte"))

The arguments, the model, its quantization and its custom operators are ExecuTorch's; only the lowering is ours.
`forward(tokens [1, S], input_pos [1]) -> logits [1, vocabulary]`, which ExecuTorch's text runner takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from executorch.examples.models.llama import export_llama_lib as llama
from executorch.extension.llm.export.builder import LLMEdgeManager
from executorch.extension.llm.export.config.llm_config import LlmConfig

from ..errors import OptionError
from ..export.partitioner import ZeropointPartitioner
from ..files import replace_file
from ..lowering.options import CompileOptions
from .files import check_output

_BACKENDS = ("xnnpack", "vulkan", "coreml", "mps", "qnn", "openvino")


def export_llama(arguments: Sequence[str], output: Path, options: CompileOptions | None = None) -> LLMEdgeManager:
    """Writes output and returns ExecuTorch's manager, whose `model` is the quantized module in PyTorch.

    arguments: the command line of `python -m executorch.examples.models.llama.export_llama`. Raises OptionError when
    they choose another backend, or when output cannot be written.
    """
    config = LlmConfig.from_args(llama.build_args_parser().parse_args(list(arguments)))
    for name in _BACKENDS:
        if getattr(getattr(config.backend, name, None), "enabled", False):
            raise OptionError(f"export_llama: --{name}: another backend; leave it out, this export lowers to Zeropoint")
    check_output(output)
    exported = llama._prepare_for_llama_export(config).export()
    exported.run_canonical_optimizations()
    manager = exported.to_edge_transform_and_lower([ZeropointPartitioner(options)]).to_executorch()
    replace_file(output, manager.export_program.write_to_file)
    return manager
