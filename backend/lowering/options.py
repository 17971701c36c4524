"""CompileOptions: everything a user may choose at export. They travel to preprocess as one canonical JSON text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from ..errors import OptionError

MIB = 1024 * 1024
FUSIONS = (
    "merged_linears",
    "rope_cache",
    "quantize",
    "norm_quantize",
    "gated_quantize",
    "row_linear",
    "gated_linear",
    "residual",
    "rope_attention",
)  # docs/design.md, section "Fusion"
_CHOICES: dict[str, tuple[str, ...]] = {
    "operators": ("all", "linear"),
    "compute_dtype": ("model", "f32", "f16"),
    "qparams_storage": ("buffer", "image"),
    "kv_cache": ("model", "i8"),
    "float_zero_point": ("model", "compute"),
    "leftover_quantization": ("error", "keep"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Export options; an unknown name or value raises OptionError.

    operators: what may become part of a delegate: "all" that have a rule, or linears with quantized weights alone.
    compute_dtype: storage dtype of activations on the device; "model" follows the graph (bf16 becomes f32).
    qparams_storage: where per-token scales and zero points live.
    kv_cache: "model" keeps keys and values as the graph types them; "i8" keeps codes with one scale a token and head,
    and refuses an attention whose caches cannot be kept so.
    float_zero_point: "model" allocates a float zero point as the graph types it (bf16 as f32), "compute" in the
    compute dtype.
    fusions: "all", "none", or the names of some, separated by commas: which kernel calls are merged.
    max_binding_bytes: no constant or activation is larger; matrices and outputs are split into column pieces.
    weights_file: "" keeps the constants in the .pte; a name puts them into <name>.ptd, which ExecuTorch writes with
    write_tensor_data_to_file and load_program takes as data_path.
    shared_states: names of buffers, separated by commas (or a sequence of them), that methods lowered together share
    although each has its own; the same buffer is shared by itself.
    leftover_quantization: what to do about quantization ops that stay outside the delegate and have no ExecuTorch
    kernel: raise, or keep them because another partitioner follows.
    """

    operators: str = "all"
    compute_dtype: str = "model"
    qparams_storage: str = "buffer"
    kv_cache: str = "model"
    float_zero_point: str = "model"
    fusions: str = "all"
    max_binding_bytes: int = 128 * MIB
    weights_file: str = ""
    shared_states: str | Sequence[str] = ""
    leftover_quantization: str = "error"

    def __new__(cls, *args: object, **options: object) -> CompileOptions:
        known = {field.name for field in fields(cls)}
        for name in options:
            if name not in known:
                raise OptionError(f"CompileOptions: {name}: unknown option; offered {', '.join(sorted(known))}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(f"CompileOptions: {name}: {getattr(self, name)!r}; offered {', '.join(choices)}")
        if not isinstance(self.fusions, str) or not set(self._named_fusions()) <= {*FUSIONS}:
            raise OptionError(
                f"CompileOptions: fusions: {self.fusions!r}; offered all, none, or some of {', '.join(FUSIONS)}"
            )
        size = self.max_binding_bytes
        if isinstance(size, bool) or not isinstance(size, int) or not MIB <= size < 4096 * MIB:
            raise OptionError(
                f"CompileOptions: max_binding_bytes: {size!r}; need an integer from {MIB} to {4096 * MIB - 1}"
            )

        if not isinstance(self.weights_file, str) or not all(c.isalnum() or c in "-_." for c in self.weights_file):
            raise OptionError(
                f"CompileOptions: weights_file: {self.weights_file!r}; need a file name of letters, digits, - _ and ."
            )

        given = self.shared_states
        names = given.split(",") if isinstance(given, str) and given else given
        if not isinstance(names, Sequence) or not all(
            isinstance(name, str) and name.strip() and "," not in name for name in names
        ):
            raise OptionError(f"CompileOptions: shared_states: {given!r}; need names of buffers, separated by commas")
        object.__setattr__(self, "shared_states", ",".join(sorted({name.strip() for name in names})))

    def shared_names(self) -> list[str]:
        """The buffers that shared_states names."""
        assert isinstance(self.shared_states, str)
        return self.shared_states.split(",") if self.shared_states else []

    def fuses(self, name: str) -> bool:
        """Whether a fusion is switched on. name: one of FUSIONS."""
        assert name in FUSIONS, name
        return self.fusions == "all" or name in self._named_fusions()

    def _named_fusions(self) -> list[str]:
        return [] if self.fusions in ("all", "none") else [name.strip() for name in self.fusions.split(",")]

    def to_json(self) -> str:
        """Canonical text: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CompileOptions:
        """The inverse of to_json. Raises OptionError on anything else."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise OptionError(f"CompileOptions: {text[:60]!r} is no JSON ({error})") from error
        if not isinstance(values, dict):
            raise OptionError(f"CompileOptions: {text[:60]!r}; need a JSON object")
        return cls(**values)
