"""The command `archsim`: finds its subcommands when they are called, and turns errors into one line and an exit code.

Exit codes: 0 success, 2 bad input or usage, 1 anything else.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from archsim._version import MODEL_VERSION, __version__
from archsim.errors import ArchsimError, InputError

__all__ = ["cli", "main"]

# name: (module, attribute, one line for `archsim --help`, which thus imports none of them)
COMMANDS = {
    "run": ("archsim.cli.run", "run", "Simulate a workload on a chip or a system of chips."),
    "train": ("archsim.cli.train", "train", "Simulate a training step on a system of chips."),
    "plan": ("archsim.cli.plan", "plan", "Rank the ways to spread a step over a system."),
    "serve": ("archsim.cli.serve", "serve", "What a system yields as a server: throughput, latency, pools."),
    "report": ("archsim.cli.report", "report", "Show a stored result again, or as a page or a timeline."),
    "compare": ("archsim.cli.compare", "compare", "Compare two stored results."),
    "chip": ("archsim.cli.chip", "chip", "List, show and check chip descriptions."),
    "system": ("archsim.cli.chip", "system", "List and show systems of chips."),
    "network": ("archsim.cli.network", "network", "Time collectives on the fabric of a system."),
    "cost": ("archsim.cli.cost", "cost", "Show what a chip costs to make and to run."),
    "memory": ("archsim.cli.memory", "memory", "List memory standards; run request streams and traces through one."),
    "map": ("archsim.cli.map", "map_product", "Show how a product is cut into tiles on a chip, and why."),
    "fusion": ("archsim.cli.fusion", "fusion", "Show which operators become one kernel, and what that saves."),
    "trace": ("archsim.cli.trace", "trace", "Export and show operator traces of models."),
    "sweep": ("archsim.cli.sweep", "sweep", "Explore a space of designs: which chip should be built?"),
    "noc": ("archsim.cli.noc", "noc", "Measure on-chip networks: latency under load, saturation."),
    "systolic": ("archsim.cli.systolic", "systolic", "Walk one product through systolic arrays, fold by fold."),
    "validate": ("archsim.cli.validate", "validate", "Hold the simulator against reference data."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and answers for every error below it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # the reader has seen enough (`archsim ... | head`)
            _discard_output()
            ctx.exit(0)
        except Exception as error:
            if ctx.params["debug"] or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
                raise
            _fail(ctx, error)


def _discard_output() -> None:
    """What is still buffered would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(ctx: click.Context, error: Exception) -> NoReturn:
    if isinstance(error, ArchsimError):
        click.echo(f"archsim: {error}", err=True)
        ctx.exit(2 if isinstance(error, InputError) else 1)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    click.echo(f"archsim: internal fault ({what}); run with --debug for the traceback", err=True)
    ctx.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"archsim %(version)s (model version {MODEL_VERSION})")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Simulate AI chips on operator traces of large language models."""


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(prog_name="archsim")
    except OSError as error:
        if error.errno != errno.ENOSPC or "--debug" in sys.argv:
            raise
        _discard_output()  # files have messages of their own
        click.echo(f"archsim: standard output cannot be written: {error.strerror}", err=True)
        sys.exit(1)
