"""Checks of addresses before a server is built. Importing this needs no extra."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from deeprecsys.core.errors import InputError


def without_fork_handlers() -> None:
    """Turn off gRPC's fork handlers, before it is imported.

    Workers are started by fork and exec while its threads run, and use no gRPC; the handlers could only log
    that they were skipped.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@dataclass(frozen=True)
class Admin:
    """Whether and how weights may be changed from outside.

    Attributes:
        directory: that all weights lie in.
        verbs: whether requests may change them; token: that these must carry, "" for none.
        watch: whether new versions in the directory are loaded as they appear.
    """

    directory: Path
    verbs: bool = True
    token: str = ""
    watch: bool = False


BACKLOG = 2048


def listen(host: str, port: int, option: str = "--http-port") -> socket.socket:
    """A listening socket whose connections send at once; on `::` for IPv4 too.

    Raises:
        InputError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError) as e:
        raise InputError(
            f"--host and {option}: expected an address to listen on, got {authority(host, port)}: {e}"
        ) from e
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which this one does
    # not; without it a reply in two pieces waits for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def check_addresses(host: str, http_port: int, grpc_port: int) -> None:
    """Raise InputError where a port is taken, before anything takes time. 0 is any port that is free."""
    if http_port and http_port == grpc_port:
        raise InputError(f"--grpc-port: expected another than --http-port, got {grpc_port}")
    for port, option in ((http_port, "--http-port"), (grpc_port, "--grpc-port")):
        listen(host, port, option).close()


def authority(host: str, port: int) -> str:
    """Host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ip_address(str(a[4][0]).partition("%")[0]).is_loopback for a in found)
