"""File names that no file system takes for one."""

import unicodedata


def folded(name: str) -> str:
    """The same for names that some file system doesn't tell apart: `Day`, `day`, and the two ways
    to write `é`."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
