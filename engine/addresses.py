"""Addresses that a server listens on."""

import ipaddress
import socket

from engine.errors import UserError

LOCAL = ("localhost", "127.0.0.1", "::1")


def address_of(host: str) -> str:
    """Replace "localhost" with 127.0.0.1, so that the server listens on that address only."""
    return "127.0.0.1" if host == "localhost" else host


def is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(address_of(host)).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        UserError: It can't be taken.
    """
    address = address_of(host)
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((address, port))
    except OSError as error:
        server.close()
        raise UserError(
            f"{address}:{port} can't be listened on ({error.strerror or error}): pass another "
            "`port` or `host`."
        ) from error
    return server
