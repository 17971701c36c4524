"""A conversation in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import OptionError
from .sampling import Sampling
from .text_model import Session

HELP = "/reset begins anew, /rewind takes the last turn back, /system TEXT, /stats, /help, /exit; Ctrl-C ends an answer"


@dataclass(slots=True)
class Terminal:
    """Reads lines and writes answers. read: raises EOFError at the end; write: text as it is; note: a line about it."""

    session: Session
    read: Callable[[], str]
    write: Callable[[str], None]
    note: Callable[[str], None]
    sampling: Sampling
    max_new_tokens: int = 512
    json_schema: str = ""
    grammar: str = ""

    def run(self) -> None:
        """Until /exit or the end of the input."""
        while True:
            try:
                line = self.read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self.note("/exit or Ctrl-D ends the program")
                continue
            if line == "/exit":
                return
            try:
                self._command(line) if line.startswith("/") else self._answer(line)
            except OptionError as error:
                self.note(str(error))

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name:
            case "/reset":
                self.session.reset(rest.strip() or self._system())
                self.note("a new conversation")
            case "/system":
                self.session.reset(rest.strip())
                self.note("a new conversation")
            case "/rewind":
                self.session.rewind()
                self.note(f"{sum(item['role'] == 'user' for item in self.session.messages)} turns are left")
            case "/stats":
                self.note(f"{self.session.statistics}; {self.session.computed} tokens computed in all")
            case "/help":
                self.note(HELP)
            case _:
                self.note(f"{name}: unknown; {HELP}")

    def _system(self) -> str:
        first = self.session.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else ""

    def _answer(self, line: str) -> None:
        if not line:
            return
        pieces = self.session.send(
            line,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            json_schema=self.json_schema,
            grammar=self.grammar,
        )
        try:
            for piece in pieces:
                self.write(piece)
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined]
            self.session.statistics.end = "Ctrl-C"
        self.write("\n")
        stats = self.session.statistics
        if stats.end == "context":
            limit = self.session.program.metadata.max_context
            self.note(
                f"the context of {limit} tokens is full; /reset or /rewind, or export with a larger --max-context"
            )
