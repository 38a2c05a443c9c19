"""A real process on a real file system, killed at any moment, again and again: every acknowledged backup is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from small_repository import CLUSTER, KEY, back_up, everything, made

from icecore.repository import Repository
from icecore.storage.local import LocalStorage

KILLS = 6
KEPT = 3


def tree_of(number: int) -> dict[str, bytes]:
    """Much of it shared with the neighbours."""
    return {f"{n}": random.Random(n).randbytes(3000 + n) for n in range(number, number + 30)}


def live(root: Path, number: int) -> None:
    """Back up for ever; keep the last few. Says what it did, line by line."""
    repo = Repository.open(LocalStorage(root), KEY)
    print("ready", flush=True)
    while True:
        back_up(repo, str(number), tree_of(number))
        print("made", number, flush=True)
        for facts in list(repo.backups(CLUSTER))[KEPT:]:
            print("deleting", facts.backup_id, flush=True)
            repo.delete_backup(CLUSTER, facts.backup_id)
        repo.collect(CLUSTER)
        number += 1


def test_R4_R6_hold_for_a_process_that_is_killed(tmp_path: Path) -> None:
    made(LocalStorage(tmp_path))
    chance = random.Random()
    made_so_far: set[int] = set()
    deleted: set[int] = set()
    number = 1
    for kill in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, __file__, tmp_path, str(number)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        told_lines = [process.stdout.readline()] if kill % 2 else []  # every second time after a whole backup
        time.sleep(chance.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        for line in [*told_lines, *process.stdout]:
            word, _, told = line.strip().partition(" ")
            (made_so_far if word == "made" else deleted).add(int(told))
        process.wait()
        process.stdout.close()
        found = everything(Repository.open(LocalStorage(tmp_path), KEY))
        assert all(tree == tree_of(int(backup_id)) for backup_id, tree in found.items())
        assert made_so_far - deleted <= {int(backup_id) for backup_id in found}
        number = max([number, *made_so_far, *map(int, found)]) + 1
    assert made_so_far
    repo = Repository.open(LocalStorage(tmp_path), KEY)
    repo.collect(CLUSTER)
    assert repo.collect(CLUSTER).objects_removed == 0
    assert everything(repo) == found


if __name__ == "__main__":
    live(Path(sys.argv[1]), int(sys.argv[2]))
