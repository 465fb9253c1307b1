"""Exit codes of every command and of the job itself; scripts rely on them."""

from enum import IntEnum


class Exit(IntEnum):
    """What a finished process says about its work."""

    DONE = 0
    """Finished, and the promoted policy is certified feasible (or there was no constraint to certify)."""
    BUG = 1
    """Something Steelyard did not expect; the message asks for a report."""
    USAGE = 2
    """Wrong command line or configuration; nothing was started."""
    INFEASIBLE = 3
    """Finished, but no policy could be certified feasible."""
    DATA = 4
    """The input data has errors."""
    STOPPED = 5
    """Stopped before the end; the same command goes on where it stopped."""
    UNSATISFIABLE = 6
    """The cluster cannot give what the run asks for."""


class SteelyardError(Exception):
    """An error meant for the user: one line with what failed, why, and what to do. Never shown as a traceback."""

    exit_code: Exit = Exit.BUG


class ConfigError(SteelyardError):
    """A wrong key, type, value or combination in the run's configuration."""

    exit_code = Exit.USAGE


class DataError(SteelyardError):
    """Input data that cannot be used; the message names file and row."""

    exit_code = Exit.DATA


class StoppedError(SteelyardError):
    """The run was stopped on request, or an actor was lost for good; it can be resumed."""

    exit_code = Exit.STOPPED


class StopRequested(StoppedError):
    """Somebody asked the run to stop: its state is then ``stopped``. After any other `StoppedError` it is ``failed``."""


class WaitsForPeople(StopRequested):
    """The run goes on when people have done their part; nothing has failed."""


class ClusterError(SteelyardError):
    """The cluster is not there, or cannot give what was asked."""

    exit_code = Exit.UNSATISFIABLE


def request_to_stop(error: BaseException) -> StopRequested | KeyboardInterrupt | None:
    """The request to stop that an error is, or was caused by; None where there was no request.

    A signal's exception that comes up inside compiled code, such as Ray's, arrives as a SystemError caused by it; one that
    comes up in a wait for the trainers, as their failure.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StopRequested | KeyboardInterrupt):
        cause = cause.__cause__
    return cause
