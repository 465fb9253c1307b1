"""Rows of a data set on the Hugging Face hub, streamed: nothing but data is downloaded, and no code of it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from configs.exits import ConfigError, DataError
from learner.data.files import HubName
from learner.data.raw import RawRow, unusable

_TRIES = 3


def hub_split(place: HubName, split: str | None) -> str:
    """The split to read: the one that is asked for, or the only one.

    Raises:
        ConfigError: there are several and none is asked for, or there is no such one.
        DataError: the data set cannot be reached.
    """
    datasets = _library()
    with _clear_errors(place):
        builder = datasets.load_dataset_builder(
            place.name,
            place.config,
            data_dir=place.folder,
            revision=place.revision,
            download_config=datasets.DownloadConfig(max_retries=_TRIES),
        )
        splits = [
            str(split_name) for split_name in builder.info.splits or getattr(builder.config, "data_files", None) or ()
        ]
    split_names = ", ".join(splits) or "none that its card names"
    if split is None and len(splits) != 1:
        raise ConfigError(f"{place}: which split? it has {split_names}; give --split")
    if split is not None and splits and split not in splits:
        raise ConfigError(f"{place}: no split '{split}'; it has {split_names}")
    return split or splits[0]


def read_hub(place: HubName, split: str, skip: int = 0) -> Iterator[RawRow]:
    """The rows of a split from row ``skip`` + 1 on.

    Raises:
        DataError: the data set cannot be reached, or the stream broke off: a conversion goes on there the next time.
    """
    datasets = _library()
    with _clear_errors(place):
        rows = datasets.load_dataset(
            place.name,
            place.config,
            data_dir=place.folder,
            split=split,
            revision=place.revision,
            streaming=True,
            download_config=datasets.DownloadConfig(max_retries=_TRIES),
        )
        stream = iter(rows.skip(skip) if skip else rows)
    number = skip
    while True:
        with _clear_errors(place, f"row {number + 1}: "):
            fields: dict[str, Any] | None = next(stream, None)
        if fields is None:
            break
        number += 1
        yield RawRow(number, fields)
    if number == 0:
        yield unusable(1, "not_data", "the split has no row")


def _library() -> Any:
    """`datasets`, without its lines on the terminal: what goes wrong is said once, in our words."""
    import datasets
    import huggingface_hub.utils.logging as hub_logging

    hub_logging.set_verbosity(logging.CRITICAL)
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` and what it stands on raise for a network, a name or a file that is not right."""
    import httpx
    import pyarrow as pa
    from aiohttp import ClientError
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wrong = (ValueError, KeyError, TypeError, RuntimeError, EOFError)
    return (
        OSError,
        DatasetsError,
        HfHubHTTPError,
        HFValidationError,
        httpx.HTTPError,
        ClientError,
        pa.ArrowException,
        *wrong,
    )


class _clear_errors:  # noqa: N801  reads as the statement it is
    """Failures of the hub as one `DataError`."""

    def __init__(self, place: HubName, where: str = "") -> None:
        self._place, self._where = place, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _failures()):
            raise DataError(f"{self._place}: {self._where}{_reason(error)}") from error


def _reason(error: BaseException) -> str:
    name, text = type(error).__name__, " ".join(str(error).split())[:200]
    if name == "DatasetNotFoundError":
        return "no such data set, revision or folder on the hub, or it needs your token (huggingface-cli login)"
    if "Offline" in name or "Connect" in name or "Couldn't reach" in text or "Timeout" in name:
        return f"the hub cannot be reached ({name}): check the network, or download the files and give their folder"
    return f"cannot be read: {name}: {text}"
