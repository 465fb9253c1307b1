import pytest

from cluster.commands.guard import guarded
from configs.exits import ConfigError, Exit, StoppedError, StopRequested, WaitsForPeople, request_to_stop


def hidden(inner: BaseException) -> SystemError:
    """As compiled code hands on what a signal handler raised in it."""
    error = SystemError("wait returned a result with an exception set")
    error.__cause__ = inner
    return error


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("name: 'A B' cannot\nname a folder"), Exit.USAGE, "error: name: 'A B' cannot name a folder\n"),
        (StoppedError("the run was stopped"), Exit.STOPPED, "error: the run was stopped\n"),
        (hidden(StopRequested("the run was stopped")), Exit.STOPPED, "error: the run was stopped\n"),
        (hidden(hidden(StopRequested("deep"))), Exit.STOPPED, "error: deep\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (hidden(KeyboardInterrupt()), 130, "stopped\n"),
    ],
)
def test_what_a_user_should_see_is_one_line(error, code, says, capsys):
    assert guarded(raising(error)) == code
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("error", [ValueError("odd"), SystemError("odd"), hidden(ValueError("odd"))])
def test_anything_else_is_a_bug_with_its_traceback_in_a_log(error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert guarded(raising(error)) == Exit.BUG
    assert "a bug of Steelyard" in capsys.readouterr().err
    (log,) = (tmp_path / ".steelyard" / "logs").iterdir()
    assert "odd" in log.read_text() or "exception set" in log.read_text()


def test_only_a_request_to_stop_counts_as_one():
    for stop in (StopRequested("x"), WaitsForPeople("x"), KeyboardInterrupt()):
        assert request_to_stop(stop) is stop and request_to_stop(hidden(stop)) is stop
    assert request_to_stop(StoppedError("an actor is lost")) is None
    assert request_to_stop(ValueError()) is None and request_to_stop(hidden(ValueError())) is None
