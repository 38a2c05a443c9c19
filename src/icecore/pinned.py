"""The images that this host keeps: noted in the home, so that they can be found, measured and let go without asking
the database server, and let go before they take the room that the living database needs.

A note, ``images/<cluster>.json``, names the directories beside which images lie. It is written before the first image
is begun and goes when nothing is left. Everything here may be called at any time: a backup that compares with an image
notices when it is gone, and reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from icecore import config as home
from icecore.catalog import Catalog, clusters
from icecore.config import Config
from icecore.images import Images, KeptImage
from icecore.model import BackupFacts

log = structlog.get_logger()


def note(config: Config, cluster_id: str, beside: Sequence[Path]) -> None:
    """Images of the cluster lie beside these from now on. What lies elsewhere (a tablespace was dropped) goes:
    nobody would ever look at it again."""
    with Images(cluster_id, [old for old in parents(config, cluster_id) if old not in beside], create=False) as left:
        left.keep_only("")
        left.drop_unfinished()
    (config.home / "images").mkdir(mode=0o700, exist_ok=True)
    home.write_private(_note(config, cluster_id), json.dumps([str(parent) for parent in beside]).encode())


def show(config: Config, catalog: Catalog, cluster_id: str) -> None:
    """Say in the catalog which backup has an image: the newest of those that are there."""
    with _images(config, cluster_id) as images:
        found = images.backup_ids()
    clusters.imaged(catalog, cluster_id, found[0] if found else "", image_bytes=0)


def let_go(config: Config, catalog: Catalog, cluster_id: str, *, unfinished: bool = False) -> None:
    """Drop the cluster's images. ``unfinished``: also what a killed backup left; only where none can be running."""
    with _images(config, cluster_id) as images:
        images.keep_only("")
        if unfinished:
            images.drop_unfinished()
            _note(config, cluster_id).unlink(missing_ok=True)
    clusters.imaged(catalog, cluster_id, "", image_bytes=0)


def let_go_of(config: Config, catalog: Catalog, cluster_id: str, backup_id: str) -> None:
    """The backup is gone; an image of it goes too."""
    with _images(config, cluster_id) as images:
        there = backup_id in images.backup_ids()
    if there:
        let_go(config, catalog, cluster_id)


def drop_unfinished(config: Config, cluster_id: str) -> None:
    """What a backup left that a kill had ended. Only where none can be running."""
    with _images(config, cluster_id) as images:
        images.drop_unfinished()


def guard(config: Config, catalog: Catalog) -> None:
    """Let images go where their file system has less than a tenth free: the living come first, and each image's backup
    is in the repository. Cheap; called again and again."""
    for cluster_id in _noted(config):
        try:
            with _images(config, cluster_id) as images:
                free = images.free_share()
                if not images.make_room():
                    continue
            log.warning("images are let go: their file system fills up", cluster=cluster_id, free_share=round(free, 3))
            show(config, catalog, cluster_id)
        except Exception as error:  # one cluster's trouble is not the others'
            log.warning("looking after images failed", cluster=cluster_id, reason=str(error))


def measure(config: Config, catalog: Catalog) -> None:
    """What each cluster's image pins by now that nothing else uses. Reads the map of every larger file."""
    for cluster_id in _noted(config):
        with _images(config, cluster_id) as images:
            found = images.backup_ids()
            if found:
                clusters.imaged(catalog, cluster_id, found[0], image_bytes=images.kept(found[0]).pinned_bytes())


@contextmanager
def image_of(config: Config, facts: BackupFacts) -> Iterator[KeptImage | None]:
    """The image of a backup, if this host keeps one; it may be let go meanwhile."""
    with _images(config, facts.cluster_id) as images:
        there = facts.backup_id in images.backup_ids()
        yield images.kept(facts.backup_id, facts.job_uuid) if there else None


@contextmanager
def _images(config: Config, cluster_id: str) -> Iterator[Images]:
    with Images(cluster_id, parents(config, cluster_id), create=False) as images:
        yield images


def _noted(config: Config) -> list[str]:
    return sorted(path.stem for path in (config.home / "images").glob("*.json"))


def parents(config: Config, cluster_id: str) -> list[Path]:
    """The directories beside which the cluster's images lie."""
    try:
        return [Path(parent) for parent in json.loads(_note(config, cluster_id).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def _note(config: Config, cluster_id: str) -> Path:
    return config.home / "images" / f"{cluster_id}.json"
