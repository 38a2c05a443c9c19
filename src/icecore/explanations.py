"""Why each error of the tree happens and what mends it: what the error center shows beside ``errors``. Pure.

A class says what its answer is (code, status, message, hint). Here stands what is too long for it: the cause in one to
three sentences, and steps where the hint alone would leave somebody alone at three in the morning. ``{parameter}`` in a
text is filled with the parameter of the page's code.

A subclass without an entry of its own (the same refusal under another code or status) has its parent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore import errors
from icecore.errors import BrokenLaw, CallerError, IcecoreError, WorldError

# Never raised themselves: what is in the client's hands when a server answers with a code it does not know.
FAMILIES: tuple[type[IcecoreError], ...] = (CallerError, WorldError, BrokenLaw)

# Where a code is met besides answers of the API.
JOB = "job"  # DescribeJobs: ErrorCode of a job that failed
COMMAND = "command"  # a command of the CLI that no server was asked for
CONSOLE = "console"  # a page
LOG = "log"  # the server's log only


@dataclass(frozen=True)
class Explanation:
    """``fix``: steps in their order. ``example``: values for the fields of code, message and hint."""

    cause: str
    fix: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)


def explanation(kind: type[IcecoreError], parameter: str = "") -> Explanation:
    """Of a class or the nearest parent that has one. ``KeyError`` for a family's head."""
    if kind is errors.InvalidParameter and parameter in WHY_PARAMETER:
        return WHY_PARAMETER[parameter]
    for parent in kind.__mro__:
        if parent in WHY:
            return WHY[parent]
    raise KeyError(kind.__name__)


def _why(cause: str, *fix: str, seen: tuple[str, ...] = (), **example: Any) -> Explanation:
    return Explanation(cause, fix, seen, example)


WHY: dict[type[IcecoreError], Explanation] = {
    IcecoreError: _why(
        "The server met something nobody foresaw: a bug, or a file of its home that is not as it left it. What the "
        "call had begun in the catalog was rolled back. In a job the message ends with the kind of the error in "
        "brackets.",
        "Beside it stands the full trace. For a job, look for the job's id instead.",
        "CreateBackup and CreateDBCluster with a ClientToken may be sent again: what was done is not done twice.",
        "If it comes back, report it with the trace; no secret is in it.",
        seen=(JOB, COMMAND),
    ),
    # ------------------------------------------------------------ gateway
    errors.MissingParameter: _why(
        "A required parameter is absent or empty; an empty value counts as not given. A parameter outside query, form "
        "body and x-acs-* headers is not seen: a JSON body is one the server does not read.",
        "Compare the request with the operation's page in the Explorer: required parameters are marked.",
        "Send parameters in the query or as a form (application/x-www-form-urlencoded), spelled letter by letter.",
        "For Action and Version without a V3 signature: they must be parameters, headers do not count.",
        parameter="Action",
    ),
    errors.MissingCredential: _why(
        "The request is not signed, or its signature lacks {parameter}. Without an Authorization header that begins "
        "with ACS3- the server expects a V1 signature in the parameters.",
        "Set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET and let an official SDK or `icecore "
        "call` sign.",
        "With a V3 signature, see that no proxy removes the Authorization and x-acs-* headers.",
        parameter="AccessKeyId",
    ),
    errors.InvalidParameter: _why(
        "{parameter} has a value that its type, pattern, length or list of allowed values does not permit, or it was "
        "given twice with different values. It is refused before anything is done.",
        "Its field in the Explorer shows allowed values, limits and an example (/console/explorer).",
        "Look for a blank, a line break or a quotation mark that was sent along.",
        "Sent once in the query and once in the body, it must have one value.",
        parameter="Comment",
    ),
    errors.MalformedRequest: _why(
        "The bytes that came are not an HTTP/1.1 request with UTF-8 parameters: a body that did not arrive in time, a "
        "percent-encoding that gives no UTF-8, more than 1,000 parameters, or another protocol at this port.",
        "If the message says that it is not HTTP/1.1: is https:// used for a server that speaks http, or HTTP/2?",
        "Encode text as UTF-8 first, then percent-encode its bytes.",
        "If the body did not arrive: compare Content-Length with what is sent, and look at proxies in between.",
        reason="a parameter is not UTF-8",
    ),
    errors.UnknownAccessKey: _why(
        "No access key of this installation has this AccessKeyId. Keys belong to one home: a key of Alibaba Cloud or "
        "of another Icecore is unknown here.",
        "Letter by letter: ids are case-sensitive.",
        "See which key the client really uses: environment variables come before its configuration file.",
        "There is none? `icecore key create` makes one.",
    ),
    errors.DisabledAccessKey: _why(
        "The key exists and was revoked (`icecore key revoke` or RevokeAccessKey). A revoked key is never enabled "
        "again.",
        "Find out who revoked it and why: the audit on the console's Access page names the call.",
        "Give the new one to the client, and remove the old one there.",
    ),
    errors.InvalidSecurityToken: _why(
        "This key was issued together with a security token, and the request carries none or another one. Keys made "
        "by `icecore key create` have no token.",
        "Clients read it from ALIBABA_CLOUD_SECURITY_TOKEN. Or use a key without a token.",
    ),
    errors.SignatureMismatch: _why(
        "The server signed the request as it arrived and got another signature. Either the secret differs, or the "
        "bytes that were signed are not those that arrived: sorting, encoding, a body that is not the one "
        "x-acs-content-sha256 announces.",
        "Copy the string to sign that the message ends with, and your own, into the Signature tab of the Explorer "
        "(/console/explorer): it shows the first byte that differs and the rule behind it.",
        "Equal? Look for a blank or a line break at the end of the secret. V1 signs with the secret and an & behind "
        "it, V3 with the secret alone.",
        "Usual differences: + for %20, %7E for ~, * not encoded, lower-case %2f, parameters of the body left out "
        "(V1), the Host header rewritten by a proxy (V3).",
        string_to_sign="GET&%2F&AccessKeyId%3DICE7Q2M4K1X9%26Action%3DDescribeRegions%26Format%3DJSON",
    ),
    errors.IncompleteSignature: _why(
        "The V3 signature cannot be checked as it came: its Authorization header is not of the form `ACS3-HMAC-SHA256 "
        "Credential=…,SignedHeaders=…,Signature=…`, a header is missing or given twice, or one that must be signed is "
        "not.",
        "The message names the part. Signed must be host and every x-acs-* header that is sent.",
        "Send x-acs-content-sha256, the hash of the body in hexadecimal; an empty body has one too.",
        "If a proxy adds or doubles x-acs-* headers, let it leave them alone.",
        reason="The header x-acs-content-sha256 is missing.",
    ),
    errors.NonceUsed: _why(
        "This key already sent a request with this nonce. A nonce is used up by the first request whose signature was "
        "right, whatever the answer was: the copy may be a retry by a client or proxy, or a replay by a third party.",
        "It is the ClientToken that keeps a repeated CreateBackup or CreateDBCluster from being done twice.",
        "If no client of yours repeats requests, look in the audit for the first use, and revoke the key if it is not "
        "yours.",
    ),
    errors.TimestampFormat: _why(
        "The signature's time is not written as YYYY-MM-DDThh:mm:ssZ: an offset such as +08:00, a fraction of a "
        "second, a blank instead of T, or a day that does not exist.",
        "Without a fraction, and with the letter Z at its end. The time is Timestamp in V1, x-acs-date in V3.",
    ),
    errors.TimestampExpired: _why(
        "The time in the signature differs from the server's clock by more than 15 minutes, in either direction. A "
        "wrong clock on either side, a local time sent as UTC, or a request that lay in a queue.",
        "Compare `date -u` on both machines; start time synchronisation (chrony, systemd-timesyncd) where it is wrong.",
        "Off by whole hours? The client sends local time: it must be UTC.",
        "Sign each attempt when it is sent, not when it is queued.",
    ),
    errors.InvalidSignatureMethod: _why(
        "The signature is made with an algorithm that this server does not know, such as HMAC-SHA256 in V1 or "
        "ACS3-HMAC-SM3 and ACS3-RSA-SHA256 in V3.",
        "The SDKs choose one of them by themselves: remove the client's setting for another one.",
    ),
    errors.InvalidFormat: _why(
        "Format is neither JSON nor XML, or it was given twice with different values. This answer comes as JSON.",
        "Upper or lower case does not matter. Without Format the answer is JSON.",
    ),
    errors.InvalidVersion: _why(
        "The request names another version of the API than the one this server speaks: a client for another product, "
        "or a date that was changed.",
        "It goes into Version, with V3 also into x-acs-version. The SDK's package for PolarDB has 20170801 in its "
        "name.",
    ),
    errors.UnknownAction: _why(
        "Icecore has no operation of this name, or the URL leads to no page: the API is at the path / and nowhere "
        "else. PolarDB has operations that Icecore has not.",
        "Compare the name, which is case-sensitive, with the list in the Explorer (/console/explorer).",
        "See that the endpoint of the client is http://HOST:PORT without a path behind it.",
    ),
    errors.UnsupportedMethod: _why(
        "The request uses a method such as PUT, DELETE or HEAD; the API of PolarDB is called by GET and POST only.",
        "Parameters go into the query or, with POST, into the body. What an operation does is in Action, not in the "
        "method.",
        "A load balancer that probes with HEAD may use GET /healthz.",
    ),
    errors.RequestTooLarge: _why(
        "The body is over 1 MiB, the query over 32 KiB, or request line and headers together over 64 KiB. Nothing of "
        "such a request was carried out.",
        "Send long parameters in the body instead of the query.",
        "Ask for less at once: fewer ids in a list, several calls.",
        limit_bytes=1024 * 1024,
    ),
    errors.Forbidden: _why(
        "The signature is right, but the key has the role `reader` and the operation changes something. Readers may "
        "call Describe operations.",
        "Create an admin key if there is none at hand: `icecore key create --role admin`.",
        "Roles cannot be changed afterwards. `icecore key list` shows them.",
    ),
    # ------------------------------------------------------------ operations
    errors.ClusterNotFound: _why(
        "No cluster has this id here: it was never registered, was removed, or the id is one of Alibaba Cloud. An id "
        "begins with pc-; a cluster's name is not its id, and only `icecore` commands take either.",
        "For clients, DescribeDBClusters shows the same.",
        "Register a server that is missing: `icecore cluster add NAME --dsn DSN`.",
        "Backups of a removed cluster are still there if they were kept: `icecore repo list`.",
        seen=(COMMAND,),
    ),
    errors.BackupNotFound: _why(
        "No backup of this cluster has this id: it belongs to another cluster, was deleted, or is being deleted now. "
        "For a restore it also means a backup that failed or is not finished yet, or LATEST without any finished one.",
        "If the catalog was lost, `icecore repo list` shows what the repository itself holds.",
        "If several ids were given to DeleteBackup, none was deleted: ask again without the unknown one.",
        seen=(COMMAND,),
    ),
    errors.JobNotFound: _why(
        "No job has this number. It may have been cut or rounded on its way, or belong to another installation.",
        "For clients, DescribeJobs without a JobId shows the same.",
        "Keep the number as text: as a JavaScript number it may be rounded.",
        seen=(COMMAND,),
    ),
    errors.QuotaExceeded: _why(
        "The cluster has three manual backups, which is the limit. Sets that exist count, and so do those being made; "
        "failed, cancelled and deleted ones do not. No day is counted, whatever the message (PolarDB's) says.",
        "Which three? `icecore backups CLUSTER`, or the cluster's page in the console, shows them.",
        "For clients it is DeleteBackup. The place is free at once, before the bytes are gone.",
        "The ClientToken of the refused call may be used again: a refusal does not use it up.",
    ),
    errors.InvalidClientToken: _why(
        "The ClientToken is longer than 64 characters or holds one that is not printable ASCII. An empty token is "
        "none.",
        "Use a UUID, or the hexadecimal digest of whatever makes the intent unique.",
    ),
    errors.TokenMismatch: _why(
        "The same ClientToken was sent before with other parameters (for CreateBackup: another cluster or Comment). A "
        "token stands for one intent for ever, also after its backup was deleted. Nothing was done.",
        "Repeating a call? Send exactly what was sent first; its first result is the answer.",
    ),
    errors.ClusterStatusDenied: _why(
        "CreateBackup needs a cluster that is Running. It is Stopped when its server did not answer twice in a row, "
        "and Creating until a restore has finished. DeleteDBCluster needs one without unfinished jobs.",
        "`icecore status CLUSTER` says why it is not Running; `icecore cluster check CLUSTER` looks again, now.",
        "For a removal: `icecore jobs CLUSTER`, then wait or `icecore cancel JOB`.",
        "A cluster that was just registered is looked at within seconds if a worker runs (`icecore serve`).",
    ),
    errors.BackupStatusDenied: _why(
        "A backup that is still being made, or from which a restore reads at this moment, cannot be deleted: bytes "
        "that a job needs would vanish. Of several ids that were given, none was deleted.",
        "`icecore jobs CLUSTER` names the job, `icecore cancel JOB` ends it.",
        backup_id="4182",
        backup_status="being restored",
    ),
    errors.BackupHeld: _why(
        "Somebody asked that this backup be kept whatever happens, for example as evidence. A held backup is not "
        "deleted by a call, nor by a policy, nor with its cluster.",
        "`icecore show BACKUP` says why it is held, `icecore release BACKUP` ends that.",
        backup_id="4182",
        reason="audit of 2026",
    ),
    errors.NoImage: _why(
        "An instant clone shares the blocks of the backup's image, which lies on the cluster's own file system (XFS or "
        "btrfs) and is kept for the newest backup only. This one is Level-2, or its image was let go for want of "
        "space, was made on another machine, or has not been recognised since its file system was mounted anew.",
        "`icecore backup CLUSTER` makes a new backup, with an image where the file system can share blocks.",
        backup_id="4182",
    ),
    errors.CreationOptionDenied: _why(
        "Icecore makes clusters from backups only. CreationOption was left out (then it means Normal, an empty "
        "cluster) or names another source, such as RDS or the recycle bin.",
        "With it go SourceResourceId=<cluster id> and CloneDataPoint=<BackupId> or LATEST.",
    ),
    errors.WrongMajorVersion: _why(
        "DBVersion differs from the major version that the backup was taken with. Files of one major version cannot "
        "be started by another; restoring is no upgrade.",
        "Send that one as DBVersion.",
        "To upgrade, restore first, then use pg_upgrade or dump and load.",
    ),
    errors.RetentionPolicyMalformed: _why(
        "The policy for the backups of a cluster that is deleted is none of the three words. Nothing was deleted.",
        "ALL keeps every backup, LATEST the newest, NONE (the default) deletes them with the cluster.",
    ),
    # ------------------------------------------------------------ console
    errors.NotConfirmed: _why(
        "Removing a cluster in the console wants its name typed, letter by letter. What came is another text, so "
        "nothing was done.",
        "Upper and lower case count, and so do blanks.",
        seen=(CONSOLE,),
    ),
    errors.TooManySignIns: _why(
        "Ten attempts to sign in to the console failed within ten minutes, all from one address (with IPv6, from one "
        "/64 network). Others behind the same proxy or gateway count too. Calls of the API are not held up.",
        "The command works on the machine that holds the home.",
        "Who tried? The audit on the Access page lists the failed attempts with their address.",
        seen=(CONSOLE,),
    ),
    errors.SignInLinkUsed: _why(
        "A sign-in link works once and for ten minutes, and only as long as its access key is active. This one was "
        "used, is too old, or was cut when it was copied.",
        "Open it in the browser that is to be signed in.",
        "If nobody you know used the first one, look at the sign-ins in the audit on the Access page.",
        seen=(CONSOLE,),
    ),
    # ------------------------------------------------------------ local refusals
    errors.Usage: _why(
        "The command was not understood, or one of its values cannot be used. The message says which; nothing was "
        "begun.",
        "In a script without a terminal, questions need --yes, and secrets a variable such as ICECORE_PASSPHRASE.",
        seen=(COMMAND,),
        reason="unknown argument: --forse",
    ),
    errors.Refused: _why(
        "What was asked for is possible, but would do harm or is in conflict with what is there: a name that is "
        "taken, a DSN that holds a password, the last admin key, a home that exists. The message names it.",
        "Read the message: it names the thing in the way. In the CLI a hint follows it.",
        "Name taken: choose another, or remove the cluster that has it (`icecore cluster list`).",
        "Secret in the DSN: leave it out and give it by PGPASSWORD or a passfile to `icecore cluster add`.",
        "Last admin key: create another admin key first, then revoke this one.",
        "Job not cancellable: it removes what was already out of view; wait for it.",
        seen=(COMMAND, JOB),
        reason="a cluster named shop exists already",
        hint="Choose another name: `icecore cluster list`.",
    ),
    errors.EngineRefused: _why(
        "The database server is reachable, and a backup of it could not be restored or not even be taken: wal_level "
        "minimal, fsync off, missing rights, no free walsender, an unsupported version. So none is begun.",
        "`icecore cluster check CLUSTER` lists every finding with the very statement or setting that mends it.",
        "Apply them on the server; some need a restart of it (wal_level, max_wal_senders).",
        "Check again, then take the backup.",
        seen=(JOB, COMMAND),
        reason="cluster shop cannot be backed up: wal_level is minimal: the log cannot repair a copy",
        hint="Set wal_level = replica and restart the server.",
    ),
    errors.TargetRefused: _why(
        "The restore would write where something is already, where it may not write, or where no server of the "
        "backup's version could start: a directory that is not empty, missing PostgreSQL binaries, a user that may "
        "not enter.",
        "The message names the path or the program. A restore never overwrites: give it a new or empty directory.",
        "Binaries missing: install PostgreSQL of the backup's major version on the machine of the worker.",
        "As root, restored servers run as `postgres` or ICECORE_SERVER_USER: that user must exist and be able to pass "
        "through every directory above the home.",
        seen=(JOB, COMMAND),
        reason="/srv/restored is not empty",
        hint="Name a new or an empty directory.",
    ),
    errors.MomentNotRestorable: _why(
        "No backup and log in the repository lead to that moment: it lies before the first backup's end, in a gap of "
        "the log, or after the last moment that log backup knows of.",
        "The message names the nearest moments on both sides.",
        "A moment that has only just passed: wait until log backup has caught up, a second or two.",
        seen=(COMMAND,),
        moment="2026-11-25 22:10:00 UTC",
        nearest="the nearest restorable moments are 2026-11-25 22:08:31 UTC and 2026-11-25 22:15:02 UTC",
    ),
    errors.WrongKey: _why(
        "The repository is encrypted and the key file or passphrase does not open it: it belongs to another "
        "repository, is of the other kind, or is missing. Nothing can be read without the right one, by anybody.",
        "Take the copy that `icecore repo key export` made, and give it by --key-file; or set ICECORE_PASSPHRASE.",
        "In a home, the key is the file keys/repository.key; see that it exists and is readable by its owner.",
        "A blank at the end of a passphrase counts.",
        seen=(JOB, COMMAND),
        reason="it is not the one the repository was closed with",
    ),
    errors.NotARepository: _why(
        "At this place lies no object `repository` that this version can read: another directory, a disk that is not "
        "mounted, or a repository of a later version.",
        "Is the file system mounted? `ls` must show a file named `repository` at its top.",
        "Compare the path with `repository` in icecore.toml, or with what --repo was given.",
        "Do not make a new repository in an empty mount point: first find the old one.",
        seen=(JOB, COMMAND),
        place="/var/backups/icecore",
        reason="it holds no object `repository`",
    ),
    errors.Cancelled: _why(
        "Somebody asked for this job to be cancelled (`icecore cancel`, CancelJob or the console), and it stopped at "
        "its next step. A cancelled backup leaves nothing behind and does not count against the three.",
        "Who it was: the audit on the console's Access page, operation CancelJob.",
        seen=(JOB, COMMAND),
    ),
    # ------------------------------------------------------------ the world
    errors.ServerUnreachable: _why(
        "The client got no answer of an Icecore server: nothing listens there, a firewall is in between, the "
        "certificate is not trusted, or the answer did not come in time. Whether the call had its effect is not known.",
        "At which address does it listen? `listen` in icecore.toml of its home says so.",
        "Self-signed certificate: give the client keys/tls-cert.pem of the server's home as its CA file.",
        "Repeat with the same ClientToken: then a call that did have its effect is not done twice.",
        seen=(COMMAND,),
        endpoint="http://127.0.0.1:8080",
        reason="connection refused",
    ),
    errors.EngineUnreachable: _why(
        "No session with the database server could be opened: it is down or restarting, the address is wrong, it "
        "takes no more connections, or it refuses role or password. A job tries again twice before it ends with this.",
        "The message ends with PostgreSQL's own words. Try them with `psql` and the same DSN, on the worker's machine.",
        "Was the password changed? The one in use is the file secrets/<cluster id> in the home, mode 0600: replace it.",
        "pg_hba.conf must let the role in, also for `replication`.",
        seen=(JOB, COMMAND),
        reason="connection to server at 10.0.0.7, port 5432 failed: Connection refused",
    ),
    errors.EngineFailed: _why(
        "The database server was reached and then failed or stopped in the middle: it was shut down, ended the "
        "session, removed log that was still needed, or did not start after a restore. What was half made was taken "
        "away.",
        "Read what the message says after the colon, then the database server's own log at that minute.",
        "After a restore it ends with the last words of the restored server, whose directory was removed again.",
        "Start the job again when the server is well.",
        seen=(JOB, COMMAND, LOG),
        doing="stopping the backup",
        reason="terminating connection due to administrator command",
    ),
    errors.LogGone: _why(
        "Log backup was away for so long that the server gave up what it kept for it (max_slot_wal_keep_size), or "
        "somebody dropped its slot. Moments in the gap cannot be restored, nor later ones before the next backup.",
        "Log backup goes on by itself with what is there.",
        "Take a backup: from its end on every moment can be restored again.",
        "Raise max_slot_wal_keep_size if the server's disk allows it.",
        seen=(LOG,),
        reason="requested WAL segment 000000010000000000000003 has already been removed",
    ),
    errors.StorageFailed: _why(
        "The operating system refused to read or write a file of the repository, the catalog or a restore target: "
        "permissions, a disk error, a network mount that is gone. A job tries again twice before it ends with this.",
        "Look at the path and the reason in the message, then at `dmesg` and `df` on that machine.",
        "Permissions: Icecore must run as the owner of the home; a command run as root may have left files of root.",
        "Is the file system mounted, and not mounted read-only?",
        "A backup that failed so does not exist; earlier ones are not touched.",
        seen=(JOB, COMMAND),
        doing="write",
        name="clusters/pc-ice1/packs/7f3a2c91",
        reason="Input/output error",
    ),
    errors.StorageFull: _why(
        "A write found no space, or the user's quota on that file system is used up. A backup that was being written "
        "does not exist; what it had stored is removed again, and all earlier backups are whole.",
        "`df -h` and `df -i` at the path in the message: bytes and inodes.",
        "Delete backups that are not needed: `icecore delete BACKUP` also works on a full repository and gives space "
        "back.",
        "Or enlarge the file system. If it is the catalog's, every call that changes something fails until then.",
        seen=(JOB, COMMAND),
        doing="write",
        name="clusters/pc-ice1/packs/7f3a2c91",
        reason="No space left on device",
    ),
    errors.ObjectExists: _why(
        "A backup with this number lies, or once lay, in the repository, and numbers are never used twice. This "
        "happens when two installations write to one repository, or the catalog is an old copy. Nothing was "
        "overwritten.",
        "See that no second Icecore (another home, a restored machine) uses this repository.",
        "`icecore repo list` shows what is there. Take the backup again: it gets another number.",
        seen=(JOB,),
        name="clusters/pc-ice1/manifests/4182",
    ),
    errors.ObjectMissing: _why(
        "An object that was just listed or relied on was not there when it was read: removed by hand, by another "
        "program, or by a second Icecore.",
        "See that nothing but Icecore deletes below the repository (clean-up jobs, retention rules, rsync --delete).",
        "Bring the object back from a copy of the repository if there is one.",
        "Until then restore another backup: one that does not share the object is whole.",
        seen=(JOB, COMMAND),
        name="clusters/pc-ice1/packs/7f3a2c91",
    ),
    errors.LeaseHeld: _why(
        "Only one process may write the backups of a cluster at a time, and another one holds that right: a second "
        "worker, or a command. A job waits ten minutes for it before it ends with this.",
        "Which one? Look for `icecore serve`, `icecore work` and commands on every machine that uses this repository.",
        "What a dead process of the same machine held is free at once.",
        seen=(JOB, COMMAND),
        name="clusters/pc-ice1",
    ),
    errors.Busy: _why(
        "The catalog stayed locked by another transaction for longer than a call may take: many calls at once, a slow "
        "disk, or another process that keeps it open, such as a sqlite3 shell or a copy program. Nothing was changed.",
        "Keep the ClientToken when you send it again.",
        "If it stays: close whatever has the catalog in the home open (`fuser`), and look at the disk's latency.",
        seen=(COMMAND,),
    ),
    # ------------------------------------------------------------ broken laws
    errors.Damaged: _why(
        "Bytes that were read are not those that were once stored: each is checked before it is used. A failing disk, "
        "memory or cable, an object changed or cut by hand, or a file of the database server that is damaged itself.",
        "The object's name is its path below the repository. Backups that do not share it are whole.",
        "Look at `dmesg` and SMART before trusting this disk again, and take a new backup to another one.",
        "If the name is one of the database's own files, it is the cluster that is damaged: look there first.",
        seen=(JOB, COMMAND),
        name="clusters/pc-ice1/packs/7f3a2c91",
        reason="its part 3 does not match its tag",
    ),
    errors.VerificationFailed: _why(
        "The backup was restored to a server of its own and examined, and something is not as it must be: a block is "
        "damaged, the server does not come up, a page does not match its checksum, an index contradicts its table, "
        "or one of your assertions is not true. The bytes may be those that the source had: then the source itself is "
        "damaged.",
        "The evidence names each examination with what it found: on the backup's page, or `icecore show BACKUP`.",
        "A false assertion is about your data: run its query on the source.",
        "Damaged pages or indexes: `icecore repo check` tells whether the stored bytes are intact. If they are, run "
        "amcheck on the source, and keep older backups until one verifies.",
        "Only indexes over text fail, and source and this host differ in their libc: text sorts otherwise here. Verify "
        "on a host like the source.",
        seen=(JOB, COMMAND),
        backup_id="4182",
        reason="amcheck of indexes: shop.orders_pkey: heap tuple (17,3) lacks matching index tuple",
    ),
    errors.StaleWorker: _why(
        "A worker was held up so long (suspended machine, frozen disk) that another one took its job over. The first "
        "noticed it and stepped back without writing; the job goes on or has ended elsewhere.",
        "`icecore jobs` shows the job's true state.",
        "If it comes often, find out what freezes the machine of the worker.",
        seen=(LOG,),
        job_id="4182",
    ),
}

# Refused as parameters are, and none of any operation: the general text would lead astray.
WHY_PARAMETER: dict[str, Explanation] = {
    "DSN": _why(
        "The connection string of a registered cluster is not one that libpq would take: a port that is no number "
        "from 1 to 65535, or not as many ports as hosts.",
        "One port serves all hosts; several must be as many as the hosts: host=a,b port=5432,5433.",
        "Register the cluster anew with a right one: `icecore cluster add NAME --dsn DSN`.",
        seen=(COMMAND,),
    ),
}
