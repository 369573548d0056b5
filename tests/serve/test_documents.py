"""The request of the documents is one that works."""

from __future__ import annotations

import re
from pathlib import Path

from deeprecsys.zoo import model
from tests.serve.asgi import Direct
from tests.serve.stand_in import StandIn


def test_the_curl_line() -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "clients.md").read_text()
    found = re.search(r"curl -s localhost:8000(\S+) -d '([^']+)'", text)
    assert found
    http = Direct(StandIn.of(ncf=model("ncf").schema))
    status, doc, _ = http.post(found[1], found[2].encode())
    assert (status, doc["outputs"][0]["shape"]) == (200, [2, 1])
