"""The sources that a run's settings name: found, told apart by their content, and read with their tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from configs.exits import ConfigError, DataError
from configs.explain import suggestion
from configs.schema.data import SourceSettings
from learner.data.files import hub_name, local_files
from learner.data.formats import known_format, read_source
from learner.data.quarantine import Quarantine
from learner.data.records import Parsed
from learner.model_files.folders import add_fingerprint

PACKAGED = "packaged:"
FIXTURES = Path(__file__).parent / "fixtures"


@dataclass(frozen=True)
class FoundSource:
    """One source that exists here."""

    settings: SourceSettings
    place: str
    """An absolute path or pattern, or the hub's name."""
    replaced: bool = False
    """The fallback was taken."""

    @property
    def on_hub(self) -> bool:
        """Whether its rows come over the network."""
        return hub_name(self.place) is not None

    def digest(self) -> str:
        """sha256 of what is read and how; of the hub its name and revision stand for the content."""
        sha = hashlib.sha256(repr((self.settings.model_dump(exclude={"source", "otherwise"}), self.replaced)).encode())
        if self.on_hub:
            sha.update(self.place.encode())
            return sha.hexdigest()
        for path in local_files(self.place, self.settings.split):
            add_fingerprint(sha, path)
        return sha.hexdigest()

    def rows(self) -> Iterator[Parsed]:
        """Every row, good or bad, its record tagged as the settings say.

        Raises:
            DataError: the source cannot be read.
        """
        settings = self.settings
        for parsed in read_source(
            self.place, format=settings.format, split=settings.split, limit=settings.rows, ranking=settings.ranking
        ):
            record = parsed.record
            if record is None or not settings.tags:
                yield parsed
            else:
                tags = tuple(dict.fromkeys((*record.tags, *settings.tags)))
                yield replace(parsed, record=replace(record, tags=tags))


def find_source(settings: SourceSettings, root: Path, key: str) -> FoundSource:
    """Find a source, or its fallback.

    Args:
        root: folder that local names are relative to.
        key: of the settings, for errors.

    Raises:
        ConfigError: the format does not exist, or a packaged name.
        DataError: there is no such source, and no fallback.
    """
    if settings.format is not None:
        known_format(settings.format)
    try:
        return FoundSource(settings, _place(settings.source, settings.split, root))
    except DataError as error:
        if settings.otherwise is None:
            hint = "" if hub_name(settings.source) else " (local sources are relative to data.root)"
            raise DataError(f"{key}: {error}{hint}") from error
    try:
        return FoundSource(settings, _place(settings.otherwise, None, root), replaced=True)
    except DataError as error:
        raise DataError(f"{key}.otherwise: {error}") from error


FILE_FAULTS = frozenset({"truncated_file", "unreadable", "not_data"})
"""Kinds of errors that are of a file, not of a row."""


def rows_of(sources: Sequence[FoundSource], quarantine: Quarantine | None = None) -> Iterator[Parsed]:
    """The rows of several sources one after another; those with an error go into the quarantine too.

    Raises:
        DataError: a file cannot be read, or breaks off: what is left of it would pass for all of it.
    """
    for parsed in chain.from_iterable(source.rows() for source in sources):
        if parsed.error is not None and parsed.error.kind in FILE_FAULTS:
            raise DataError(f"{parsed.file}: row {parsed.row}: {parsed.error.message}")
        if quarantine is not None and parsed.error is not None:
            quarantine.add(parsed, parsed.findings)
        yield parsed


def _place(name: str, split: str | None, root: Path) -> str:
    if name.startswith(PACKAGED):
        return str(_packaged(name.removeprefix(PACKAGED)))
    if hub_name(name) is not None:
        return name
    place = str(root.absolute() / name)
    local_files(place, split)
    return place


def _packaged(name: str) -> Path:
    packaged_names = sorted(path.stem for path in FIXTURES.glob("*.jsonl"))
    if name not in packaged_names:
        raise ConfigError(f"no packaged set '{name}'; {suggestion(name, packaged_names)}")
    return FIXTURES / f"{name}.jsonl"
