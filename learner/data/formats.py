"""Formats by name, telling which one a source has, and reading it: one `Parsed` for every row, good or bad."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from configs.exits import ConfigError, DataError
from learner.data.csv_rows import read_csv
from learner.data.fields import MAX_ROW, Fields, Notes, RowError, excerpt_of, oversized, shorten
from learner.data.files import PACKINGS, HubName, hub_name, local_files
from learner.data.kinds import finding
from learner.data.layout import Format, Ranking
from learner.data.lines import read_jsonl
from learner.data.native_format import NATIVE
from learner.data.pair_formats import BEAVERTAILS, HH_RLHF, PKU_SAFERLHF, PKU_SAFERLHF_2024, TRL
from learner.data.parquet_rows import read_parquet
from learner.data.prompt_format import PROMPTS
from learner.data.raw import RawRow, decoded
from learner.data.records import Finding, Parsed

FORMATS: Mapping[str, Format] = MappingProxyType(
    {each.name: each for each in (NATIVE, PKU_SAFERLHF_2024, PKU_SAFERLHF, BEAVERTAILS, HH_RLHF, TRL, PROMPTS)}
)
"""Formats that are read and written; of two that fit a row, the one that asks for more comes first."""
TARGETS: Mapping[str, Format] = FORMATS
"""Formats that are written."""
_SAMPLE = 50
"""Rows that are looked at to tell the format."""
_COLUMNS = frozenset(itertools.chain.from_iterable(each.known for each in TARGETS.values()))


@dataclass(frozen=True)
class Opened:
    """A source whose files are known."""

    source: str
    files: tuple[Path, ...]
    hub: HubName | None = None
    split: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of its files, as a `Parsed` names them."""
        return (f"{self.hub}/{self.split}",) if self.hub else tuple(str(file) for file in self.files)

    def raw_rows(self, at: int, columns: frozenset[str], skip: int = 0) -> Iterator[RawRow]:
        """Rows of one file, or of the split on the hub."""
        if self.hub:
            from learner.data.hub import read_hub

            assert self.split is not None
            return read_hub(self.hub, self.split, skip)
        return itertools.islice(_read_file(self.files[at], columns), skip, None)


def _read_file(path: Path, columns: frozenset[str]) -> Iterator[RawRow]:
    name = path.name.lower()
    for packing in PACKINGS:
        name = name.removesuffix(packing)
    if name.endswith(".parquet"):
        return read_parquet(path, columns)
    return read_csv(path) if name.endswith(".csv") else read_jsonl(path)


def open_source(source: str, *, revision: str | None = None, split: str | None = None) -> Opened:
    """Find the files of a source; nothing is read of local ones.

    Raises:
        DataError: there is none, or the hub cannot be reached.
        ConfigError: a name, split or revision that makes no sense.
    """
    place = hub_name(source, revision)
    if place is None:
        return Opened(source, tuple(local_files(source, split)))
    from learner.data.hub import hub_split

    return Opened(source, (), place, hub_split(place, split))


def known_format(name: str) -> Format:
    """A format that can be read.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in FORMATS:
        raise ConfigError(f"no format '{shorten(name)}'; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def detect_format(source: str, *, revision: str | None = None, split: str | None = None) -> str:
    """Tell the format from the first rows; a source of some foreign rows has the format that most of them have.

    Raises:
        DataError: no row can be read, no format fits, or two fit equally many rows; says why.
        ConfigError: a name, split or revision that makes no sense.
    """
    return format_of(open_source(source, revision=revision, split=split))


def format_of(opened: Opened) -> str:
    """As `detect_format`, for a source that is open already."""
    sample = _sample(opened)
    fitting = Counter(name for _file, _row, name in sample.fits if name)
    if not sample.fits:
        file, row, problem = sample.problem or (opened.source, 1, finding("not_data", "there is no row"))
        raise DataError(f"{file}: row {row}: {problem.message}")
    if not fitting:
        file, row, _name = sample.fits[0]
        raise DataError(f"{file}: row {row}: no format fits the fields {sample.fields}; name one with --format")
    (name, most_rows), *runners_up = fitting.most_common()
    if runners_up and runners_up[0][1] == most_rows:
        first, second = (
            next((f, r) for f, r, n in sample.fits if n == format_name) for format_name in (name, runners_up[0][0])
        )
        raise DataError(
            f"{opened.source}: which format? row {first[1]} of {first[0]} looks like {name}, row {second[1]} of {second[0]} like "
            f"{runners_up[0][0]}; name it with --format"
        )
    return name


@dataclass
class _Sample:
    fits: list[tuple[str, int, str | None]]
    """File, row and the format that fits it."""
    problem: tuple[str, int, Finding] | None = None
    fields: str = ""


def _sample(opened: Opened) -> _Sample:
    """Look at the first rows of the first files that have any."""
    sample = _Sample([])
    for at, file in enumerate(opened.names):
        for raw in itertools.islice(opened.raw_rows(at, _COLUMNS), _SAMPLE):
            try:
                if raw.problem is not None:
                    sample.problem = sample.problem or (file, raw.row, raw.problem)
                    continue
                row = decoded(raw)
            except RowError as error:
                sample.problem = sample.problem or (file, raw.row, error.finding)
                continue
            fit = next((layout.name for layout in FORMATS.values() if layout.fits(row)), None)
            sample.fields = sample.fields or ", ".join(shorten(str(key)) for key in itertools.islice(row, 12))
            sample.fits.append((file, raw.row, fit))
        if len(sample.fits) >= _SAMPLE:
            break
    return sample


def read_source(
    source: str,
    *,
    format: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    ranking: Ranking | None = None,
) -> Iterator[Parsed]:
    """Read a file, a folder, a pattern or ``hub:owner/name`` row by row, in bounded memory.

    Bad rows come too, with `Parsed.error`. ``ranking`` says what the order of HH-RLHF's pairs means; left out, the word
    "harmless" (`safer`) or "helpful" (`better`) in the file's or its folder's name says it.

    Raises:
        DataError: the source cannot be found, or its rows can be read but have no format that is known.
        ConfigError: a name, split or revision that makes no sense.
    """
    opened = open_source(source, revision=revision, split=split)
    return itertools.islice(read_opened(opened, format=format, ranking=ranking), limit)


def read_opened(
    opened: Opened,
    *,
    format: str | None = None,
    ranking: Ranking | None = None,
    start: tuple[int, int] = (0, 0),
) -> Iterator[Parsed]:
    """As `read_source`, from a file (by index) and a number of its rows that are passed over undecoded."""
    if format is not None:
        chosen = known_format(format)
    else:
        sample = _sample(opened)
        # Nothing to tell the format from: whatever reads the rows says what is wrong with each.
        chosen = known_format(format_of(opened)) if sample.fits else NATIVE
    first, skip = start
    for at in range(first, len(opened.names)):
        reader = _FileReader(opened.names[at], chosen, ranking)
        for raw in opened.raw_rows(at, chosen.known, skip if at == first else 0):
            yield reader.parse(raw)
            if reader.hopeless:
                break


class _FileReader:
    """Parses the rows of one file; what is said once per file is remembered here."""

    def __init__(self, file: str, layout: Format, ranking: Ranking | None) -> None:
        self._file, self._layout = file, layout
        ranking_in_name = _ranking_by_name(file)
        self._ranking: Ranking = ranking or ranking_in_name or "better"
        self._assumed = layout is HH_RLHF and ranking is None and ranking_in_name is None
        self._noted: set[str] = set()
        self.hopeless = False
        """No row of a table that lacks a needed column can be read: it is said once."""

    def parse(self, raw: RawRow) -> Parsed:
        notes = Notes()
        record = None
        try:
            if raw.problem is not None:
                notes.keep(raw.problem)
            else:
                record = self._record(decoded(raw), notes, table=not isinstance(raw.data, bytes))
        except RowError as error:
            notes.keep(error.finding)
        if notes.failed:
            record = None
        return Parsed(self._file, raw.row, record, notes.findings, excerpt_of(raw.data))

    def _record(self, row: Mapping[str, Any], notes: Notes, *, table: bool) -> Any:
        if self._assumed:
            self._assumed = False
            notes.add(
                "ranking_assumed", "neither 'harmless' nor 'helpful' is in the name: 'chosen' is taken for better"
            )
        if table and (missing := sorted(self._layout.required - row.keys())):
            self.hopeless = True
            raise RowError(
                "missing_field", f"{self._layout.name} needs the columns {', '.join(missing)}, and the table lacks them"
            )
        if table and oversized(row):
            raise RowError("too_long_row", f"the row is longer than {MAX_ROW // 2**20} MiB")
        self._note_unknown(row, notes)
        return self._layout.read(Fields(row), notes, self._ranking)

    def _note_unknown(self, row: Mapping[str, Any], notes: Notes) -> None:
        unknown = row.keys() - self._layout.known
        if not unknown:
            return
        name = shorten(min(unknown, key=str))
        if self._layout.strict:
            notes.add("unknown_column", f"{self._layout.name} has no field '{name}'", "error")
        elif fresh := unknown - self._noted:
            if len(self._noted) < 1000:  # a file of ever new names
                self._noted |= fresh
            names = ", ".join(f"'{shorten(str(column))}'" for column in sorted(fresh, key=str)[:5])
            notes.add("unknown_column", f"{names} {'is' if len(fresh) == 1 else 'are'} not read")


def _ranking_by_name(file: str) -> Ranking | None:
    """What a file's name, or else its folder's, says about the ranking."""
    for part in reversed(Path(file).parts[-3:] if file.startswith("hub:") else Path(file).parts[-2:]):
        harmless, helpful = "harmless" in part.lower(), "helpful" in part.lower()
        if harmless != helpful:
            return "safer" if harmless else "better"
    return None


__all__ = [
    "FORMATS",
    "TARGETS",
    "Opened",
    "detect_format",
    "format_of",
    "known_format",
    "open_source",
    "read_opened",
    "read_source",
]
