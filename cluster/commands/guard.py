"""What the user sees when something goes wrong: one line, and an exit code that scripts can rely on."""

from __future__ import annotations

import io
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from configs.exits import Exit, SteelyardError, StoppedError, request_to_stop


def guarded(command: Callable[[], object]) -> int:
    """Run a command; returns the exit code of the process.

    A `SteelyardError` is one line on stderr. Anything else is a bug: one line, and the traceback in a log file.
    """
    _print_what_the_terminal_can()
    try:
        command()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else (0 if exit_.code is None else int(Exit.BUG))
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except SteelyardError as error:
        _say(f"error: {' '.join(str(error).split())}")
        return int(error.exit_code)
    except SystemError as error:
        stopped = request_to_stop(error)
        if stopped is None:
            return _bug(error)
        _say(f"error: {stopped}" if isinstance(stopped, StoppedError) else "stopped")
        return int(Exit.STOPPED) if isinstance(stopped, StoppedError) else 130
    except Exception as error:  # noqa: BLE001  the process boundary: whatever got here becomes one line and a log
        return _bug(error)
    return 0


def _print_what_the_terminal_can() -> None:
    """A terminal of another encoding than UTF-8 shows a replacement for what it lacks; nothing is an error because of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _bug(error: Exception) -> int:
    log = _write_log()
    reason = " ".join(str(error).split()) or "no message"
    _say(f"error: {type(error).__name__}: {reason[:300]} (a bug of Steelyard; the traceback is in {log})")
    return int(Exit.BUG)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_log() -> Path | str:
    folder = Path.cwd() / ".steelyard" / "logs"
    log = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        traceback.print_exc()
        return f"the lines above, since {folder} cannot be written ({error.strerror})"
    return log
