"""The one tree of errors. A class carries everything that any surface needs to answer for it.

Three families:

* ``CallerError``: the request is wrong; repeating it cannot help.
* ``WorldError``: the disk, the network or the database is in the way; it may differ next time.
* ``BrokenLaw``: something that must hold does not (damaged bytes, a stale worker): stop.

A class's docstring is its message; ``{fields}`` in it are filled from keyword arguments. ``code`` and
``status`` go on the wire, ``exit`` out of the CLI (``docs/cli.md``), ``hint`` says what to do.
Why it happens and longer steps are in ``explanations.py``, for the error center.
Engines and storages translate foreign exceptions at their edge and keep the cause (``raise ... from e``).
"""

from __future__ import annotations

from typing import Any, ClassVar


class IcecoreError(Exception):
    """The request processing has failed due to some unknown error, exception or failure."""

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    exit: ClassVar[int] = 1
    retry: ClassVar[bool] = False
    hint: ClassVar[str] = "Look up the RequestId in the server's log."

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        template = (self.__class__.__doc__ or "").split("\n\n")[0]
        message = " ".join(template.split())
        self.message = message.format(**fields) if fields else message
        super().__init__(self.message)

    def wire_code(self) -> str:
        """``code`` with its ``{fields}`` filled (``Invalid{parameter}.Malformed``)."""
        return self.code.format(**self.fields) if self.fields else self.code

    def advice(self) -> str:
        return self.hint.format(**self.fields) if self.fields else self.hint


class CallerError(IcecoreError):
    """The request is not valid."""

    code, status, exit = "InvalidParameter", 400, 2
    hint = "Correct the request; sending it again unchanged gives the same answer."


class WorldError(IcecoreError):
    """The request has failed due to a temporary failure of the server."""

    code, status, exit, retry = "ServiceUnavailable", 503, 7, True
    hint = "Try again; if it stays, look at the cause in the server's log."


class BrokenLaw(IcecoreError):
    """The request processing has failed due to some unknown error, exception or failure."""

    code, status, exit = "InternalError", 500, 8
    hint = "Stop and look: something that must always hold does not."


# ---------------------------------------------------------------- gateway: who calls, and how


class MissingParameter(CallerError):
    """The input parameter "{parameter}" that is mandatory for processing this request is not supplied."""

    code = "MissingParameter"
    hint = "Add {parameter} to the request."


class MissingCredential(CallerError):
    """{parameter} is mandatory for this action."""

    code, exit = "Missing{parameter}", 4
    hint = "Sign the request: an official SDK does it; the Signature tab of /console/explorer shows each step."


class InvalidParameter(CallerError):
    """The specified parameter {parameter} is not valid."""

    code = "Invalid{parameter}.Malformed"
    hint = "See the API reference for what {parameter} may be."


class MalformedRequest(CallerError):
    """The request cannot be read: {reason}."""

    hint = "Send UTF-8 parameters in the query or as a form, percent-encoded."


class UnknownAccessKey(CallerError):
    """Specified access key is not found."""

    code, status, exit = "InvalidAccessKeyId.NotFound", 404, 4
    hint = "Compare the AccessKeyId with `icecore key list`."


class DisabledAccessKey(CallerError):
    """Specified access key is disabled."""

    code, exit = "InvalidAccessKeyId.Inactive", 4
    hint = "Create a new key with `icecore key create`."


class InvalidSecurityToken(CallerError):
    """Specified SecurityToken is not valid."""

    code, exit = "InvalidSecurityToken.Malformed", 4
    hint = "Use the token that was issued together with this access key."


class SignatureMismatch(CallerError):
    """Specified signature is not matched with our calculation. server string to sign is:{string_to_sign}"""

    code, exit = "SignatureDoesNotMatch", 4
    hint = "Compare your string to sign with ours; if they are equal, the AccessKeySecret differs."


class IncompleteSignature(CallerError):
    """The request signature does not conform to Aliyun standards. {reason}"""

    code, exit = "IncompleteSignature", 4
    hint = "The Authorization header must name Credential, SignedHeaders and Signature."


class NonceUsed(CallerError):
    """Specified signature nonce was used already."""

    code, exit = "SignatureNonceUsed", 4
    hint = "Sign each attempt anew with a fresh SignatureNonce; keep the ClientToken."


class TimestampFormat(CallerError):
    """Specified time stamp or date value is not well formatted."""

    code, exit = "InvalidTimeStamp.Format", 4
    hint = "Send UTC as YYYY-MM-DDThh:mm:ssZ."


class TimestampExpired(CallerError):
    """Specified time stamp or date value is expired."""

    code, exit = "InvalidTimeStamp.Expired", 4
    hint = "Set the clock: it may differ from the server's by 15 minutes at most."


class InvalidSignatureMethod(CallerError):
    """Specified signature method is not valid."""

    code, exit = "InvalidSignatureMethod", 4
    hint = "Use HMAC-SHA1 (V1) or ACS3-HMAC-SHA256 (V3)."


class InvalidFormat(CallerError):
    """Specified parameter format is not valid."""

    code = "InvalidParameter.Format"
    hint = "Format may be JSON or XML."


class InvalidVersion(CallerError):
    """Specified parameter Version is not valid."""

    code = "InvalidVersion"
    hint = "The version of this API is 2017-08-01."


class UnknownAction(CallerError):
    """Specified api is not found, please check your url and method."""

    code, status, exit = "InvalidAction.NotFound", 404, 5
    hint = "See the list of operations in the API reference."


class UnsupportedMethod(CallerError):
    """This http method is not supported."""

    code, status = "UnsupportedHTTPMethod", 403
    hint = "Use GET or POST."


class RequestTooLarge(CallerError):
    """The request is larger than {limit_bytes} bytes."""

    code, status = "RequestEntityTooLarge", 413
    hint = "Send fewer or shorter parameters."


class Forbidden(CallerError):
    """User not authorized to operate on the specified resource, or this API doesn't support RAM."""

    code, status, exit = "Forbidden.RAM", 403, 4
    hint = "Use a key whose role allows this operation."


# ---------------------------------------------------------------- operations


class ClusterNotFound(CallerError):
    """The DBClusterId provided does not exist in our records."""

    code, status, exit = "InvalidDBClusterId.NotFound", 404, 5
    hint = "List the clusters: `icecore cluster list`."


class ClusterNotFoundInTasks(ClusterNotFound):
    """The DBClusterId provided does not exist in our records."""

    status = 400  # DescribeBackupTasks documents 400 for the code that is 404 elsewhere


class ClusterNotFoundOnDelete(ClusterNotFound):
    """The DBClusterId provided does not exist in our records."""

    code = "InvalidDBCluster.NotFound"  # DeleteDBCluster documents another code


class BackupNotFound(CallerError):
    """The specified parameter BackupId is not valid."""

    code, exit = "InvalidBackupSetID.NotFound", 5
    hint = "List the backups: `icecore backups`."


class JobNotFound(CallerError):
    """The specified parameter BackupJobId is not valid."""

    code, exit = "InvalidBackupJobId.NotFound", 5
    hint = "List the jobs: `icecore jobs`."


class QuotaExceeded(CallerError):
    """Exceeding the daily backup times of this DB cluster."""

    code, status, exit = "BackupTimesExceeded", 403, 6
    hint = "Three manual backups exist. Delete one (`icecore delete BACKUP`), then call again."


class InvalidClientToken(CallerError):
    """The specified parameter ClientToken is not valid."""

    code = "InvalidClientToken.Malformed"
    hint = "A ClientToken has 1 to 64 ASCII characters."


class TokenMismatch(CallerError):
    """Request uses a client token in a previous request but is not identical to that request."""

    code, exit = "IdempotentParameterMismatch", 6
    hint = "Use a new ClientToken for a new intent."


class ClusterStatusDenied(CallerError):
    """The operation is not permitted due to Cluster status."""

    code, status, exit = "OperationDenied.DBClusterStatus", 403, 6
    hint = "The cluster must be Running: `icecore cluster check`."


class BackupStatusDenied(CallerError):
    """The operation is not permitted due to the status of backup {backup_id}: {backup_status}."""

    code, status, exit = "OperationDenied.BackupStatus", 403, 6
    hint = "Wait for the backup to finish, or cancel its job."


class BackupHeld(BackupStatusDenied):
    """Backup {backup_id} is held: {reason}."""

    hint = "Release it first: `icecore release {backup_id}`."


class NoImage(CallerError):
    """The backup {backup_id} has no image on this host: nothing could share its blocks."""

    code, status, exit = "OperationDenied.NoImage", 403, 6
    hint = "`icecore restore {backup_id} --to NAME` makes a cluster of it all the same, block by block."


class CreationOptionDenied(CallerError):
    """The specified parameter CreationOption is not valid."""

    code = "InvalidCreationOption.Malformed"
    hint = "Icecore creates clusters from backups: CreationOption=CloneFromPolarDB."


class MalformedClusterOnDelete(InvalidParameter):
    """The specified parameter {parameter} is not valid."""

    status = 404  # DeleteDBCluster documents 404 for the code that is 400 elsewhere


class WrongMajorVersion(CallerError):
    """The specified parameter DBVersion is not valid."""

    code = "InvalidDBVersion.Malformed"
    hint = "A backup is restored to its own major version: `icecore show BACKUP` names it."


class RetentionPolicyMalformed(CallerError):
    """The specified BackupRetentionPolicyOnClusterDeletion is invalid."""

    code = "InvalidBackupRetentionPolicyOnClusterDeletion.Malformed"
    hint = "ALL, LATEST or NONE."


# ---------------------------------------------------------------- console


class NotConfirmed(CallerError):
    """What was typed is not the name of what would be removed."""

    code = "ConfirmationMismatch"
    hint = "Go back and type the name as it stands there. Nothing was changed."


class TooManySignIns(CallerError):
    """Too many failed attempts to sign in from this address."""

    code, status, exit = "Throttling.SignIn", 429, 4
    hint = "Wait ten minutes, or use a one-time link: `icecore console`."


class SignInLinkUsed(CallerError):
    """The sign-in link is not valid any more."""

    code, status, exit = "InvalidSignInLink", 403, 4
    hint = "Make another one: `icecore console`."


# ---------------------------------------------------------------- local refusals (CLI, engine, repository)


class Usage(CallerError):
    """{reason}"""

    code = "Usage"
    hint = "How a command is used: `icecore COMMAND --help`."


class Refused(CallerError):
    """{reason}"""

    code, status, exit = "OperationDenied", 403, 6
    hint = "{hint}"

    def __init__(self, reason: str, hint: str = "Nothing was changed.") -> None:
        super().__init__(reason=reason, hint=hint)


class EngineRefused(Refused):
    """{reason}"""

    code = "OperationDenied.Engine"


class TargetRefused(Refused):
    """{reason}"""

    code = "OperationDenied.RestoreTarget"


class MomentNotRestorable(CallerError):
    """{moment} cannot be restored; {nearest}"""

    code, status, exit = "InvalidCloneDataPoint.NotRestorable", 400, 6
    hint = "Ask for a moment that the message names, or one between a window's first and last."


class WrongKey(CallerError):
    """the repository key does not open this repository ({reason})"""

    code, status, exit = "InvalidRepositoryKey", 403, 4
    hint = "Use the key file or passphrase that the repository was made with."


class NotARepository(CallerError):
    """{place} is not an Icecore repository: {reason}"""

    code, status, exit = "InvalidRepository", 404, 5
    hint = "Point --repo at the directory that holds the object named `repository`."


class Cancelled(CallerError):
    """The job was cancelled."""

    code, status, exit = "JobCancelled", 409, 6
    hint = "Start it again if it was not meant."


# ---------------------------------------------------------------- world


class ServerUnreachable(WorldError):
    """{endpoint} cannot be reached: {reason}"""

    code = "ServerUnreachable"
    hint = "Is `icecore serve` running there, and is it http or https?"


class EngineUnreachable(WorldError):
    """the database server cannot be reached: {reason}"""

    code = "EngineUnreachable"
    hint = "`icecore cluster check` says what is missing."


class EngineFailed(WorldError):
    """the database engine failed while {doing}: {reason}"""

    code = "EngineFailed"


class LogGone(WorldError):
    """the server no longer has the log that comes next: {reason}"""

    code = "LogGone"
    hint = "The log goes on after the gap; take a backup now: moments after it can be restored again."


class StorageFailed(WorldError):
    """storage failed to {doing} {name}: {reason}"""

    code = "StorageFailed"


class StorageFull(StorageFailed):
    """no space left to {doing} {name}: {reason}"""

    code = "StorageFull"
    hint = "Free space on that file system, then start the job again."


class ObjectExists(StorageFailed):
    """storage already holds {name}"""

    code = "ObjectExists"


class ObjectMissing(StorageFailed):
    """storage does not hold {name}"""

    code = "ObjectMissing"


class LeaseHeld(WorldError):
    """another process works on {name}"""

    code, exit = "LeaseHeld", 6
    hint = "Wait for it, or end it."


class Busy(WorldError):
    """The request has failed due to a temporary failure of the server."""

    hint = "The catalog is locked by another process; try again."


# ---------------------------------------------------------------- broken laws


class Damaged(BrokenLaw):
    """{name} is damaged: {reason}"""

    code = "RepositoryDamaged"
    hint = "Nothing wrong was delivered. Restore another backup, or bring this object back from a copy."


class VerificationFailed(BrokenLaw):
    """backup {backup_id} did not verify: {reason}"""

    code = "VerificationFailed"
    hint = "Read the evidence: `icecore show {backup_id}`. Verify an older backup, and look at the source."


class StaleWorker(BrokenLaw):
    """this worker's claim on job {job_id} was taken over by another"""

    code = "StaleWorker"
    hint = "Nothing is to be done: the job goes on, or has ended, with the other worker."


def every_error() -> list[type[IcecoreError]]:
    """All classes of the tree, parents first: the error center's and the tests' list."""
    found: list[type[IcecoreError]] = [IcecoreError]
    for parent in found:
        found.extend(child for child in parent.__subclasses__() if child not in found)
    return found
