"""Lines of a local text file, packed or not, in bounded memory; JSONL and CSV are made of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path

import pyarrow as pa

from learner.data.fields import MAX_ROW
from learner.data.kinds import finding
from learner.data.raw import RawRow, unusable
from learner.data.records import Finding

GIVE_UP = 2**28
"""Bytes of one line after which the rest of the file is not looked at."""
_HEAD = 512
_PACKED: Mapping[str, tuple[str, bytes]] = {
    ".gz": ("gzip", b"\x1f\x8b"),
    ".xz": ("xz", b"\xfd7zXZ"),
    ".bz2": ("bzip2", b"BZh"),
    ".zst": ("Zstandard", b"\x28\xb5\x2f\xfd"),
}
"""By the end of the name: the packing, and how its files begin."""
_MAGICS = (
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"PAR1", "a Parquet file: name it .parquet"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"ARROW1", "an Arrow file: write it as Parquet"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened: write it as JSONL"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
)
_UTF8_BOM, _UTF16_BOMS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
Line = tuple[int, bytes, bool]
"""Number from 1, the bytes with their line break, and whether it is the file's last and has none."""


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """The lines of a JSONL file that are not blank; errors are rows too. Nothing is decoded yet."""
    has_rows = False
    for line in read_lines(path):
        if isinstance(line, RawRow):
            has_rows = True
            yield line
        elif line[0] == 1 and line[1].lstrip().startswith(b"["):
            why = "it is one JSON array, not one object a line: `jq -c '.[]'` writes it as lines"
            yield unusable(1, "not_data", why, line[1][:4096])
            return
        elif line[1].strip():
            has_rows = True
            yield RawRow(line[0], line[1], last=line[2])
    if not has_rows:
        yield unusable(1, "not_data", "the file has blank lines alone")


def read_lines(path: Path) -> Iterator[Line | RawRow]:
    """The lines, and what went wrong between them; a file that cannot be read on ends with an error."""
    number = 0
    try:
        if problem := _wrong_file(path):
            yield RawRow(1, None, problem)
            return
        with _opened(path) as stream:
            for item in _lines(stream):
                number = item.row if isinstance(item, RawRow) else item[0]
                yield item
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        kind = _PACKED[path.suffix.lower()][0]
        why = (
            f"ends in the middle of its {kind} data"
            if isinstance(error, EOFError)
            else f"has damaged {kind} data ({error})"
        )
        yield unusable(number + 1, "truncated_file", f"the file {why}: download it again")
    except gzip.BadGzipFile as error:
        yield unusable(number + 1, "truncated_file", f"the gzip data is damaged ({error}): download it again")
    except OSError as error:
        if packed(path) and error.errno is None:  # bz2 and Arrow's Zstandard have no error of their own for damage
            kind = _PACKED[path.suffix.lower()][0]
            yield unusable(number + 1, "truncated_file", f"the {kind} data is damaged ({error}): download it again")
            return
        yield unusable(number + 1, "unreadable", f"the file cannot be read ({error.strerror or error})")


def packed(path: Path) -> bool:
    """Whether the file's name says that it is packed."""
    return path.suffix.lower() in _PACKED


def _opened(path: Path) -> BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case ".zst":
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
        case _:
            return path.open("rb")


def _lines(stream: BufferedIOBase) -> Iterator[Line | RawRow]:
    number = 0
    while line := stream.readline(MAX_ROW + 1):
        number += 1
        if number == 1:
            if problem := _wrong_text(line):
                yield RawRow(1, None, problem)
                return
            line = line.removeprefix(_UTF8_BOM)
        if len(line) <= MAX_ROW or line.endswith(b"\n"):
            yield number, line, not line.endswith(b"\n")
            continue
        whole = _skip_line(stream)
        ending = "" if whole else f", and goes on after {GIVE_UP // 2**20} MiB: the rest of the file is not read"
        yield unusable(number, "too_long_row", f"the line is longer than {MAX_ROW // 2**20} MiB{ending}", line[:4096])
        if not whole:
            return
    if number == 0:
        yield unusable(1, "not_data", "the file is empty")


def _skip_line(stream: BufferedIOBase) -> bool:
    """Read to the line's end without keeping it; false if there is none in sight."""
    skipped = 0
    while skipped < GIVE_UP:
        piece = stream.readline(2**20)
        if not piece or piece.endswith(b"\n"):
            return True
        skipped += len(piece)
    return False


def _wrong_file(path: Path) -> Finding | None:
    """What the first bytes say against the file's name."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    expected = _PACKED.get(path.suffix.lower())
    if expected is not None and head and not head.startswith(expected[1]):
        problem = _wrong_text(head)
        end = path.suffix
        reason = problem.message if problem else f"it is not {expected[0]}: take {end} off its name, or pack it"
        return finding("not_data", reason)
    actual = next((end for end, (_kind, magic) in _PACKED.items() if head.startswith(magic)), None)
    if expected is None and actual is not None:
        return finding("not_data", f"it is {_PACKED[actual][0]}: add {actual} to its name")
    return None


def _wrong_text(head: bytes) -> Finding | None:
    """What the first bytes say against lines of UTF-8 text."""
    for magic, file_type in _MAGICS:
        if head.startswith(magic):
            return finding("not_data", f"it is {file_type}")
    start = head[:_HEAD]
    if start.startswith(_UTF16_BOMS) or start.count(0) > len(start) // 4:
        return finding("bad_encoding", "it is UTF-16 or binary, not UTF-8: save it as UTF-8")
    text = start.removeprefix(_UTF8_BOM).lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return finding("not_data", "it is a web page, not data: download the file itself")
    return None
