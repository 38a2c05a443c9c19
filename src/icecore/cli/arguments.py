"""The grammar of the command line, and its help screens: nothing here does anything.

argparse, because ``icecore --help`` must come at once: it starts in 20 ms where a typer application of this size took
130–220 ms (measured 2026-11, Python 3.11). Each command names the function that runs it as ``"module:function"``,
so that only that module is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from icecore import __version__, errors

# the ids of icecore.api.samples.LANGUAGES, which are not loaded for every command
LANGUAGES = (
    "curl",
    "python",
    "python-legacy",
    "java",
    "go",
    "typescript",
    "nodejs",
    "nodejs-legacy",
    "php",
    "csharp",
    "cpp",
    "ruby",
    "aliyun",
    "icecore",
)

TITLE = "Icecore: snapshot backup for database clusters, behind the PolarDB OpenAPI."
GROUPS: dict[str, Sequence[str]] = {
    "Start": ("init", "serve", "work"),
    "Clusters": ("cluster", "status"),
    "Backups": (
        "backup",
        "backups",
        "show",
        "verify",
        "windows",
        "restore",
        "clone",
        "delete",
        "policy",
        "hold",
        "release",
    ),
    "Jobs": ("jobs", "watch", "cancel"),
    "Access and storage": ("console", "key", "repo", "call"),
}
EXITS = """\
Exit codes: 0 done, 1 failed, 2 usage, 3 done with warnings, 4 not allowed, 5 not found, 6 refused or already
running, 7 engine or storage unreachable (try again), 8 data damaged, 9 objective missed, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """Complaints are raised as ``Usage``, so that they look like every other failure, also as JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        self._positionals.title, self._optionals.title = "Arguments", "Options"

    def error(self, message: str) -> NoReturn:
        raise errors.Usage(reason=message)


class _Top(Parser):
    """The help of the whole is one screen of groups, which argparse cannot draw."""

    overview = ""

    def format_help(self) -> str:
        return self.overview


class Grammar:
    """Collects the commands; ``parser`` is what they add up to."""

    def __init__(self) -> None:
        self.parser = _Top(prog="icecore", add_help=False)
        _common(self.parser, shared=False)
        self.parser.add_argument("--version", action="version", version=f"icecore {__version__}")
        self._group = ""
        self._commands = self.parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
        self._summaries: dict[str, str] = {}
        self._pages: dict[str, list[Parser]] = {}

    def command(self, name: str, run: str, summary: str, examples: str = "", within: Any = None) -> Parser:
        """``examples`` are printed on top: they are what is looked for."""
        top = within is None
        if top:
            self._summaries[name] = summary
        text = summary + ("\n\n" + "\n".join(f"  $ {line}" for line in examples.splitlines()) if examples else "")
        parser: Parser = (within or self._commands).add_parser(name, description=text, help=summary, add_help=False)
        parser.set_defaults(run=run)
        _common(parser, shared=True)
        self._pages.setdefault(self._group if within else name, []).append(parser)
        return parser

    def group(self, name: str, summary: str) -> Any:
        self._summaries[name] = summary
        parser = self._commands.add_parser(name, description=summary, help=summary, add_help=False)
        _common(parser, shared=True)
        parser.set_defaults(run="")
        self._group = name
        self._pages[name] = [parser]
        return parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser, title="Verbs")

    def pages(self, name: str) -> list[Parser]:
        """The help pages of a command, or of a group and its verbs."""
        return self._pages[name]

    def names(self) -> list[str]:
        """The commands and groups at the top."""
        return list(self._summaries)

    def runs(self) -> list[str]:
        """What the commands lead to, as ``"module:function"``."""
        return [
            str(page.get_default("run")) for pages in self._pages.values() for page in pages if page.get_default("run")
        ]

    def overview(self) -> str:
        """The screen of ``icecore --help``."""
        lines = [TITLE, "", "  $ icecore init", "  $ icecore serve", "  $ icecore backup CLUSTER", ""]
        for title, names in GROUPS.items():
            lines += [title, *(f"  {name:<10}{self._summaries[name]}" for name in names), ""]
        lines += ["Options, before or after the command"]
        lines += [
            "  --home DIR  the installation (environment: ICECORE_HOME; default: ~/.icecore)",
            "  --json      one JSON document, or JSON lines for what takes time",
            "  --quiet     results and errors only",
            "  --yes       answer confirmations",
            "  --version   print the version",
            "",
            "icecore COMMAND --help shows one command.",
            EXITS,
        ]
        return "\n".join(lines) + "\n"


def _common(parser: argparse.ArgumentParser, *, shared: bool) -> None:
    """Options of every command; ``shared``: below the top, where an absent one must not undo one given before."""

    def default(value: Any) -> Any:
        return argparse.SUPPRESS if shared else value

    shown = parser.add_argument_group("Options of every command") if shared else parser
    shown.add_argument("--home", type=Path, metavar="DIR", default=default(None), help="the installation")
    shown.add_argument("--json", action="store_true", default=default(False), help="print JSON")
    shown.add_argument("--quiet", action="store_true", default=default(False), help="results and errors only")
    shown.add_argument("--yes", action="store_true", default=default(False), help="answer confirmations")
    shown.add_argument("--help", "-h", action="help", help="show this")


def grammar() -> Grammar:
    g = Grammar()
    _start(g)
    _clusters(g)
    _backups(g)
    _policies(g)
    _jobs(g)
    _access(g)
    g.parser.overview = g.overview()
    return g


def _start(g: Grammar) -> None:
    p = g.command(
        "init",
        "install:init",
        "Make a home: catalog, repository and its key, first access key (shown once)",
        "icecore init\nicecore --home /var/lib/icecore init --repo /mnt/backup/icecore",
    )
    p.add_argument("--repo", type=Path, metavar="DIR", help="where the repository goes (default: in the home)")
    p.add_argument("--listen", metavar="HOST:PORT", help="where `serve` will listen (default: 127.0.0.1:7480)")
    how = p.add_mutually_exclusive_group()
    how.add_argument(
        "--passphrase", action="store_true", help="open the repository by a passphrase (asked, or ICECORE_PASSPHRASE)"
    )
    how.add_argument("--unencrypted", action="store_true", help="store blocks as they are")

    p = g.command(
        "serve",
        "install:serve",
        "Answer the API and run jobs until stopped",
        "icecore serve\nicecore serve --listen 0.0.0.0:7480 --tls-self-signed",
    )
    p.add_argument("--listen", metavar="HOST:PORT", help="where to listen; port 0 takes a free one")
    p.add_argument("--no-worker", action="store_true", help="answer only; jobs wait for `icecore work`")
    p.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    p.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    p.add_argument("--tls-self-signed", action="store_true", help="make a certificate for localhost, kept in the home")

    g.command("work", "install:work", "Run jobs until stopped, without the API")


def _clusters(g: Grammar) -> None:
    verbs = g.group("cluster", "Clusters under protection: add, list, check, set, remove")
    p = g.command(
        "add",
        "clusters:add",
        "Register a running server and check it",
        "icecore cluster add orders --dsn 'host=/var/run/postgresql user=postgres dbname=postgres'\n"
        "PGPASSWORD=… icecore cluster add crm --dsn postgresql://backup@db7/postgres",
        verbs,
    )
    p.add_argument("name", metavar="NAME", help="what you call it; not only digits")
    p.add_argument("--engine", choices=("postgresql",), default="postgresql", help="default: postgresql")
    p.add_argument("--dsn", required=True, help="how to connect, without a password")
    p.add_argument("--ask-password", action="store_true", help="ask for the password (else PGPASSWORD or a passfile)")
    g.command("list", "clusters:list_", "List the clusters", within=verbs)
    p = g.command(
        "check", "clusters:check", "Look at a server: reachable, rights, settings, and what to mend", within=verbs
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p = g.command(
        "set",
        "clusters:set_",
        "How fast backups of a cluster may read it, and log backup. Without an option: show it",
        "icecore cluster set orders --max-rate 200MB --background on\nicecore cluster set orders --max-rate default",
        verbs,
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p.add_argument("--max-rate", metavar="RATE", help="bytes a second such as 200MB; 0: no limit; default: as the home")
    p.add_argument(
        "--background", choices=("on", "off", "default"), help="on: core and disk only when nobody else wants them"
    )
    p.add_argument("--log-backup", choices=("on", "off"), help="whether its log is archived; `windows` shows it")
    p = g.command(
        "remove",
        "clusters:remove",
        "Forget a registered server; stop and remove one that Icecore restored",
        "icecore cluster remove orders-copy\nicecore cluster remove orders --keep none",
        verbs,
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p.add_argument(
        "--keep", choices=("all", "latest", "none"), default="all", help="which of its backups stay (default: all)"
    )
    p.add_argument("--no-wait", action="store_true", help="return when the job is accepted")

    p = g.command("status", "reading:status", "What would be lost now, on one screen; 9 when a cluster needs a person")
    p.add_argument("cluster", metavar="CLUSTER", nargs="?", help="name or id (default: all)")


def _backups(g: Grammar) -> None:
    p = g.command(
        "backup",
        "writing:backup",
        "Take a full backup and follow it",
        "icecore backup orders\nicecore backup orders --no-wait --comment 'before the upgrade'",
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p.add_argument("--comment", default=None, metavar="TEXT", help="kept with the backup")
    p.add_argument("--client-token", default=None, metavar="TOKEN", help="same token, same backup (default: a new one)")
    p.add_argument("--no-wait", action="store_true", help="return when the job is accepted")

    p = g.command("backups", "reading:backups", "List backups, newest first", "icecore backups\nicecore backups orders")
    p.add_argument("cluster", metavar="CLUSTER", nargs="?", help="name or id (default: all)")

    p = g.command("show", "reading:show", "One backup in full, with the recipe to restore it without this server")
    p.add_argument("backup", metavar="BACKUP", help="id, or the start of one if no other begins so")

    p = g.command(
        "verify",
        "verifying:verify",
        "Prove a backup: restore, start and query a copy, then throw it away; 8 when it fails",
        "icecore verify orders\nicecore verify 1764000123456 --sql must-hold.toml\n"
        "icecore verify --repo /mnt/icecore/repository --key-file icecore.key 1764000123456",
    )
    p.add_argument("what", metavar="CLUSTER|BACKUP", help="a backup's id (or its start), or a cluster: its newest one")
    p.add_argument(
        "--sql",
        type=Path,
        metavar="FILE",
        help="TOML with [[assertion]] name, database, query: must hold in this and every later copy of the cluster",
    )
    _repository(p)
    p.add_argument("--scratch", type=Path, metavar="DIR", help="offline: where the copy goes (default: /tmp)")
    p.add_argument("--no-wait", action="store_true", help="return when the job is accepted")

    p = g.command(
        "restore",
        "restoring:restore",
        "Restore into a directory, or to a new running cluster",
        "icecore restore 1764000123456 --to /srv/pg-restored\n"
        "icecore restore orders --to orders-copy\n"
        "icecore restore 1764000123456 --to orders-copy\n"
        "icecore restore orders --to /srv/pg --delta --dry-run\n"
        "icecore restore orders --to /srv/pg --at '2026-11-25 22:10:00+00'\n"
        "icecore restore --repo /mnt/icecore/repository --key-file icecore.key 1764000123456 --to ./data",
    )
    p.add_argument("what", metavar="CLUSTER|BACKUP", help="a backup's id (or its start), or a cluster: its newest one")
    p.add_argument(
        "--to", required=True, metavar="DIR|NAME", help="with a slash, or with --repo: a directory; else a new cluster"
    )
    p.add_argument(
        "--tablespace", action="append", default=[], metavar="OID=DIR", help="into a directory: where it goes"
    )
    p.add_argument("--owner", metavar="USER", help="into a directory, as root: whose files they become (postgres)")
    p.add_argument("--repo", type=Path, metavar="DIR", help="offline: this repository; no home is needed")
    p.add_argument("--key-file", type=Path, metavar="FILE", help="its key file")
    p.add_argument("--passphrase", action="store_true", help="it opens by a passphrase (asked, or ICECORE_PASSPHRASE)")
    p.add_argument(
        "--delta",
        action="store_true",
        help="into a directory that holds an older or damaged copy of this cluster: write only what differs",
    )
    p.add_argument("--at", metavar="TIME", help="a cluster at that moment: '2026-11-25 22:10:00+00', or latest")
    p.add_argument("--lsn", metavar="POSITION", help="into a directory: up to that position of the log")
    p.add_argument("--dry-run", action="store_true", help="show the plan only")
    p.add_argument("--no-wait", action="store_true", help="a new cluster: return when the job is accepted")

    p = g.command(
        "windows",
        "moment:windows",
        "Which moments of a cluster can be restored",
        "icecore windows orders\nicecore windows orders --repo /mnt/icecore/repository --key-file icecore.key",
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p.add_argument("--repo", type=Path, metavar="DIR", help="offline: this repository; no home is needed")
    p.add_argument("--key-file", type=Path, metavar="FILE", help="its key file")
    p.add_argument("--passphrase", action="store_true", help="it opens by a passphrase (asked, or ICECORE_PASSPHRASE)")

    p = g.command(
        "clone",
        "cloning:clone",
        "A server on a backup's image in seconds, for a while; list, extend, delete clones",
        "icecore clone orders --name look --for 2h\n"
        "icecore clone 1764000123456 --purpose 'try the migration'\n"
        "icecore clone list\n"
        "icecore clone extend look --for 1d\n"
        "icecore clone delete look",
    )
    p.add_argument(
        "what", metavar="CLUSTER|BACKUP", help="a Level-1 backup, or a cluster: its newest; or list, extend, delete"
    )
    p.add_argument("clone", metavar="CLONE", nargs="?", help="extend, delete: its name or id")
    p.add_argument("--name", default=None, metavar="NAME", help="what you call it (default: made of its source's)")
    p.add_argument(
        "--for", dest="for_", default=None, metavar="TIME", help="from now: 90m, 2h, 7d; 0: for ever (default: 24h)"
    )
    p.add_argument("--purpose", default=None, metavar="TEXT", help="what it is for")
    p.add_argument("--no-wait", action="store_true", help="return when the job is accepted")

    p = g.command("delete", "writing:delete", "Delete a backup and give its space back")
    p.add_argument("backup", metavar="BACKUP", nargs="+", help="id, or the start of one")
    p.add_argument("--no-wait", action="store_true", help="return when the job is accepted")


def _policies(g: Grammar) -> None:
    verbs = g.group("policy", "Automatic backups of a cluster, how long they stay: show, set, off, preview")
    for name, summary in (
        ("show", "When a cluster is backed up by itself, and how long backups stay"),
        ("off", "No more automatic backups; nothing expires"),
        ("preview", "Of each backup whether it stays, and why"),
    ):
        p = g.command(name, f"policies:{name}", summary, within=verbs)
        p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p = g.command(
        "set",
        "policies:set_",
        "Set it; what is not given stays as it is (at first: every day at 02:00 UTC, kept 7 days)",
        "icecore policy set orders --at 03:00 --keep 14\n"
        "icecore policy set orders --days Mon,Wed,Fri --keep 7 --keep-long 365 --long-days Sun,Wed\n"
        "icecore policy set orders --per-day 4 --dry-run",
        verbs,
    )
    p.add_argument("cluster", metavar="CLUSTER", help="name or id")
    p.add_argument("--at", metavar="HH:MM", help="when it begins, UTC")
    p.add_argument("--days", metavar="DAYS", help="on which days: at least two, or all")
    p.add_argument("--per-day", choices=("1", "2", "3", "4"), help="above 1: evenly spread, on every day")
    p.add_argument("--keep", metavar="DAYS", help="for how many days an automatic backup stays: 3 to 30")
    p.add_argument("--keep-long", metavar="DAYS", help="those of --long-days: 30 to 7300, forever, or 0: no longer")
    p.add_argument("--long-days", metavar="DAYS", help="backups of which days stay longer (default: all)")
    p.add_argument("--drill", metavar="DAYS", help="verify a backup every so many days: 1 to 365, or off")
    p.add_argument("--dry-run", action="store_true", help="show what it would keep and remove")

    p = g.command("hold", "policies:hold", "Keep a backup whatever policy or person says")
    p.add_argument("backup", metavar="BACKUP", help="id, or the start of one")
    p.add_argument("--reason", default=None, metavar="TEXT", help="for whoever finds it held")
    p = g.command("release", "policies:release", "End the hold of a backup")
    p.add_argument("backup", metavar="BACKUP", help="id, or the start of one")


def _jobs(g: Grammar) -> None:
    p = g.command("jobs", "reading:jobs", "List jobs, newest first")
    p.add_argument("cluster", metavar="CLUSTER", nargs="?", help="name or id (default: all)")
    p.add_argument("--state", choices=("queued", "running", "succeeded", "failed", "cancelled"), help="only these")
    p.add_argument("--job", metavar="JOB", help="this one in full: what its time goes into, and what binds it")
    p = g.command("watch", "writing:watch", "Follow a job to its end; Ctrl-C stops following, not the job")
    p.add_argument("job", metavar="JOB", help="its id, as `jobs` shows it")
    p = g.command("cancel", "writing:cancel", "Cancel a job; it stops at its next step and leaves nothing behind")
    p.add_argument("job", metavar="JOB", help="its id, as `jobs` shows it")


def _access(g: Grammar) -> None:
    g.command(
        "console",
        "access:console",
        "Print a link that signs you in to the console, once",
        "icecore console\nALIBABA_CLOUD_ACCESS_KEY_ID=... ALIBABA_CLOUD_ACCESS_KEY_SECRET=... icecore console",
    )
    verbs = g.group("key", "Access keys: create, list, revoke")
    p = g.command("create", "access:create", "Make an access key; its secret is shown once", within=verbs)
    p.add_argument("--role", choices=("admin", "reader"), default="admin", help="default: admin")
    p.add_argument("--description", default=None, metavar="TEXT", help="what it is for")
    g.command("list", "access:list_", "List the access keys", within=verbs)
    p = g.command("revoke", "access:revoke", "Disable an access key for good", within=verbs)
    p.add_argument("key", metavar="KEY", help="its id")

    verbs = g.group("repo", "The repository: list, stat, check, collect, key export, key passphrase")
    for name, run, summary in (
        ("list", "repository:list_", "List the backups that the repository itself holds (no catalog needed)"),
        ("stat", "repository:stat", "How much is stored, for how much data"),
    ):
        p = g.command(name, run, summary, within=verbs)
        _repository(p)
    p = g.command(
        "check",
        "repository:check",
        "Read everything that is stored and decode it: are the bytes intact?",
        "icecore repo check\nicecore repo check --sample 5\nicecore repo check --repo /mnt/copy --key-file icecore.key",
        verbs,
    )
    _repository(p)
    p.add_argument(
        "--sample",
        type=float,
        default=100.0,
        metavar="PERCENT",
        help="of the packs, drawn anew each time (default: 100)",
    )
    p = g.command(
        "collect",
        "repository:collect",
        "Give back the space of what no backup uses; deletions do it by themselves",
        "icecore repo collect --dry-run\nicecore repo collect --repo /mnt/copy --key-file icecore.key",
        verbs,
    )
    _repository(p)
    p.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    p = g.command(
        "key",
        "repository:key",
        "Keep a copy of the key elsewhere, or change how the repository opens",
        "icecore repo key export icecore.key\nicecore repo key passphrase",
        verbs,
    )
    p.add_argument("action", choices=("export", "passphrase"), help="export FILE: write a copy; passphrase: set one")
    p.add_argument("file", nargs="?", metavar="FILE", help="export: where the copy goes; - prints it")

    p = g.command(
        "call",
        "calling:call",
        "Call any action of the API, signed",
        "icecore call DescribeDBClusters\n"
        "icecore call CreateBackup --DBClusterId pc-… --ClientToken t1\n"
        "icecore call CreateBackup --DBClusterId pc-… --print curl",
    )
    p.add_argument("action", metavar="ACTION", help="as in the API reference; parameters follow as --Name value")
    p.add_argument(
        "--print",
        choices=LANGUAGES,
        metavar="LANGUAGE",
        dest="language",
        help=f"show how to call it, send nothing. One of: {', '.join(LANGUAGES)}",
    )


def _repository(parser: Parser) -> None:
    parser.add_argument("--repo", type=Path, metavar="DIR", help="offline: this repository; no home is needed")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="its key file")
    parser.add_argument(
        "--passphrase", action="store_true", help="it opens by a passphrase (asked, or ICECORE_PASSPHRASE)"
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The command's options, and for ``call`` the action's parameters as ``(name, value)``.

    Raises ``Usage``; ``SystemExit`` with 0 after ``--help`` and ``--version`` have printed.
    """
    parser = grammar().parser
    options, rest = parser.parse_known_args(list(argv))
    if not options.command and not rest:
        parser.print_help()
        parser.exit(0)
    if options.command == "call":
        return options, _pairs(rest)
    if rest:
        raise errors.Usage(reason=f"unknown argument: {rest[0]}")
    if not options.run:
        raise errors.Usage(reason=f"which verb? icecore {options.command} --help lists them")
    return options, []


def _pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
    """``--Name value`` and ``--Name=value``."""
    pairs: list[tuple[str, str]] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise errors.Usage(reason=f"expected --Name value, got {word!r}")
        if not equals:
            if not words:
                raise errors.Usage(reason=f"--{name} needs a value")
            value = words.pop(0)
        pairs.append((name, value))
    return pairs
