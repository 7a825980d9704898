"""Extracts RAR archives with unrar, unar, bsdtar or 7z, whichever is installed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import RefusedError, UserError
from engine.progress import progress_bar


def unpack(
    archive: Path, target: Callable[[PurePosixPath], Path | None], unit: str | None = None
) -> None:
    """Extract the members for which `target` returns a path.

    Only paths from `target` are written, so the names in an archive can't point outside a folder.

    Args:
        archive: The RAR file.
        target: Maps the name of a member to its output path, or to None to skip it.
        unit: What the progress bar counts.

    Raises:
        UserError: The archive is damaged, or an output path already exists.
        RefusedError: The archive is compressed and no tool that extracts RAR is installed.
    """
    with _open_rar(archive) as rar:
        members = [member for member in rar.infolist() if not member.is_dir()]
        with progress_bar(
            f"Unpacking {archive.name}", total=len(members), unit=unit or ""
        ) as advance:
            for member in members:
                path = target(PurePosixPath(member.filename))
                if path is not None:
                    if path.exists():
                        raise UserError(
                            f"{archive} holds two clips called {path.name}; remove one."
                        )
                    with rar.open(member) as source, path.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                advance()


@contextmanager
def _open_rar(archive: Path) -> Iterator[Any]:
    import rarfile

    _fix_bsdtar(rarfile)
    try:
        with rarfile.RarFile(archive) as rar:
            yield rar
    except rarfile.RarCannotExec as error:
        raise RefusedError(
            f"{archive} is compressed and no tool that opens RAR is installed; install one with "
            "`apt-get install unar` (unrar, bsdtar and 7z work too)."
        ) from error
    except (rarfile.Error, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{archive} can't be read as a RAR archive ({reason}); download it again, or install "
            "another tool: `apt-get install unar`."
        ) from error


def _fix_bsdtar(rarfile: Any) -> None:
    """Patch rarfile up to 4.5, whose call `bsdtar -f -- ARCHIVE` opens a file named `--`."""
    original = rarfile.ToolSetup.open_cmdline
    if getattr(original, "is_patched", False):
        return

    def open_cmdline(setup: Any, *arguments: Any) -> list[str]:
        command = original(setup, *arguments)
        if setup.setup is rarfile.BSDTAR_CONFIG and "--" in command:
            command.remove("--")
            archive = command.index("-f") + 1
            command.insert(archive + 1, "--")  # so that no member name is parsed as an option
        return command

    open_cmdline.is_patched = True  # type: ignore[attr-defined]
    rarfile.ToolSetup.open_cmdline = open_cmdline
