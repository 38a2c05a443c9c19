"""Restored servers below the home: where they lie, who runs them, how they come up and go."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icecore import config as home
from icecore import errors, parts, restore
from icecore.config import Config
from icecore.engines import RestoredServer, ServerPlace
from icecore.images import FREE_AT_LEAST
from icecore.images.standing import Standing
from icecore.model import BackupFacts, facts_from_dict, facts_to_dict

RESTART_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
SOCKET_PATH_BYTES = 100  # sun_path holds 108; the file name in it takes part of that


def tablespace_places(facts: BackupFacts, directory: Path) -> dict[str, Path]:
    """Each tablespace of the backup gets a directory named by its oid below ``directory``."""
    return {link: directory / link.rpartition("/")[2] for link in restore.tablespaces(facts)}


def server_place(config: Config, cluster_id: str, *, port: int) -> ServerPlace:
    directory, clone = config.cluster_directory(cluster_id), noted_clone(config, cluster_id)
    sockets = directory / "socket"
    if len(os.fsencode(sockets)) > SOCKET_PATH_BYTES - len(".s.PGSQL.65535.lock"):
        sockets = Path("/tmp") / f"icecore-{cluster_id}"  # the engine makes it, 0700, and refuses a planted one
    return ServerPlace(
        data_directory=clone.data if clone else directory / "data",
        socket_directory=sockets,
        log_file=directory / "log" / "server.log",
        port=port,
        owner=server_owner(),
        guest=clone is not None,
        durable=clone is None or clone.durable,
    )


def server_owner() -> tuple[int, int]:
    """Who runs restored servers: ourselves; as root (which no server accepts) the user ``ICECORE_SERVER_USER``,
    by default ``postgres``."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    name = os.environ.get("ICECORE_SERVER_USER", "postgres")
    try:
        user = pwd.getpwnam(name)
    except KeyError as error:
        raise errors.TargetRefused(
            f"there is no user {name} to run the restored server", hint="Set ICECORE_SERVER_USER."
        ) from error
    return user.pw_uid, user.pw_gid


@contextlib.contextmanager
def server_lock(config: Config, cluster_id: str) -> Iterator[None]:
    """Held by whoever brings a restored server up again or removes it, in all processes."""
    directory = config.home / "servers"
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / f"{cluster_id}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def note_server(config: Config, cluster_id: str, facts: BackupFacts, port: int) -> None:
    """Remember how to run a restored server. Not in its own directory: what lies there may be its user's doing."""
    _write_note(config, cluster_id, facts, port, noted_clone(config, cluster_id))


@dataclass(frozen=True)
class CloneNote:
    """Where an instant clone lies, and how: beside these directories; its data directory, once that is settled."""

    parents: Sequence[Path]
    data: Path = Path("/nonexistent/icecore")
    durable: bool = False
    boot: str = field(default_factory=lambda: _boot())


def note_clone(config: Config, cluster_id: str, facts: BackupFacts, clone: CloneNote) -> None:
    """Before anything of it is there. ``note_server`` adds its port."""
    _write_note(config, cluster_id, facts, 0, clone)


def noted_clone(config: Config, cluster_id: str) -> CloneNote | None:
    """None for a server whose data lies below the home."""
    try:
        clone = json.loads(_note(config, cluster_id).read_bytes())["clone"]
        parents = tuple(Path(parent) for parent in clone["parents"])
        return CloneNote(parents, Path(clone["data"]), bool(clone["durable"]), str(clone["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_note(config: Config, cluster_id: str, facts: BackupFacts, port: int, clone: CloneNote | None) -> None:
    (config.home / "servers").mkdir(mode=0o700, exist_ok=True)
    note: dict[str, Any] = {"port": port, "facts": facts_to_dict(facts)}
    if clone is not None:
        parents = [str(parent) for parent in clone.parents]
        note["clone"] = {"parents": parents, "data": str(clone.data), "durable": clone.durable, "boot": clone.boot}
    home.write_private(_note(config, cluster_id), json.dumps(note).encode())


def noted_server(config: Config, cluster_id: str) -> tuple[BackupFacts, int] | None:
    try:
        note = json.loads(_note(config, cluster_id).read_bytes())
        return facts_from_dict(note["facts"]), int(note["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restored_server(config: Config, cluster_id: str) -> RestoredServer | None:
    """A handle to the server of a restored cluster; None while there is none. Touches nothing."""
    noted = noted_server(config, cluster_id)
    if noted is None:
        return None
    facts, port = noted
    return parts.restore_engine(facts.engine).server(facts, server_place(config, cluster_id, port=port))


def bring_up(config: Config, cluster_id: str, still_wanted: Callable[[], None]) -> RestoredServer | None:
    """Start a restored server that is down, at another port if its own was taken meanwhile. Under ``server_lock``.
    None when nothing was to be done."""
    noted = noted_server(config, cluster_id)
    server = restored_server(config, cluster_id)
    if noted is None or server is None:
        return None
    _give_way(config, cluster_id, server)
    if server.running():
        return None
    _refuse_untrustworthy(config, cluster_id)
    facts, port = noted
    if not _port_is_free(port):
        port = free_port()
        note_server(config, cluster_id, facts, port)
        server = parts.restore_engine(facts.engine).server(facts, server_place(config, cluster_id, port=port))
    server.prepare()
    server.start(RESTART_TIMEOUT_S, still_wanted)
    return server


def remove_cluster_directory(config: Config, cluster_id: str, step: Callable[[str], None] = lambda name: None) -> None:
    """Stop the server that runs in a restored cluster's directory, then remove the directory, its note last: killed
    anywhere, it can be done again. Under ``server_lock``."""
    server = restored_server(config, cluster_id)
    if server is not None and server.running():
        server.stop(STOP_TIMEOUT_S)
        step("server-stopped")
    clone = noted_clone(config, cluster_id)
    if clone is not None:
        with Standing(cluster_id, clone.parents) as standing:
            standing.remove()
        step("clone-removed")
    for place in (config.cluster_directory(cluster_id), server_place(config, cluster_id, port=0).socket_directory):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
    step("directories-removed")
    _note(config, cluster_id).unlink(missing_ok=True)


def clone_pins(config: Config, cluster_id: str) -> int:
    """Bytes on the disk that only this clone has. Reads the map of every file."""
    clone = noted_clone(config, cluster_id)
    if clone is None:
        return 0
    with Standing(cluster_id, clone.parents) as standing:
        return standing.pinned_bytes()


def _give_way(config: Config, cluster_id: str, server: RestoredServer) -> None:
    """A clone's server goes down before the living have no room left for its writes."""
    clone = noted_clone(config, cluster_id)
    if clone is None:
        return
    with Standing(cluster_id, clone.parents) as standing:
        if standing.free_share() >= FREE_AT_LEAST / 2:
            return
    server.stop(STOP_TIMEOUT_S)
    reason = "its file system is nearly full, and the clusters that live there come first"
    raise errors.EngineFailed(doing="running the clone", reason=reason)


def _refuse_untrustworthy(config: Config, cluster_id: str) -> None:
    """After the machine's end a clone's files may be anything: what it wrote was not made durable."""
    clone = noted_clone(config, cluster_id)
    if clone is not None and not clone.durable and clone.boot != _boot():
        reason = "the machine was started anew, and a clone for a while is not durable; make another one"
        raise errors.EngineFailed(doing="starting the clone", reason=reason)


def _boot() -> str:
    """Differs after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _note(config: Config, cluster_id: str) -> Path:
    return config.home / "servers" / f"{cluster_id}.json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def refuse_unreachable(directory: Path, uid: int, gid: int) -> None:
    """The server's user must be able to walk to its directory, which lies below the home."""
    for parent in directory.parents:
        found = parent.stat()
        bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid == gid else 0o001
        if not found.st_mode & bit:
            raise errors.TargetRefused(
                f"the user that runs restored servers (uid {uid}) may not enter {parent}",
                hint="Put the home where that user may pass, such as /var/lib/icecore.",
            )
