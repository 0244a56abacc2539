"""Progress is a parameter: a step is announced, advances, and ends. `SILENT` is the null form."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One piece of long work under way."""

    def advance(self, amount: int) -> None:
        """Say that AMOUNT more units (bytes, or items where no total was given) are done."""


class Progress(Protocol):
    """Where long work tells how far it is."""

    def step(self, title: str, total: int | None = None) -> AbstractContextManager[Step]:
        """Announce work of TOTAL units; None when the amount is not known beforehand."""


class _SilentStep:
    def advance(self, amount: int) -> None:
        pass


class _Silent:
    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:  # noqa: ARG002 - the port's names
        yield _SilentStep()


SILENT: Progress = _Silent()
