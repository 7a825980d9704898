"""What the command line says of the page, on its way to the script that Streamlit runs."""

import dataclasses
import ipaddress
import json
from dataclasses import dataclass
from typing import Any, Self

LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Site:
    models: dict[str, str]
    """What may be chosen: a name, and the path of a run or an artifact."""
    folders: tuple[str, ...]
    """Whose videos may be picked, beside those that are uploaded."""
    max_upload_mb: int
    device: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"folders": tuple(values["folders"])})


def address_of(host: str) -> str:
    """Names of this machine alone are one address, so that nothing else is listened on."""
    return "127.0.0.1" if host == "localhost" else host


def is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(address_of(host)).is_loopback
    except ValueError:
        return False


def streamlit_options(site: Site, *, host: str, port: int, open_browser: bool) -> dict[str, Any]:
    """All that matters is set here: a visitor's own .streamlit/config.toml can't undo it."""
    return {
        "server.address": address_of(host),
        "server.port": port,
        "server.headless": not open_browser,
        "server.maxUploadSize": site.max_upload_mb,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        # A foreign page whose name is made to mean this machine isn't answered.
        "server.allowedHosts": list(LOCAL) if is_local(host) else [],
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost" if is_local(host) else None,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "error",
        "runner.magicEnabled": False,
        "theme.primaryColor": "#0b6e4f",
    }
