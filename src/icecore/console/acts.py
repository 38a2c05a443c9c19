"""What a person can do from a page. Each action is one signed call; a refusal is shown with its way into the error
center, a success leads to where its effect is seen.

What deletes asks first, with what will happen in sentences; removing a cluster wants its name typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import RedirectResponse, Response

from icecore.api import contract
from icecore.console import backups, clones, clusters, view
from icecore.console.visit import Visit
from icecore.errors import InvalidParameter, NotConfirmed, UnknownAction

PREFIX = "p."  # of a form's field that is a parameter of the call, by its name in snake_case


@dataclass(frozen=True)
class Act:
    """``onward``: where to go after success, of the parameters and the answer. ``confirm``:
    gives the sentences to confirm; None: done at once."""

    label: str
    onward: Callable[[Mapping[str, str], Mapping[str, Any]], str]
    confirm: Callable[[Visit, Mapping[str, str]], list[str]] | None = None
    typed: bool = False  # the name of the thing must be typed
    danger: bool = False


def act(visit: Visit) -> Response:
    """Make the call that a form of ours describes."""
    action = visit.form.get("Action", "")
    chosen = _act(action)
    params = _params(action, visit.form)
    if chosen.typed and chosen.confirm:
        chosen.confirm(visit, params)  # gives the name
        if visit.form.get("typed", "") != visit.extra["name"]:
            raise NotConfirmed()
    sent = visit.doors.send(action, params)
    if sent.error is not None:
        return visit.page(
            "failure.html",
            sent.answer.status,
            title=sent.answer.code,
            error=sent.error,
            request_id=sent.answer.request_id,
            action=action,
        )
    return RedirectResponse(chosen.onward(params, sent.result), 303, view.HEADERS)


def confirm(visit: Visit) -> Response:
    """Ask before the deed. The parameters come in the address, so that the question can be sent to a colleague."""
    action = visit.query.get("Action", "")
    chosen = _act(action)
    params = _params(action, visit.query)
    sentences = chosen.confirm(visit, params) if chosen.confirm else []
    name = visit.extra.get("name", "")
    return visit.page(
        "confirm.html",
        title=chosen.label,
        chosen=chosen,
        action=action,
        params=params,
        sentences=sentences,
        name=name,
        calls=visit.calls(action, **params),
        back=visit.extra.get("back", "/console"),
    )


def _params(action: str, fields: Mapping[str, str]) -> dict[str, str]:
    """What the form gives for parameters that the operation takes; another name is a form of nobody's."""
    known = {parameter.snake for parameter in contract.operation(action).bound()}
    given = {name.removeprefix(PREFIX): value for name, value in fields.items() if name.startswith(PREFIX) and value}
    if not set(given) <= known:
        raise InvalidParameter(parameter="Form")
    return given


def _act(action: str) -> Act:
    found = ACTS.get(action)
    if found is None:
        raise UnknownAction()
    return found


# ---------------------------------------------------------------- what each one says before it is done


def _cancelling(visit: Visit, params: Mapping[str, str]) -> list[str]:
    job_id = params.get("job_id", "")
    visit.extra["back"] = f"/console/tasks/{job_id}"
    return [f"Task {job_id} will stop at its next step, and what it stored or laid down so far is removed."]


def _revoking(visit: Visit, params: Mapping[str, str]) -> list[str]:
    visit.extra["back"] = "/console/access"
    own = params.get("key_id") == visit.doors.key.id
    return [
        f"Access key {params.get('key_id', '')} will be refused from now on, for good.",
        *(["It is the key that you are signed in with: this session ends."] if own else []),
    ]


def _to_policy(params: Mapping[str, str], answer: Mapping[str, Any]) -> str:
    return f"/console/clusters/{params['db_cluster_id']}?tab=policy"


ACTS: dict[str, Act] = {
    "CreateBackup": Act("Back up now", lambda p, a: f"/console/tasks/{a['backup_job_id']}"),
    "DeleteBackup": Act(
        "Delete this backup", lambda p, a: f"/console/clusters/{p['db_cluster_id']}", backups.deleting, danger=True
    ),
    "ModifyDBClusterPace": Act("Set the pace", lambda p, a: f"/console/clusters/{p['db_cluster_id']}#pace"),
    "ModifyBackupPolicy": Act("Set this policy", _to_policy),
    "ModifyDrillPolicy": Act("Set the drills", _to_policy),
    "DeleteBackupPolicy": Act("No more automatic backups", _to_policy),
    "HoldBackup": Act("Hold this backup", lambda p, a: f"/console/backups/{p['backup_id']}"),
    "ReleaseBackup": Act("Release this backup", lambda p, a: f"/console/backups/{p['backup_id']}"),
    "VerifyBackup": Act("Verify", lambda p, a: f"/console/tasks/{a['job_id']}"),
    "CheckBackup": Act("Check", lambda p, a: f"/console/tasks/{a['job_id']}"),
    "CreateDBCluster": Act("Restore", lambda p, a: f"/console/clusters/{a['db_cluster_id']}"),
    "CreateClone": Act("Look inside", lambda p, a: f"/console/clusters/{a['db_cluster_id']}"),
    "ModifyClone": Act("Let it live longer", lambda p, a: f"/console/clusters/{p['db_cluster_id']}"),
    "DeleteClone": Act("Delete this clone", lambda p, a: "/console", clones.deleting, danger=True),
    "DeleteDBCluster": Act("Remove this cluster", lambda p, a: "/console", clusters.removing, typed=True, danger=True),
    "CancelJob": Act("Cancel this task", lambda p, a: f"/console/tasks/{p['job_id']}", _cancelling, danger=True),
    "RevokeAccessKey": Act("Revoke this key", lambda p, a: "/console/access", _revoking, danger=True),
}
