"""Settings of the page, passed from the command line to the script that Streamlit runs."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from engine.addresses import LOCAL, address_of, is_local


@dataclass(frozen=True, kw_only=True)
class Site:
    models: dict[str, str]
    """Models to choose from: names, and paths of runs or artifacts."""
    folders: tuple[str, ...]
    """Folders of videos to choose from, besides uploads."""
    max_upload_mb: int
    device: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"folders": tuple(values["folders"])})


def streamlit_options(site: Site, *, host: str, port: int, open_browser: bool) -> dict[str, Any]:
    """Streamlit's options; set here, they override the user's .streamlit/config.toml."""
    return {
        "server.address": address_of(host),
        "server.port": port,
        "server.headless": not open_browser,
        "server.maxUploadSize": site.max_upload_mb,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        # Protects against DNS rebinding.
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
