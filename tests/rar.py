"""Writes RAR archives (version 2.9, as in 2011) without compression."""

import struct
import zlib
from pathlib import Path

STORED, COMPRESSED = 0x30, 0x33
NEW_YEAR_2011 = ((2011 - 1980) << 9 | 1 << 5 | 1) << 16


def write_rar(
    path: Path,
    members: dict[str, bytes],
    *,
    method: int = STORED,
    mode: int = 0o100644,
    solid: bool = False,
) -> Path:
    """`method` COMPRESSED and `solid` only label the members so: what is needed to see who'd be
    asked, and how."""
    blocks = [b"Rar!\x1a\x07\x00", _block(0x73, 8 * solid, b"\0" * 6)]
    for name, data in members.items():
        # Folders are parted by backslashes, on every system.
        encoded = name.replace("/", "\\").encode()
        fields = struct.pack(
            "<IIBIIBBHI",
            len(data), len(data), 3, zlib.crc32(data), NEW_YEAR_2011, 29, method, len(encoded),
            mode,
        )  # fmt: skip
        blocks += [_block(0x74, 0x8000, fields + encoded), data]
    blocks.append(_block(0x7B, 0x4000, b""))
    path.write_bytes(b"".join(blocks))
    return path


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
