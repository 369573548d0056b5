"""What a user sees when something is wrong: one line on standard error, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
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
from deeprecsys.files import first_line
from deeprecsys.plugins import RAISED, place, reason
from deeprecsys.report.text import knobs

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def run(command: Callable[[], object]) -> int:
    """Run a command and turn what it raises into one line on stderr and an exit status."""
    try:
        with sigterm_as_interrupt(), notices_on_stderr():
            command()
            sys.stdout.flush()
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
    except BrokenPipeError:  # the reader went away: nothing left to say to it
        _drop_output()
        return FAILED
    except OSError as e:
        _drop_output()
        printing = traceback.extract_tb(e.__traceback__)[-1].name in (click.echo.__name__, run.__name__)
        where = "standard output" if printing else e.filename or "a file"
        what = "expected room to write, got: " if e.errno in _FULL else ""
        return _say(f"{where}: {what}{first_line(e)}", BAD_INPUT)
    except MemoryError:
        return _say("expected enough memory for this, got too little", FAILED)
    except RAISED as e:
        if not (where := place(e)):
            raise
        return _say(f"{where}: {reason(e)}", FAILED)
    return 0


def _drop_output() -> None:
    """Write no more to standard output, which the interpreter would try again when it ends."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _say(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # its reader went away too
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
