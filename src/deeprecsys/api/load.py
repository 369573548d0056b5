"""`load`: have a running server take other weights into service."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from deeprecsys.api.serve import token_of
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.files import first_line

TIMEOUT_S = 3600.0


def load(
    model: str,
    *,
    url: str,
    weights: str | None = None,
    version: str | None = None,
    keep_tables: bool = False,
    keep: bool = False,
    token: str | Path | None = None,
) -> str:
    """Have a server serve a version of a model's weights; returns which, once it serves.

    Args:
        url: of the server, http://HOST:PORT.
        weights: a file in the server's directory (`serve --admin DIR`), by its path there.
        version: its name. Of a version that the server holds, or that lies in its directory as
            MODEL/VERSION/weights.safetensors, it is enough; without either, the newest there is taken.
        keep_tables: the file has the dense stage alone, and the tables stay.
        keep: the version that served before is held, to return to it at once.
        token: a file with the server's token.

    Raises:
        InputError: the server refuses it, and why. NodeError: there is no server, or it is not able to.
    """
    parts = urlsplit(url if "//" in url else f"//{url}", "http")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if parts.scheme != "http" or not host:
        raise InputError(f"--url: expected http://HOST:PORT, got {url}")
    given = {"weights": weights, "version": version, "keep_tables": keep_tables, "keep": keep}
    body = json.dumps({"parameters": {name: value for name, value in given.items() if value}})
    headers = {"Authorization": f"Bearer {token_of(token)}"} if token else {}
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/repository/models/{quote(model, safe='')}/load", body, headers)
        answer = connection.getresponse()
        doc: Any = json.loads(answer.read())
        if answer.status == 200:
            return str(doc["version"])
        reason = str(doc["error"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as e:
        raise NodeError(f"--url {url}: expected an answer of a server, got: {first_line(e)}") from e
    finally:
        connection.close()
    raise NodeError(reason) if answer.status >= 500 else InputError(reason)
