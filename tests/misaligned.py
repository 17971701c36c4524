"""Flatbuffers whose structs lie where they may not be read, which flatbuffers' own verifier lets pass."""

from __future__ import annotations

from typing import Any


def misaligned(blob: bytes, table: Any, field: int, item_bytes: int) -> bytes:
    """Moves the vector of 8-byte aligned structs in a field of one of blob's tables to 4 bytes beside its place."""
    at = table._tab.Pos + table._tab.Offset(4 + 2 * field)
    old = at + int.from_bytes(blob[at : at + 4], "little")
    size = 4 + item_bytes * int.from_bytes(blob[old : old + 4], "little")
    data = bytearray(blob) + bytes(-len(blob) % 8)
    new = len(data)  # of the length, after which the structs begin
    data += blob[old : old + size]
    data[at : at + 4] = (new - at).to_bytes(4, "little")
    return bytes(data)
