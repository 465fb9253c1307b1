"""`steelyard label`: people fill in a to_label.csv on a page of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def label(
    file: Annotated[Path, typer.Argument(help="The to_label.csv that `steelyard eval` or a run wrote.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on 127.0.0.1; 0 takes a free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print address and counts as JSON for a script.")] = False,
) -> None:
    """Label answers in a browser: one pair at a time, model names hidden, every answer saved at once. Ctrl-C ends it.

    The page listens on this machine alone and asks for the token in its address. From another machine: ssh -L PORT:127.0.0.1:PORT.
    """
    import secrets
    import socket

    import uvicorn

    from configs.exits import ClusterError
    from serving.feedback.label_file import LabelFile
    from serving.feedback.page import make_app

    labels, token = LabelFile(file), secrets.token_urlsafe(24)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()  # before the address is told: a client that is quicker than the server waits a moment
        except OSError as error:
            raise ClusterError(f"--port {port}: cannot be taken ({error.strerror}); give another, or 0") from error
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/?token={token}"
        typer.echo(json.dumps({"address": address}) if as_json else f"open {address}\nCtrl-C when you have done enough")
        # The address with the token would be in its log of requests.
        server = uvicorn.Server(uvicorn.Config(make_app(labels, token), log_level="warning", access_log=False))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn has closed everything and raises it once more
            pass
    filled, rows = labels.filled()
    summary = f"{filled} of {rows} rows have an answer; give the command that wrote {file} again"
    typer.echo(json.dumps({"filled": filled, "rows": rows}) if as_json else summary)
