"""Names of the device facts that guards may ask for. The player's `library.h` gives them their values."""

from __future__ import annotations

FACTS = (
    "int8_dot",
    "storage_8bit",
    "storage_16bit",
    "float16",
    "int8",
    "int16",
    "int64",
    "subgroup_basic",
    "subgroup_vote",
    "subgroup_arithmetic",
    "subgroup_ballot",
    "subgroup_shuffle",
    "subgroup_shuffle_relative",
    "subgroup_clustered",
    "memory_model",
    "cooperative_matrix",
    "coopmat_f16_16x16x16",
    "subgroup_size",
    "shared_memory_bytes",
    "max_workgroup_invocations",
    "max_binding_bytes",
    "max_workgroup_count_x",
    "max_workgroup_count_y",
    "max_workgroup_count_z",
    "is_cpu",
    "vendor_id",
)
