"""What a user sees when something is wrong: one line on standard error, and an exit status."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from deeprecsys.api.progress import Interrupted
from deeprecsys.core.errors import (
    InputError,
    NodeError,
    NotConfirmedError,
    TargetUnreachableError,
    TrialsVoidError,
)
from deeprecsys.report.text import knobs

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def run(command: Callable[[], object]) -> int:
    """Run a command and turn what it raises into one line on stderr and an exit status."""
    try:
        with sigterm_as_interrupt(), notices_on_stderr():
            command()
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return BAD_INPUT
    except click.ClickException as e:
        return _say(_one_line(e), BAD_INPUT)
    except InputError as e:
        return _say(str(e), BAD_INPUT)
    except (NodeError, TargetUnreachableError, NotConfirmedError, TrialsVoidError) as e:
        return _say(str(e), FAILED)
    except (KeyboardInterrupt, click.Abort) as e:
        if isinstance(e, Interrupted):
            _show_found(e)
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away: nothing left to say to it
        return FAILED
    return 0


def _say(text: str, status: int) -> int:
    click.echo(f"deeprecsys: {text}", err=True)
    return status


def _show_found(interrupted: Interrupted) -> None:
    """The capacities that a search had found until it was interrupted."""
    if interrupted.found:
        click.echo("found before the interruption:")
    for done in interrupted.found:
        qps = done.result.capacity_qps
        rate = f"{qps:.4g} queries/s" if qps else f"below {done.result.high_qps:.4g} queries/s"
        click.echo(f"  {knobs(done.policy.describe())}: {rate}")


class _Notices(logging.Handler):
    """Shows what the library logs as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"deeprecsys: {record.getMessage()}", err=True)


@contextmanager
def notices_on_stderr() -> Iterator[None]:
    """Show the library's notices while a command runs."""
    logger, handler = logging.getLogger("deeprecsys.api"), _Notices()
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _one_line(error: click.ClickException) -> str:
    """Click's message, naming the nearest valid option or command where it knows one."""
    if isinstance(error, click.NoSuchOption):
        near = f": did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"unknown option {error.option_name}{near}"
    return " ".join(error.format_message().split())


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """End on SIGTERM and SIGHUP as on Ctrl-C: workers stopped, partial results written."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
