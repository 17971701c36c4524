"""The Program: what one delegate of a .pte computes. Importable without torch."""

from .data import ARENA_ALIGN as ARENA_ALIGN
from .data import FAULT_DIMS as FAULT_DIMS
from .data import SIZE_ALIGN as SIZE_ALIGN
from .data import VERSION as VERSION
from .data import VERSIONS as VERSIONS
from .data import Alternative as Alternative
from .data import Arg as Arg
from .data import Attr as Attr
from .data import Call as Call
from .data import Check as Check
from .data import Dim as Dim
from .data import HostDType as HostDType
from .data import Input as Input
from .data import Memory as Memory
from .data import Output as Output
from .data import Symbol as Symbol
from .data import SymbolOp as SymbolOp
from .data import Tensor as Tensor
from .data import live_ranges as live_ranges
from .data import size_bytes as size_bytes
from .data import size_bytes_of as size_bytes_of
from .model import Program as Program
