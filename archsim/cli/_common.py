"""What the commands share: consoles, JSON output, a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click
from click.core import ParameterSource

from archsim.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "console", "cp_by_option", "emit_json", "headed", "json_option", "progress", "refuse", "shared_experts_option",
    "step_options",
]  # fmt: skip

QUIET_S = 1.0  # work shorter than this shows no bar

json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print machine-readable JSON on stdout."
)


def _choice(flag: str, legal: tuple[str, ...], text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option with one of a few values, the first by default."""
    return click.option(flag, type=click.Choice(legal), default=legal[0], show_default=True, help=text)


cp_by_option = _choice(
    "--cp-by", ("tokens", "heads"),
    "Attention to prompts at --cp: to all tokens for own ones, or for own heads of all (Ulysses, SP-TP-SP).",
)  # fmt: skip
shared_experts_option = _choice(
    "--shared-experts", ("everywhere", "spread"),
    "Every chip holds them, or they are spread (and copied) like the others.",
)  # fmt: skip


def step_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which step of a model is meant."""
    for option in reversed((
        click.option("--phase", type=click.Choice(("prefill", "decode", "train")), required=True,
                     help="What kind of step."),
        click.option("--batch", type=int, default=1, show_default=True, help="Sequences over the whole system."),
        click.option("--seq", type=int, help="New tokens of a sequence.  [default: prefill 2048, decode 1]"),
        click.option("--ctx", type=int,
                     help="Tokens of a sequence in the KV cache already.  [default: decode 4096, else 0]"),
    )):  # fmt: skip
        command = option(command)
    return command


class Update(Protocol):
    """Reports how much is done; `total` may be told late."""

    def __call__(self, done: float, total: float | None = None) -> None: ...


def console(*, stderr: bool = False) -> Console:
    """A rich console: tables go to stdout, progress and notes to stderr. Rich itself heeds NO_COLOR.

    Names come from files of others: what looks like rich's markup (``[bold]``, ``:x:``) is text as it stands.
    """
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def headed(head: str, rest: str = "") -> Text:
    """A line that begins in bold."""
    from rich.text import Text

    return Text.assemble((head, "bold"), rest)


def emit_json(obj: object) -> None:
    """Print `obj` as JSON; NumPy scalars and arrays become numbers and lists, and NaN is an error."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} is not JSON")

    click.echo(json.dumps(obj, indent=2, allow_nan=False, default=plain))


def refuse(why: str, *names: str) -> None:
    """Raise InputError with `why` if one of these parameters of the command was given: nothing is left out silently."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{parameter.opts[-1]}: {why}")


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Update]:
    """Yield ``update(done, total=None)``, which draws a bar on stderr: on a terminal only, and after one second."""
    begin = time.monotonic()
    bar: Any = None

    def update(done: float, total: float | None = total) -> None:
        nonlocal bar
        if bar is None:
            if not sys.stderr.isatty() or time.monotonic() - begin < QUIET_S:
                return
            from rich.progress import Progress

            bar = Progress(console=console(stderr=True), transient=True)
            bar.add_task(description, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()
