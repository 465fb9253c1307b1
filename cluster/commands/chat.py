"""`steelyard chat`: talk to the models of a run side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import finite

if TYPE_CHECKING:
    from rich.console import Console

    from serving.explain.chat import Chat, Understood


def chat(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below runs/.")],
    compare: Annotated[str, typer.Option(help="The models that answer, by comma: sft, policy.")] = "sft,policy",
    once: Annotated[str | None, typer.Option(help="Ask this one thing and end.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, callback=finite, help="0 takes the likeliest word each time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print JSON for a script.")] = False,
) -> None:
    """Talk to the models of a run; each answer comes with the reward and cost that the run's models give it."""
    import json

    from rich.console import Console

    from configs.exits import ConfigError
    from serving.explain.chat import Chat
    from serving.runs import find_run

    if as_json and once is None:
        raise ConfigError("--json needs --once TEXT: a conversation is not for a script")
    models = [name.strip() for name in compare.split(",") if name.strip()]
    talk = Chat(find_run(run), models, temperature, seed)
    for note in () if as_json else talk.notes:
        Console().print(note, style="dim", markup=False)
    if once is None:
        _converse(talk, Console())
        return
    understood = talk.understand(once)
    if as_json:
        answers = [answer.as_json() for answer in talk.ask(understood.text)]
        typer.echo(json.dumps({"asked": understood.text, "unknown": list(understood.unknown), "answers": answers}))
    else:
        _answer(talk, understood, Console())


def _converse(talk: Chat, console: Console) -> None:
    console.print("Type a question; /reset forgets the conversation, /quit (or Ctrl-D) ends it.", style="dim")
    while True:
        try:
            text = console.input("[bold]you[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text == "/quit":
            return
        if text == "/reset":
            talk.reset()
            console.print("forgotten", style="dim")
        elif text:
            _answer(talk, talk.understand(text), console)


def _answer(talk: Chat, understood: Understood, console: Console) -> None:
    """Print every model's answer with its scores; model text is never read as markup."""
    from rich.text import Text

    for unknown_word in understood.unknown:
        close = understood.close.get(unknown_word)
        hint = f" (close: {', '.join(close)})" if close else ""
        console.print(Text(f"the models do not know “{unknown_word}”{hint}", style="yellow"))
    for answer in talk.ask(understood.text):
        if answer.forgotten_turns:
            console.print(Text(f"{answer.forgotten_turns} oldest turns no longer fit and are forgotten", style="dim"))
        scores = [] if answer.reward is None else [f"reward {answer.reward:+.2f}"]
        scores += [f"cost/{name} {cost:+.2f} ({talk.side(name, cost)})" for name, cost in answer.costs.items()]
        cut = " [cut]" if answer.finish_reason == "length" else ""
        console.print(
            Text.assemble((f"{answer.model:>6} ", "bold cyan"), answer.response or "(nothing)", (cut, "yellow"))
        )
        console.print(Text(f"       {', '.join(scores)}", style="dim"))
