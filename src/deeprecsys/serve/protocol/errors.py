"""Errors of requests, each with its HTTP status."""

from __future__ import annotations

from typing import Any

from deeprecsys.core.errors import InputError


class RequestError(InputError):
    """A request that cannot be understood or does not fit the model: 400, INVALID_ARGUMENT."""

    status = 400


class NotFoundError(RequestError):
    """No such model, version or page: 404, NOT_FOUND."""

    status = 404


class MethodError(RequestError):
    """The path does not take this method: 405."""

    status = 405


class SlowError(RequestError):
    """A body that came too slowly: 408."""

    status = 408


class TooLargeError(RequestError):
    """A body larger than any that the model could take: 413."""

    status = 413


class EncodingError(RequestError):
    """A compressed body: 415."""

    status = 415


class GoneError(Exception):
    """The client went away before its reply."""


def shown(value: Any, longest: int = 80) -> str:
    """A client's value for a message: on one line, of at most `longest` characters."""
    text = repr(value[: longest + 1] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
