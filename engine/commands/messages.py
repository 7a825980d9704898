"""Error messages of the library as the command line prints them."""

import re

_SETTING = re.compile(r"`([a-z_]+)(?:=(?:(True)|'([^']*)'|([\w.]+)))?`")


def with_flags(message: str) -> str:
    """Replace settings as Python writes them with flags.

    The library names settings in backticks: `` `lr` `` becomes --lr, `` `resume=True` `` becomes
    --resume, and `` `device='cpu'` `` becomes --device cpu.
    """
    return _SETTING.sub(_flag, message)


def _flag(match: re.Match[str]) -> str:
    name, _, word, number = match.groups()
    flag = "--" + name.replace("_", "-")
    return f"{flag} {word or number}" if word or number else flag
