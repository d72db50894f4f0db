"""The command line: one verb a question.

A verb's module is imported when it is called, and imports the core inside its function, so that help is quick and an
answer pays for what it uses.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

VERBS: Final = {
    "params": "How many parameters, where; bytes to store and to load.",
    "serve": "Memory to run a model; does it fit; how much context and concurrency are left.",
    "train": "Memory to train or fine-tune a model, at its peak.",
    "trace": "The real code on tensors without data: every allocation, without a GPU.",
    "measure": "The real code on the real device, beside the prediction.",
    "explain": "A line of an answer down to its formula, numbers and reference; the rules of thumb.",
    "compare": "What a config predicts beside what a file of weights holds: missing, extra, resized tensors.",
    "replay": "A recording of PyTorch's caching allocator through the model of it; any profile, as a timeline.",
    "devices": "The accelerators that are known, with sources.",
    "models": "The models that are known by name, with sources.",
}

LATER: Final = ("plan", "serve-api", "mcp", "convert", "watch")
"""Verbs to come: asking for one is understood, and refused."""


class Verbs(click.Group):
    """Lists verbs from the table; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's module holds a ``command``."""
        if cmd_name in LATER:
            from tonnage.errors import UnsupportedError

            raise UnsupportedError(
                f"tonnage {cmd_name} is not there yet", key="verb", value=cmd_name, hint=f"verbs: {', '.join(VERBS)}"
            )
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"tonnage.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The one-line helps, without importing any verb."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: _version(ctx) if wanted else None,
    help="Show the version.",
)
def cli() -> None:
    """How much accelerator memory a model takes, where every byte goes, and what would make it fit."""


def _version(ctx: click.Context) -> None:
    from tonnage import __version__

    click.echo(f"tonnage {__version__}")
    ctx.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0 it fits, may fit, or there was nothing to fit; 1 it does not fit; 2 the input is wrong; 3 refused rather than
        guessed; 4 a file or network source failed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Imported here: an error's class is needed only when there is one to catch.
    from tonnage.errors import InputError, SourceError, TonnageError

    try:
        code = cli.main(args=arguments, prog_name="tonnage", standalone_mode=False)
        sys.stdout.flush()
    except TonnageError as e:
        return _failed(e, arguments)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        if isinstance(e, click.exceptions.NoArgsIsHelpError):
            click.echo(e.format_message())
            return 0
        return _failed(InputError(_one_line(e), key=_flag(e)), arguments)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; what it read is what it wanted.
        sys.stderr.close()
        return 0
    except OSError as e:
        print(f"error: cannot write the answer: {e.strerror or e}", file=sys.stderr)
        # What is left in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SourceError.exit_code
    return code if isinstance(code, int) else 0


def _failed(error: Exception, arguments: list[str]) -> int:
    from tonnage.errors import TonnageError

    assert isinstance(error, TonnageError)
    if "--json" in arguments:
        import json

        print(json.dumps({"schema": 1, "error": error.as_dict()}, ensure_ascii=False))
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    return text[:1].lower() + text[1:].rstrip(".") if text else "wrong usage"


def _flag(error: click.ClickException) -> str | None:
    name = getattr(error, "option_name", None)
    param = getattr(error, "param", None)
    return str(name or (param.name if param is not None else "")).lstrip("-").replace("-", "_") or None


ASCII: Final = {"█": "#", "…": "...", "×": "x"} | dict.fromkeys("▋▊▉", "#") | dict.fromkeys("▏▎▍▌", " ")
"""What stands for characters that an old terminal lacks."""


def _spelt(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(ASCII.get(c, "?") for c in error.object[error.start : error.end]), error.end


def run() -> None:
    """The installed program."""
    import codecs
    import gc

    codecs.register_error("tonnage", _spelt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tonnage")

    # One answer makes little garbage; looking for it, at the end most of all, would take a seventh of its time.
    gc.disable()
    code = main()
    gc.freeze()
    sys.exit(code)
