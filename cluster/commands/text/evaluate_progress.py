"""How far an evaluation is: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Asked = Callable[[str, int], None]
"""(model, answers more)."""
Judged = Callable[[int], None]
"""Judgements more."""
LINES = 10
"""Lines for all answers, where there is no terminal."""


@contextmanager
def shown_progress(console: Console, total: int) -> Iterator[tuple[Asked, Judged]]:
    """Show the answers and judgements that come in, until the block ends.

    Args:
        total: answers that are asked for, of all models together.
    """
    if not console.is_terminal:
        yield _lines(console, total)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        answers, judged = progress.add_task("answers", total=total), progress.add_task("judgements", total=None)
        yield (lambda _model, count: progress.advance(answers, count)), (lambda count: progress.advance(judged, count))


def _lines(console: Console, total: int) -> tuple[Asked, Judged]:
    """A line for every tenth of the answers; judgements come with them or at the end, and get none."""
    answered = 0

    def count_answers(model: str, count: int) -> None:
        nonlocal answered
        before, answered = answered, answered + count
        if before * LINES // max(total, 1) != answered * LINES // max(total, 1):
            console.print(f"answers: {answered} of {total} ({model})", highlight=False, markup=False)

    return count_answers, lambda _count: None
