"""What each kind of job does: joins a procedure with the catalog's facts about it.

A task may run several times, in this process or the next. ``run`` does the work and gives the write that makes it
visible; ``undo`` leaves nothing behind when the job fails or is cancelled; ``tidy`` follows success.
"""

from __future__ import annotations

from icecore.model import JobKind
from icecore.tasks.backups import BackupTask, DeleteBackupTask
from icecore.tasks.clones import CloneTask
from icecore.tasks.proofs import CheckTask, VerifyTask
from icecore.tasks.restores import DeleteClusterTask, RestoreTask
from icecore.tasks.task import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[JobKind, type[Task]] = {
    JobKind.BACKUP: BackupTask,
    JobKind.RESTORE: RestoreTask,
    JobKind.CLONE: CloneTask,
    JobKind.VERIFY: VerifyTask,
    JobKind.CHECK: CheckTask,
    JobKind.DELETE_BACKUP: DeleteBackupTask,
    JobKind.DELETE_CLUSTER: DeleteClusterTask,
}
