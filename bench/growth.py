"""How index, file table and image seal grow with size, on made-up entries: no terabyte is needed for that; and whole
backups of a million small files.

    .venv/bin/python bench/growth.py --page    an hour, 3 GB below /tmp; writes docs/growth.md

``--largest 100000`` takes minutes.

Each measurement is a process of its own, so that its peak memory (VmHWM) is its own; medians of the rounds are shown.
Whole backups need root: they run on an XFS of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from statistics import median

import many_files
import numpy as np

from icecore import images
from icecore.backup import BackupDone
from icecore.images.extents import Seal
from icecore.images.seals import NewSeals
from icecore.model import FileKind, FileMeta
from icecore.repository import FileList, StoredFile, index
from icecore.repository.blocks import BLOCK_ID_BYTES, COMPRESSED, DEFAULT_BLOCK_BYTES, BlockCodec
from icecore.repository.index import BlockTable, SeenIds, encode_index
from icecore.repository.layout import ClusterLayout
from icecore.repository.manifest import Root, read_table, store_table
from icecore.repository.pack import ENTRY_BYTES, HEADER_BYTES, TRAILER_BYTES, PackTable
from icecore.repository.reader import indexes
from icecore.repository.sealing import TAG_BYTES, Keyring
from icecore.repository.writer import INDEX_AFTER_PACKS
from icecore.storage import Buffer
from icecore.storage.local import LocalStorage

PAGE = Path(__file__).resolve().parent.parent / "docs" / "growth.md"
MARK = "<!-- below: written by bench/growth.py --page; above: by hand -->\n"
PACK_BLOCKS = 1024  # blocks of 64 KiB that compress to half, in packs of 32 MiB
LOOKUPS, AT_ONCE, LIMIT_MB = 100_000, 1_000_000, 512
KEYRING = Keyring(bytes(range(32)), "00" * 16)
LAYOUT = ClusterLayout("pc-growth")
Numbers = dict[str, float]


def memory_mb(field: str) -> float:
    """VmRSS: now; VmHWM: the most so far. 1 MB is 10^6 bytes."""
    return int(Path("/proc/self/status").read_text().partition(field + ":")[2].split()[0]) * 1024 / 1e6


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(name: str, size: int, work: Callable[[], object]) -> Numbers:
    """Seconds, of the clock and of the processor, the process's peak, and, over what it had before, the peak and what
    the result of ``work`` holds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_mb, began, began_cpu = memory_mb("VmRSS"), time.perf_counter(), processor_s()
    held = work()
    seconds, held_mb, peak_mb = time.perf_counter() - began, memory_mb("VmRSS") - before_mb, memory_mb("VmHWM")
    del held
    numbers = {"s": seconds, "CPU s": processor_s() - began_cpu, "peak MB": peak_mb}
    numbers |= {"peak bytes each": (peak_mb - before_mb) * 1e6 / size, "held bytes each": held_mb * 1e6 / size}
    return {f"{name}: {key}": value for key, value in numbers.items()}


def make_indexes(place: Path, size: int) -> Numbers:
    """Index objects"""
    storage, draw, tables = LocalStorage(place), np.random.default_rng(size), list[PackTable]()
    for start in range(0, size, PACK_BLOCKS):
        count = min(PACK_BLOCKS, size - start)
        stored = array("I", draw.integers(20_000, 45_000, count).tolist())
        pack_bytes = HEADER_BYTES + sum(stored) + count * ENTRY_BYTES + TAG_BYTES + TRAILER_BYTES
        plain, ids = array("I", [DEFAULT_BLOCK_BYTES | COMPRESSED]) * count, draw.bytes(count * BLOCK_ID_BYTES)
        tables.append(PackTable(draw.bytes(32), draw.bytes(32), pack_bytes, ids, stored, plain))
        if len(tables) == INDEX_AFTER_PACKS or start + count == size:
            digest, parts = encode_index(tables, KEYRING, LAYOUT.cluster_id)
            storage.put(LAYOUT.indexes + digest, parts, durable=False)
            tables.clear()
    sizes = [found.size_bytes for found in storage.list("")]
    return {"objects": len(sizes), "MB": sum(sizes) / 1e6}


def load_index(place: Path, size: int) -> Numbers:
    """`BlockTable` built from the index objects (read, proven, decoded, sorted)"""
    tables = (table for _, some in indexes(LocalStorage(place), KEYRING, LAYOUT) for table in some)
    return measured("build", size, lambda: BlockTable(tables))


def look_up(place: Path, size: int) -> Numbers:
    """Lookups in it: `rows` one by one, `rows_of` for 1 M known ids in random order, and by 512 as stored"""
    table = BlockTable(table for _, some in indexes(LocalStorage(place), KEYRING, LAYOUT) for table in some)
    count, numbers = min(AT_ONCE, size), Numbers()
    random_rows, in_order = np.random.default_rng().integers(0, size, AT_ONCE), np.arange(count) + (size - count) // 2
    known, stored = (table._records.records(rows, index._RECORD)["id"].tobytes() for rows in (random_rows, in_order))
    for name, some in (("known", known[: LOOKUPS * BLOCK_ID_BYTES]), ("unknown", os.urandom(LOOKUPS * BLOCK_ID_BYTES))):
        single = [some[at : at + BLOCK_ID_BYTES] for at in range(0, len(some), BLOCK_ID_BYTES)]
        began = time.process_time()
        assert sum(1 for one in single for _ in table.rows(one)) == (LOOKUPS if name == "known" else 0)
        numbers[f"`rows`, {name}: µs"] = (time.process_time() - began) / LOOKUPS * 1e6
    began, step = time.process_time(), PACK_BLOCKS * BLOCK_ID_BYTES
    assert all((table.rows_of(stored[at : at + step]) >= 0).all() for at in range(0, len(stored), step))
    numbers["`rows_of`, as stored: µs each"] = (time.process_time() - began) / count * 1e6
    return numbers | measured("`rows_of`", AT_ONCE, lambda: table.rows_of(known))


def see_ids(place: Path, size: int) -> Numbers:
    """`SeenIds`: what a writer keeps of its new blocks (looked up, then added)"""
    seen = SeenIds()

    def see() -> SeenIds:
        for _ in range(size):
            if (block_id := random.randbytes(BLOCK_ID_BYTES)) not in seen:
                seen.add(block_id)
        return seen

    return measured("add", size, see)


def made_up(size: int, changed: range = range(0), *, content: bool = False) -> Iterator[StoredFile]:
    """Files of one block. Those ``changed`` have another time, and with ``content`` another block."""
    for number in range(size):
        path = f"base/{16384 + number // 5000}/{16384 + number}" + ("", "_fsm", "_vm")[number % 3]
        block = blake2b(b"%d" % number, digest_size=BLOCK_ID_BYTES).digest()
        mtime_s = 1_790_000_000 + int.from_bytes(block[:3], "big") // 8 + 3_000_000 * (number in changed)
        meta = FileMeta(path, FileKind.FILE, 0o600, mtime_s, 8192 * (1 + block[3] % 8))
        yield StoredFile(meta, block[::-1] if content and number in changed else block)


class Sections:  # by id, compressed, in local storage; without packs and encryption
    def __init__(self, place: Path) -> None:
        self._storage, self._codec = LocalStorage(place), BlockCodec(KEYRING.block_key)
        self.ids, self.packed_bytes = set[bytes](), 0

    def store(self, section: Buffer) -> bytes:
        block_id = self._codec.block_id(section)
        if block_id not in self.ids:
            self.ids.add(block_id)
            payload, word = self._codec.pack(section)
            self._storage.put(f"sections/{block_id.hex()}", [word.to_bytes(4, "little"), payload], durable=False)
            self.packed_bytes += len(payload)
        return block_id

    def load(self, block_id: bytes) -> bytes:
        data = self._storage.get(f"sections/{block_id.hex()}")
        return self._codec.unpack(data[4:], int.from_bytes(data[:4], "little"), block_id, "section")


def make_table(place: Path, size: int) -> Numbers:
    """The list of files that a backup fills while it reads, and `store_table` from it"""
    files, sections, roots = FileList(), Sections(place), list[Root]()

    def fill() -> FileList:
        for file in made_up(size):
            files.append(file)
        return files

    numbers = measured("list", size, fill)
    numbers |= measured("store", size, lambda: roots.append(store_table(files, DEFAULT_BLOCK_BYTES, sections.store)))
    (place / "root").write_bytes(pickle.dumps(roots[0]))
    numbers |= {"file sections": len(roots[0].file_sections), "id sections": len(roots[0].id_sections)}
    return numbers | {"sections, compressed: MB": sections.packed_bytes / 1e6}


def walk_table(place: Path, size: int) -> Numbers:
    """`read_table`, one file after the other"""
    root, sections = pickle.loads((place / "root").read_bytes()), Sections(place)
    return measured("read", size, lambda: sum(1 for _ in read_table(root, DEFAULT_BLOCK_BYTES, sections.load, "x")))


def store_again(place: Path, size: int) -> Numbers:
    """New sections, and their compressed MB, when the table is stored again"""
    numbers, spread, middle = Numbers(), range(0, size, 100), range(size // 2, size // 2 + size // 100)
    for name, files in (
        ("unchanged", made_up(size)),
        ("1 % other mtime, side by side", made_up(size, middle)),
        ("1 % other mtime, spread", made_up(size, spread)),
        ("1 % other mtime and block, spread", made_up(size, spread, content=True)),
        ("three files more in front", chain(made_up(3, range(3), content=True), made_up(size))),
    ):
        sections = Sections(place / f"{len(numbers)}")
        store_table(made_up(size), DEFAULT_BLOCK_BYTES, sections.store)
        before, before_bytes = len(sections.ids), sections.packed_bytes
        store_table(files, DEFAULT_BLOCK_BYTES, sections.store)
        numbers |= {"all": before, f"{name}: new": len(sections.ids) - before}
        numbers |= {f"{name}: MB": (sections.packed_bytes - before_bytes) / 1e6}
    return numbers


def write_seal(place: Path, size: int) -> Numbers:
    """Gathering an image's seals while its files are cloned, and writing them (files of one block have none)"""
    paths, root = [file.meta.path for file in made_up(size)], images.Root(1, os.open(place, os.O_RDONLY), place)

    def write() -> object:
        seals = NewSeals()
        for number, path in enumerate(paths):
            seals.add(path, Seal(1, 10_000_000 + number, 1_790_000_000_123_456_789 + number, 8192 * number))
        images._write_durably(root, f"1{images.SEAL}", seals.encoded(1, "job"))
        return seals

    return {"MB": 0.0} | measured("write", size, write) | {"MB": (place / f"1{images.SEAL}").stat().st_size / 1e6}


def read_seal(place: Path, size: int) -> Numbers:
    """Reading them, `KeptImage`, and finding 10,000 of them by path"""
    roots, kept = [images.Root(1, os.open(place, os.O_RDONLY), place)], list[images.KeptImage]()
    numbers = measured("read", size, lambda: kept.append(images.KeptImage(roots, "1", "job")))
    paths = [file.meta.path for file in islice(made_up(size), 10_000)]
    began = time.process_time()
    assert all(path in kept[0] for path in paths)
    return numbers | {"find: µs": (time.process_time() - began) / len(paths) * 1e6}


def first_backup(place: Path, size: int) -> Numbers:
    """A whole backup of a data directory of small files on XFS, by image: `backup.run`, but for the database server"""
    many_files.make_files(place, size)
    return _backup(place, size, 1)


def next_backup(place: Path, size: int) -> Numbers:
    """The same again: nothing has changed, the image of the first is there"""
    return _backup(place, size, 2)


def _backup(place: Path, size: int, number: int) -> Numbers:
    done = list[BackupDone]()
    run = many_files.back_up(place, number)
    numbers = measured("backup", size, lambda: done.append(run()))
    assert done[0].imaged and done[0].facts.file_count >= size
    return numbers | {"CPU µs each": numbers["backup: CPU s"] / size * 1e6, "stored: MB": done[0].new_bytes / 1e6}


WORK: dict[str, tuple[list[int], list[Callable[[Path, int], Numbers]]]] = {
    "blocks": ([100_000, 1_000_000, 4_000_000, 16_000_000], [make_indexes, load_index, look_up, see_ids]),
    "files": ([10_000, 100_000, 1_000_000], [make_table, walk_table, store_again, write_seal, read_seal]),
    "files of a cluster": ([10_000, 100_000, 1_000_000], [first_backup, next_backup]),
}


def section(title: str, kind: str, found: dict[int, list[Numbers]]) -> str:
    """A table of medians, and where the straight line through its last two sizes crosses the limit."""
    middle = {size: {key: median(one[key] for one in some) for key in some[0]} for size, some in found.items()}
    sizes, keys = list(middle), list(next(iter(middle.values())))
    lines = [f"\n## {title}\n", f"| {kind} | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for size, numbers in middle.items():
        cells = (f"{n:,.0f}" if n >= 100 or n == int(n) else f"{n:.3g}" for n in numbers.values())
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    for key in (key for key in keys if key.endswith("peak MB") and "rows" not in key):
        (low, low_mb), (high, high_mb) = ((size, middle[size][key]) for size in (sizes * 2)[-2:])
        if high_mb - low_mb > 5 and low < high:
            each_mb = (high_mb - low_mb) / (high - low)
            where_m = (low + (LIMIT_MB - low_mb) / each_mb) / 1e6
            lines.append(f"\n{key}: {each_mb * 1e6:.0f} bytes for one more; {LIMIT_MB} MB at {where_m:.2f} M {kind}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--largest", type=int, default=10_000_000, help="leave larger sizes out")
    options.add_argument("--only", action="append", choices=list(WORK), help="may be given again")
    options.add_argument("--page", action="store_true", help=f"write the tables into {PAGE.name}")
    options.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        print(json.dumps(globals()[given.child[0]](Path(given.child[2]), int(given.child[1]))))
        return
    text = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores; medians of {given.rounds}.\n"
    for group, (sizes, works) in WORK.items():
        if given.only and group not in given.only:
            continue
        some = [size for size in sizes if size <= given.largest] or sizes[:1]
        found: dict[str, dict[int, list[Numbers]]] = {work.__name__: {size: [] for size in some} for work in works}
        for size in some * given.rounds:
            with tempfile.TemporaryDirectory(prefix="icecore-growth-", dir="/tmp") as folder:
                for name, by_size in found.items():
                    command = [sys.executable, __file__, "--child", name, str(size), folder]
                    by_size[size].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
                many_files.unmount(Path(folder))
        text += "".join(section(work.__doc__ or "", group, found[work.__name__]) for work in works)
    print(text)
    if given.page:
        above = PAGE.read_text(encoding="utf-8").partition(MARK)[0] if PAGE.exists() else "# Growth\n\n"
        PAGE.write_text(above + MARK + "\n" + text, encoding="utf-8")


if __name__ == "__main__":
    main()
