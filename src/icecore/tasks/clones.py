"""The job that makes an instant clone: a server beside the image of its backup, with the image's blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icecore import errors, moments, pinned, restore
from icecore.catalog import clones
from icecore.engines import RestoreEngine, RestoreTarget
from icecore.images import FREE_AT_LEAST, KeptImage
from icecore.images.standing import Stand, Standing
from icecore.laying import TABLESPACES
from icecore.model import BackupFacts
from icecore.repository import Reader, Repository
from icecore.tasks import servers
from icecore.tasks.restores import RestoreTask


class CloneTask(RestoreTask):
    def lay(
        self,
        cluster: Any,
        repository: Repository,
        reader: Reader,
        engine: RestoreEngine,
        owner: tuple[int, int],
        made: moments.MomentPlan | None,
    ) -> None:
        facts = reader.facts
        durable = bool(clones.one(self.catalog, cluster.id).durable)
        parents = pinned.parents(self.config, facts.cluster_id)
        with self._image(facts) as image:
            # Where it will lie is noted before anything is there: who cleans up after a kill must find it
            servers.note_clone(self.config, cluster.id, facts, servers.CloneNote(parents, durable=durable))
            with Standing(cluster.id, parents, create=True) as standing:
                target, data = _target(facts, standing, image)
                servers.note_clone(self.config, cluster.id, facts, servers.CloneNote(parents, data, durable=durable))
                _refuse_without_room(standing)
                for stand in standing.stands.values():
                    servers.refuse_unreachable(stand.named, owner[0], owner[1])
                self.watch.step("standing")
                plan = restore.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
                restore.run(
                    plan,
                    reader,
                    engine,
                    self.watch,
                    threads=self.config.threads,
                    image=image,
                    laps=self.watch.laps,
                    durable=durable,
                    readers_at_most=self.config.readers_at_most,
                )
                # Last: its user may go in
                standing.let_pass()
        self.directory.chmod(0o711)

    @contextlib.contextmanager
    def _image(self, facts: BackupFacts) -> Iterator[KeptImage]:
        with pinned.image_of(self.config, facts) as image:
            if image is None:
                raise errors.NoImage(backup_id=facts.backup_id)
            yield image


def _target(facts: BackupFacts, standing: Standing, image: KeptImage) -> tuple[RestoreTarget, Path]:
    """Each part on the file system of its image; one that has none where its tablespace is, else with the data.
    And the data directory's lasting name."""
    main = standing.stands.get(image.device_of("base") or -1)
    if main is None:
        raise errors.NoImage(backup_id=facts.backup_id)  # the device has another number since, or is not mounted
    named = {main.path / "data": main.named / "data"}
    shared = {main.path / "data"}
    spaces: dict[str, Path] = {}
    for space in facts.engine_facts.get("tablespaces", ()):
        link = f"{TABLESPACES}{space['oid']}"
        device = image.device_of(link)
        stand = standing.stands.get(device or -1) or _stand_of(Path(space["location"]), standing) or main
        spaces[link] = stand.path / str(space["oid"])
        named[spaces[link]] = stand.named / str(space["oid"])
        if device == stand.device:
            shared.add(spaces[link])
    return RestoreTarget(main.path / "data", spaces, named=named, shared=frozenset(shared)), main.named / "data"


def _stand_of(location: Path, standing: Standing) -> Stand | None:
    try:
        return standing.stands.get(location.parent.stat().st_dev)
    except OSError:
        return None


def _refuse_without_room(standing: Standing) -> None:
    """A clone pins what its source gives up, and grows: the living come first."""
    for stand in standing.stands.values():
        if stand.free_share() < FREE_AT_LEAST:
            raise errors.TargetRefused(
                f"less than a tenth of the file system of {stand.named.parent} is free",
                hint="Free space there: a clone takes room that its source needs.",
            )
