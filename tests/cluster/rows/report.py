"""What a row says: one line for each assertion, with its figure.

Two things can go wrong, and they are kept apart. What was looked at and is not as promised (a call that was lost, a
secret that was found) is final. What did not come true in time may be owed to the machine, which has other rows to run.
"""

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
    # Final: no second try takes it away.
    failed: list[str] = field(default_factory=list)
    # Did not come true in time: may be tried again, alone.
    late: list[str] = field(default_factory=list)
    passed: int = 0

    @property
    def broken(self) -> list[str]:
        return self.failed + self.late

    def check(self, what: str, holds: object, figure: object = "") -> bool:
        """What holds or does not at one look. That it does not is final."""
        line = f"{what}  ({figure})" if figure != "" else what
        if holds:
            self.passed += 1
        else:
            self.failed.append(line)
        say(f"row {self.row:<9} {'ok  ' if holds else 'FAIL'}  {line}")
        return bool(holds)

    def overdue(self, what: str, trouble: object) -> None:
        """What has not come true in time."""
        line = f"{what}  ({trouble})"
        self.late.append(line)
        say(f"row {self.row:<9} LATE  {line}")

    def timed(self, what: str, holds: bool, figure: str) -> None:
        """A time that was measured and is short enough, or was too long once: the machine has other rows to run."""
        if holds:
            self.check(what, True, figure)
        else:
            self.overdue(what, figure)

    def within(self, what: str, limit: float, condition: Callable[[], Answer], every: float = 0.2) -> Answer | None:
        """Checks that a condition comes true in time, and tells how long it took."""
        began = time.monotonic()
        try:
            answer = until(what, condition, limit, every)
        except Trouble as trouble:
            self.overdue(what, trouble)
            return None
        self.check(what, True, f"{time.monotonic() - began:.1f} s")
        return answer

    def attempt(self, what: str, run: Callable[..., None], *arguments: object) -> None:
        """Runs a row, or a part of one, to its end. One that breaks fails, and the others go on.

        Trouble is what a helper waited for in vain, or could not do. Everything else was seen to be wrong.
        """
        try:
            run(*arguments)
        except Exception as error:
            what = f"{what} runs to its end"
            if isinstance(error, Trouble | TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
                self.overdue(what, error)
            else:
                self.check(what, False, f"{type(error).__name__}: {error}")


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
