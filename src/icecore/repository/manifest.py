"""Manifests: a backup's facts, and the way to its file table.

::

    header    64   magic "ICEMANI1", repository id 16, salt 32, zeros 8
    lengths   16   sealed facts u32, sealed root u32, zeros 8
    facts     …    sealed at position 0: BackupFacts as JSON; readable without the rest
    root      …    sealed at position 1: file sections u32, id sections u32, files u64, blocks u64,
                   then the block ids of the sections, 32 each

The table itself lies in packs like any block, in *sections*: file sections (columns in JSON: one list for each field
of ``FileMeta``, equally long) and id sections (concatenated block ids: those of the first file, of the second, …).
Sections that equal an earlier backup's are shared with it. So they end where a path's hash says, and not after a
count: one more file makes one section of each kind new, and not all that follow. The manifest of a 1 TB backup has
some 520 kB.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from icecore.errors import Damaged
from icecore.model import BackupFacts, BackupMode, Boundary, FileKind, FileMeta
from icecore.repository.blocks import BLOCK_ID_BYTES
from icecore.repository.pack import HEADER_BYTES, object_header, read_header
from icecore.repository.sealing import TAG_BYTES, Keyring
from icecore.storage import Buffer

MANIFEST_MAGIC = b"ICEMANI1"
MAX_MANIFEST_BYTES = 64 << 20
SECTION_FILES = 1024  # on average: small, as one changed file costs a section of each kind
SECTION_FILES_AT_LEAST, SECTION_FILES_AT_MOST = 256, 4096
SECTION_BYTES_AT_MOST = 1 << 20  # of a file section; estimated while collecting
ID_SECTION_BYTES = 1024 * BLOCK_ID_BYTES  # 32 KiB: 64 MiB of data at the default block size

_LENGTHS = struct.Struct("<II8x")
_ROOT = struct.Struct("<IIQQ")
_COLUMNS = ("path", "kind", "mode", "mtime_s", "size_bytes", "target")
_TEXT = frozenset({"path", "kind", "target"})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file and the concatenated ids of its blocks, 32 bytes each; each block but the last is ``block_bytes`` long."""

    meta: FileMeta
    blocks: bytes


@dataclass(frozen=True)
class Root:
    file_sections: tuple[bytes, ...]
    id_sections: tuple[bytes, ...]
    file_count: int
    block_count: int


def encode_manifest(facts: BackupFacts, root: Root, keyring: Keyring, name: str) -> list[Buffer]:
    header, salt = object_header(MANIFEST_MAGIC, keyring)
    plain_facts = json.dumps(asdict(facts), separators=(",", ":")).encode()  # R8
    plain_root = b"".join(
        (
            _ROOT.pack(len(root.file_sections), len(root.id_sections), root.file_count, root.block_count),
            *root.file_sections,
            *root.id_sections,
        )
    )
    lengths = _LENGTHS.pack(len(plain_facts) + TAG_BYTES, len(plain_root) + TAG_BYTES)
    sealer = keyring.sealer("manifest", facts.cluster_id, salt)
    bound = header + lengths + name.encode()
    return [header, lengths, sealer.seal(0, plain_facts, bound), sealer.seal(1, plain_root, bound)]


def decode_manifest(data: bytes, keyring: Keyring, cluster_id: str, name: str) -> tuple[BackupFacts, Root]:
    salt = read_header(data, MANIFEST_MAGIC, keyring, name)
    start = HEADER_BYTES + _LENGTHS.size
    if len(data) < start:
        raise Damaged(name=name, reason="it is cut short")
    facts_bytes, root_bytes = _LENGTHS.unpack_from(data, HEADER_BYTES)
    if start + facts_bytes + root_bytes != len(data):
        raise Damaged(name=name, reason="its lengths do not match its size")
    sealer = keyring.sealer("manifest", cluster_id, salt)
    bound = data[:start] + name.encode()
    view = memoryview(data)
    facts = _facts(sealer.open(0, view[start : start + facts_bytes], bound, name), name)
    if facts.cluster_id != cluster_id or facts.backup_id != name.rpartition("/")[2]:
        raise Damaged(name=name, reason="its facts are another backup's")
    return facts, _root(sealer.open(1, view[start + facts_bytes :], bound, name), name)


def _facts(plain: bytes, name: str) -> BackupFacts:
    """Fields that a later version added are passed over."""
    try:
        found: dict[str, Any] = json.loads(plain)
        found["boundary"] = Boundary(**_known(Boundary, found["boundary"]))
        found["mode"] = BackupMode(found["mode"])
        found["warnings"] = tuple(found.get("warnings", ()))
        return BackupFacts(**_known(BackupFacts, found))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(name=name, reason="its facts are malformed") from error


def _known(kind: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field in fields(kind) if field.name in found}


def _root(plain: bytes, name: str) -> Root:
    if len(plain) < _ROOT.size:
        raise Damaged(name=name, reason="its root is cut short")
    file_count, id_count, files, blocks = _ROOT.unpack_from(plain)
    if len(plain) != _ROOT.size + (file_count + id_count) * BLOCK_ID_BYTES:
        raise Damaged(name=name, reason="its counts do not match its size")
    ids = [plain[at : at + BLOCK_ID_BYTES] for at in range(_ROOT.size, len(plain), BLOCK_ID_BYTES)]
    return Root(tuple(ids[:file_count]), tuple(ids[file_count:]), files, blocks)


# ---------------------------------------------------------------- the file table


def block_count(meta: FileMeta, block_bytes: int) -> int:
    return -(-meta.size_bytes // block_bytes) if meta.kind is FileKind.FILE else 0


def ends_section(path: str) -> bool:
    """Whether a section may end behind this path: one in ``SECTION_FILES`` does, the same ones in every backup."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % SECTION_FILES == 0


def store_table(files: Iterable[StoredFile], block_bytes: int, store: Callable[[Buffer], bytes]) -> Root:
    """Hand the table's sections to ``store``, which gives their block ids; holds one section of each kind."""
    file_sections, id_sections = [], []
    metas: list[FileMeta] = []
    ids = bytearray()
    file_count = total_blocks = estimate = 0
    for file in files:
        # 1 the file's row
        expected = block_count(file.meta, block_bytes)
        if len(file.blocks) != expected * BLOCK_ID_BYTES:
            raise ValueError(f"{file.meta.path!r} has {file.meta.size_bytes} bytes and {len(file.blocks)} bytes of ids")
        metas.append(file.meta)
        file_count, total_blocks = file_count + 1, total_blocks + expected
        estimate += len(file.meta.path) + len(file.meta.target) + 64
        # 2 its blocks; a large file has sections of its own, so that those of its unchanged parts recur
        large = len(file.blocks) >= ID_SECTION_BYTES
        if ids and (large or len(ids) + len(file.blocks) > ID_SECTION_BYTES):
            id_sections.append(store(bytes(ids)))
            ids.clear()
        if large:
            view = memoryview(file.blocks)
            starts = range(0, len(view), ID_SECTION_BYTES)
            id_sections.extend(store(view[at : at + ID_SECTION_BYTES]) for at in starts)
        else:
            ids += file.blocks
        # 3 both kinds end at the same files, so that what is before one does not shift what is behind
        full = len(metas) >= SECTION_FILES_AT_MOST or estimate >= SECTION_BYTES_AT_MOST
        if full or (len(metas) >= SECTION_FILES_AT_LEAST and ends_section(file.meta.path)):
            file_sections.append(store(_file_section(metas)))
            metas.clear()
            estimate = 0
            if ids:
                id_sections.append(store(bytes(ids)))
                ids.clear()
    if metas:
        file_sections.append(store(_file_section(metas)))
    if ids:
        id_sections.append(store(bytes(ids)))
    return Root(tuple(file_sections), tuple(id_sections), file_count, total_blocks)


def read_table(root: Root, block_bytes: int, load: Callable[[bytes], bytes], name: str) -> Iterator[StoredFile]:
    """The files in the order they were stored; ``load`` gives a section by its block id."""
    ids = bytearray()
    sections = iter(root.id_sections)
    file_count = total_blocks = 0
    for section in root.file_sections:
        for meta in _file_metas(load(section), name):
            count = block_count(meta, block_bytes)
            file_count, total_blocks = file_count + 1, total_blocks + count
            if total_blocks > root.block_count:
                raise Damaged(name=name, reason="its files have more blocks than it has ids")
            while len(ids) < count * BLOCK_ID_BYTES:
                following = next(sections, None)
                if following is None:
                    raise Damaged(name=name, reason="its files have more blocks than it has ids")
                ids += load(following)
            yield StoredFile(meta, bytes(ids[: count * BLOCK_ID_BYTES]))
            del ids[: count * BLOCK_ID_BYTES]
    if ids or next(sections, None) is not None or (file_count, total_blocks) != (root.file_count, root.block_count):
        raise Damaged(name=name, reason="its table is not as long as it says")


def _file_section(metas: list[FileMeta]) -> bytes:
    # ASCII only: bytes of a path that are not UTF-8 stay as escaped surrogates.
    columns = {column: [getattr(meta, column) for meta in metas] for column in _COLUMNS}
    return json.dumps(columns, separators=(",", ":")).encode()


def _file_metas(plain: bytes, name: str) -> Iterator[FileMeta]:
    try:
        columns = json.loads(plain)
        for row in zip(*(columns[column] for column in _COLUMNS), strict=True):
            for column, value in zip(_COLUMNS, row, strict=True):
                if type(value) is not (str if column in _TEXT else int):
                    raise TypeError(column)
            path, kind, mode, mtime_s, size_bytes, target = row
            if size_bytes < 0:
                raise ValueError("size_bytes")
            yield FileMeta(path, FileKind(kind), mode, mtime_s, size_bytes, target)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(name=name, reason="a section of its file table is malformed") from error
