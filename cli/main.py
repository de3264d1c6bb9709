"""The command `fractureai`: a table of its commands, each imported only when it is called."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from cli.boundary import telling_errors

# name: (module:attribute, what `fractureai --help` says of it)
COMMANDS = {
    "up": ("cli.supervise:up", "Run a whole server here, until Ctrl-C."),
    "demo": ("cli.demo:demo", "Run a server here, read some radiographs, keep serving."),
    "submit": ("cli.submit:submit", "Send files, folders and ZIPs to a server, as one batch."),
    "watch": ("cli.watch:watch", "Send whatever arrives in a folder; file its reports in another."),
    "gateway": ("cli.gateway:gateway", "Receive images by DICOM; say from whom, and for which site."),
    "destinations": ("cli.deliveries:destinations", "List the archives that results go to."),
    "deliveries": (
        "cli.deliveries:deliveries_group",
        "List results on their way to archives.",
    ),
    "status": ("cli.status:status", "Show a batch, or the latest ones."),
    "download": ("cli.download:download", "Save a batch's results as one ZIP."),
    "cancel": ("cli.control:cancel", "Stop a batch; what is read already stays."),
    "retry": ("cli.control:retry", "Read a batch's failed images again."),
    "pause": ("cli.control:pause", "Hold a batch back."),
    "resume": ("cli.control:resume", "Let a paused batch go on."),
    "bundles": ("cli.bundles:bundles", "List the model bundles, or bring one into a server."),
    "datasets": ("cli.datasets:datasets", "Look at data sets, split them; register them with a server."),
    "rescore": ("cli.research:rescore", "Score a registered data set with some bundles."),
    "runs": ("cli.research:runs", "List such runs, show their figures, steer them."),
    "compare": ("cli.research:compare", "Say which of two bundles is better, on such runs."),
    "sites": ("cli.accounts:sites", "List a server's sites, or add one."),
    "people": ("cli.accounts:people", "List a site's people, invite somebody, change what they may."),
    "keys": ("cli.accounts:keys", "List a site's API keys, make one, revoke one."),
    "fsck": ("cli.fsck:fsck", "Find missing, altered and orphaned files."),
    "migrate": ("cli.prepare:migrate", "Make or update a server's tables, bucket, bundles, first site."),
    "doctor": ("cli.doctor:doctor", "Say what is missing on this machine, and what to do."),
    "backup": ("cli.backup:backup", "Save a server's database, files and secret as one archive."),
    "restore": ("cli.backup:restore", "Bring an archive of `backup` back."),
    "phantoms": ("training.make_phantoms:main", "Make synthetic radiographs."),
    "train": ("training.train:main", "Fit a model."),
    "evaluate": ("training.evaluate:main", "Measure a bundle on a data set."),
    "validate": ("cli.validate:validate", "Measure a bundle on a site's images; unlock a negative."),
    "benchmark": ("training.benchmark:main", "Compare architectures on a data set."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else _passing_on(cmd_name, command)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; errors are told as in `invoke`."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal of Latin-1 shows the rest as escapes
                stream.reconfigure(errors="backslashreplace")
        with telling_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; whatever goes wrong in it is told as a sentence, with an exit code of its own."""
        with telling_errors():
            result = super().invoke(ctx)
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # closed by the caller
                    stream.flush()  # a full disk is for us to tell, and not for the interpreter at its end
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _passing_on(name: str, main_function: Callable[[list[str]], object]) -> click.Command:
    """Return a command that hands all its arguments to a module's own `main`."""
    return click.Command(
        name,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        callback=lambda arguments: main_function(list(arguments)),
    )


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="fractureai")
def main() -> None:
    """Read bone X-rays in batches: findings, attention maps, PDF reports.

    Not a medical device. AI output, to be verified by a clinician.

    submit, watch, status, download, cancel, retry, pause, resume, rescore, runs and compare talk to the
    server that FRACTUREAI_URL and FRACTUREAI_API_KEY name. The others work on this machine.
    """


if __name__ == "__main__":
    main()
