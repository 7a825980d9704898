"""Addresses that a server listens on."""

import ipaddress

LOCAL = ("localhost", "127.0.0.1", "::1")


def address_of(host: str) -> str:
    """Replace "localhost" with 127.0.0.1, so that the server listens on that address only."""
    return "127.0.0.1" if host == "localhost" else host


def is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(address_of(host)).is_loopback
    except ValueError:
        return False
