"""`fractureai cancel`, `retry`, `pause` and `resume`: steer a batch."""

from __future__ import annotations

import click

from cli.client import client_command, open_client
from cli.output import open_console, print_json, summary


def _act(verb: str, batch: str, as_json: bool) -> None:
    with open_client(patience=10.0) as client:
        after = client.act(client.resolve(batch), verb)
    if as_json:
        print_json(after)
    else:
        open_console().print(f"Batch {after['id']} is {after['status']}: {summary(after)}", soft_wrap=True)


def _command(verb: str, does: str) -> click.Command:
    @client_command
    def act(batch: str, as_json: bool) -> None:
        _act(verb, batch, as_json)

    return click.Command(
        verb,
        callback=act,
        params=[
            click.Argument(["batch"]),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the server's JSON."),
        ],
        help=f"{does}\n\nBATCH is an id, a unique beginning of one, or `latest`.\n\n"
        f"\b\nExamples:\n  fractureai {verb} latest\n  fractureai {verb} 3f2a\n\n"
        "\b\nExit codes: 0 done; 2 usage; 3 no answer from the server; 4 refused by it; 5 interrupted.",
    )


cancel = _command("cancel", "Stop BATCH: what is read stays, the rest ends as cancelled and is deleted.")
retry = _command("retry", "Read what failed or was cancelled of BATCH again, once it has ended.")
pause = _command("pause", "Hold BATCH back; what workers have in their hands is finished first.")
resume = _command("resume", "Let the paused BATCH go on.")
