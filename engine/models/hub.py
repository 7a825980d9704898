"""Switches the Hugging Face Hub client to offline mode if the hub can't be reached.

The client retries for half a minute before it fails. If the hub's host name can't be resolved,
offline mode makes it use only local copies.
"""

import os
import socket
import sys
from urllib.error import URLError
from urllib.parse import urlsplit

OFFLINE = "HF_HUB_OFFLINE"


def stay_offline_if_unreachable() -> None:
    """Set HF_HUB_OFFLINE if the hub's host name can't be resolved and there is no proxy."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # the proxy resolves names
    try:
        socket.getaddrinfo(_host(), 443)
    except OSError:
        os.environ[OFFLINE] = "1"
        if "huggingface_hub" in sys.modules:  # it reads the variable only when it is imported
            from huggingface_hub import constants

            constants.HF_HUB_OFFLINE = True


def reason(error: Exception) -> str:
    """A short reason why weights could not be fetched."""
    if os.environ.get(OFFLINE) == "1" and not isinstance(error, URLError):  # URLError: torchvision
        return f"{_host()} can't be reached"
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")


def _host() -> str:
    return urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
