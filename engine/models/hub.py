"""The Hugging Face hub, from which weights are fetched: whether it can be reached at all.

Its client tries for half a minute before it gives up. Where its host has no address, it is told
beforehand not to try, and looks for copies on this machine alone.
"""

import os
import socket
import sys
from urllib.error import URLError
from urllib.parse import urlsplit

OFFLINE = "HF_HUB_OFFLINE"


def stay_offline_if_unreachable() -> None:
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # the proxy knows addresses
    try:
        socket.getaddrinfo(_host(), 443)
    except OSError:
        os.environ[OFFLINE] = "1"
        if "huggingface_hub" in sys.modules:  # it read the variable when it was imported
            from huggingface_hub import constants

            constants.HF_HUB_OFFLINE = True


def reason(error: Exception) -> str:
    """Why something could not be fetched, in few words."""
    if os.environ.get(OFFLINE) == "1" and not isinstance(error, URLError):  # torchvision's
        return f"{_host()} can't be reached"
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")


def _host() -> str:
    return urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
