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


class ForbiddenError(RequestError):
    """A request that a page makes in a browser, or that is not granted: 403, PERMISSION_DENIED."""

    status = 403


class UnauthorizedError(RequestError):
    """A request without the token that it needs: 401, UNAUTHENTICATED."""

    status = 401


class ConflictError(RequestError):
    """What is asked for does not go together with what is there, or goes on: 409, ABORTED."""

    status = 409


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
    """A body in a coding that is unknown, or not what it says: 415."""

    status = 415


class GoneError(Exception):
    """The client went away before its reply."""


def shown(value: Any, longest: int = 80) -> str:
    """A client's value for a message: on one line, of at most `longest` characters."""
    if isinstance(value, bytes):
        value = value[: longest + 1].decode("latin-1")
    text = repr(value[: longest + 1] if isinstance(value, str | list) else value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
