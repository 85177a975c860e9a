"""What a row says: one line for each assertion, with its figure."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from harness import Trouble

Answer = TypeVar("Answer")
_PRINT = threading.Lock()


@dataclass
class Report:
    """The assertions of one row. Rows run at the same time, so each line says whose it is."""

    row: str
    failed: list[str] = field(default_factory=list)
    passed: int = 0

    def check(self, what: str, holds: object, figure: object = "") -> bool:
        detail = f"  ({figure})" if figure != "" else ""
        line = f"{what}{detail}"
        if holds:
            self.passed += 1
        else:
            self.failed.append(line)
        say(f"row {self.row:<9} {'ok  ' if holds else 'FAIL'}  {line}")
        return bool(holds)

    def within(self, what: str, limit: float, condition: Callable[[], Answer]) -> Answer | None:
        """Checks that a condition comes true in time, and tells how long it took."""
        began = time.monotonic()
        try:
            answer = until(what, condition, limit)
        except Trouble as trouble:
            self.check(what, False, trouble)
            return None
        self.check(what, True, f"{time.monotonic() - began:.1f} s")
        return answer


def say(line: str) -> None:
    with _PRINT:
        print(line, flush=True)


def until(what: str, condition: Callable[[], Answer], limit: float, every: float = 0.2) -> Answer:
    """Polls until the condition gives something true, and gives that. What it raises counts as not yet."""
    deadline = time.monotonic() + limit
    last: object = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except (Trouble, OSError, KeyError, IndexError, ValueError) as error:
            last = error
        if time.monotonic() > deadline:
            raise Trouble(f"not within {limit:.0f} s: {what}; last: {last!r:.300}")
        time.sleep(every)
