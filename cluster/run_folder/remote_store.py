"""A run kept in a remote store (``s3://…``, ``gs://…``, ``file:///…``) while nodes work in a folder.

Models, training sets and checkpoints are read and written as files by every actor, so a run always works in a folder; the
store holds a copy that is brought up to date while the run goes on, and from which the run goes on anywhere. Invariant: the
store's manifest never names an output that the store lacks, for the manifest is read first and written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from configs.exits import ClusterError, ConfigError
from configs.layout import RunLayout

SYNC_SECONDS = 15.0
LAST_SYNC_SECONDS = 10.0
"""How long a run that ends waits for a sync that is under way."""
MARK = ".in-step.json"
"""In the folder and in the store: equal where neither has changed without the other."""
SMALL = (
    "report.html",
    "summary.json",
    "config.resolved.yaml",
    "manifest.json",
    "status.json",
    "metrics.jsonl",
    "rounds.json",
)
"""What `steelyard fetch` brings of a run, besides the small files of its evaluations."""
LAST = ("manifest.json", "status.json")
_NOT_KEPT = ("ray_train",)

_log = logging.getLogger(__name__)


class RunStore:
    """One run below a store's URL.

    Raises:
        ConfigError: the URL names no file system that this installation reaches.
    """

    def __init__(self, url: str, run: str) -> None:
        from pyarrow import ArrowException, fs

        self.url = f"{url.rstrip('/')}/{run}"
        try:
            self._system, self._base = fs.FileSystem.from_uri(self.url)
        except (ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"storage: {url}: {_line(error)}; give a folder, or a URL such as s3://bucket/runs"
            ) from error
        self._sent: dict[str, tuple[int, int]] | None = None
        """What the store has of the folder's files, as they were; None until it is known."""

    def read(self, name: str) -> bytes | None:
        """One file, or None where there is none.

        Raises:
            ClusterError: the store does not answer, or refuses.
        """
        with self._errors(name):
            try:
                with self._system.open_input_stream(f"{self._base}/{name}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write one file whole. Raises as `read`."""
        path = f"{self._base}/{name}"
        with self._errors(name):
            self._make_folder(path)
            whole = (
                self._system.type_name != "local"
            )  # an object appears when it is complete; a file must be moved there
            scratch = path if whole else f"{path}.{uuid.uuid4().hex[:8]}.part"
            with self._system.open_output_stream(scratch) as stream:
                stream.write(content)
            if not whole:
                self._system.move(scratch, path)

    def names(self) -> list[str]:
        """Every file, relative to the run. Raises as `read`."""
        from pyarrow import fs

        with self._errors(""):
            selector = fs.FileSelector(self._base, recursive=True, allow_not_found=True)
            paths = [info.path for info in self._system.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(path.removeprefix(f"{self._base}/") for path in paths if not path.endswith(".part"))

    def fetch(self, folder: Path, *, everything: bool) -> list[Path]:
        """Bring the run's files, or the small ones; returns what was written. Raises as `read`."""
        written = []
        for name in self.names():
            small = name in SMALL or PurePosixPath(name).match("rounds/*/evaluation/*.json")
            if name != MARK and (everything or small) and (content := self.read(name)) is not None:
                path = _inside(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                written.append(path)
        return written

    def pull(self, root: Path) -> None:
        """Make the folder what the store has, unless it already is; a store without the run changes nothing."""
        mark = self.read(MARK)
        if mark is None or _mark(root) == mark:
            return
        _log.info("%s is brought to %s", self.url, root)
        shutil.rmtree(root, ignore_errors=True)
        self.fetch(root, everything=True)
        (root / MARK).write_bytes(mark)
        self._sent = dict(_files(root))

    def push(self, root: Path) -> None:
        """Bring the store up to date with the folder. Raises as `read`."""
        last = {name: (root / name).read_bytes() for name in LAST if (root / name).is_file()}
        signatures = {name: signature for name, signature in _files(root) if name not in last}
        sent = dict.fromkeys(self.names(), (-1, -1)) if self._sent is None else self._sent
        self._sent = sent
        for name in [name for name, signature in signatures.items() if sent.get(name) != signature]:
            self._send(root, name)
            sent[name] = signatures[name]
        for name in [name for name in sent if name not in signatures and name not in (*LAST, MARK)]:
            self._delete(name)
            del sent[name]
        for name, content in last.items():
            self.write(name, content)
        mark = json.dumps({"store": self.url, "step": uuid.uuid4().hex}).encode()
        self.write(MARK, mark)
        (root / MARK).write_bytes(mark)

    def _send(self, root: Path, name: str) -> None:
        from pyarrow import fs

        with self._errors(name):
            self._make_folder(f"{self._base}/{name}")
            try:
                fs.copy_files(
                    str(root / name),
                    f"{self._base}/{name}",
                    source_filesystem=fs.LocalFileSystem(),
                    destination_filesystem=self._system,
                )
            except FileNotFoundError:
                if (root / name).exists():  # else it was replaced meanwhile: the next sync sees to it
                    raise

    def _delete(self, name: str) -> None:
        with self._errors(name):
            try:
                self._system.delete_file(f"{self._base}/{name}")
            except FileNotFoundError:
                return

    def _make_folder(self, path: str) -> None:
        if self._system.type_name == "local":  # object stores have none
            self._system.create_dir(path.rsplit("/", 1)[0], recursive=True)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from pyarrow import ArrowException

        try:
            yield
        except FileNotFoundError:
            raise
        except (ArrowException, OSError) as error:
            raise ClusterError(
                f"storage: {self.url}/{name}: {_line(error)}; check the address, and the credentials that this node has"
            ) from error


@contextmanager
def kept(store: RunStore | None, layout: RunLayout) -> Iterator[None]:
    """Bring the run from its store, keep the store up to date while the block runs, and once more at its end.

    A sync that fails is a warning and is tried again; that the last one fails is an error, for then the store is behind.
    """
    if store is None:
        yield
        return
    store.pull(layout.root)
    over, busy = threading.Event(), threading.Lock()

    def sync_often() -> None:
        while not over.wait(SYNC_SECONDS):
            with busy:
                try:
                    if layout.root.is_dir() and not over.is_set():
                        store.push(layout.root)
                except ClusterError as error:
                    _log.warning("%s", error)

    threading.Thread(target=sync_often, name="store-sync", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        if busy.acquire(timeout=LAST_SYNC_SECONDS) and layout.root.is_dir():
            store.push(layout.root)


def working_folder(url: str, scratch: Path | None) -> Path:
    """Where nodes work on the runs of a store: below `scratch`, else below this node's temp folder."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return (scratch or Path(tempfile.gettempdir()) / f"steelyard-{os.getuid()}") / digest


def _files(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Relative names of what is kept, with size and time of change."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_KEPT]
        for name in names:
            path = Path(folder) / name
            if not name.startswith("."):
                try:
                    file_status = path.stat()
                except FileNotFoundError:
                    continue
                yield str(path.relative_to(root)), (file_status.st_size, file_status.st_mtime_ns)


def _inside(folder: Path, name: str) -> Path:
    """A name from outside must not lead out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ClusterError(f"storage: the store holds a file named {name!r}, which leads out of {folder}")
    return path


def _mark(root: Path) -> bytes:
    path = root / MARK
    return path.read_bytes() if path.is_file() else b""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
