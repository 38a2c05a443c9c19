"""Every code has its page, and pages, tree, contract and the gateway's real answers say the same."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from simulated_backend import SimulatedBackend, signed

from icecore import console, errors, explanations
from icecore.api import contract, explain
from icecore.api.client import sign_v1, sign_v3
from icecore.api.server import Caller, CallRecord, Gateway, Server, build_app
from icecore.api.signature import Request
from icecore.cli import arguments
from icecore.console.errorcenter import PLACES, prose, replay
from icecore.errors import IcecoreError, every_error
from icecore.explanations import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
SESSIONS = {"session-of-admin": "testid", "session-of-reader": "readerid"}
UNKNOWN_ID = "AAAAAAAA-0000-4000-8000-000000000000"
ADMINS_ID = "BBBBBBBB-0000-4000-8000-000000000000"
READERS_ID = "CCCCCCCC-0000-4000-8000-000000000000"
PAGE_BYTES = 100_000  # the limit for a page

# every class that is raised: not the heads of families, not what stands in a client for codes of other versions
RAISED = [kind for kind in every_error() if kind not in FAMILIES and kind.__module__ != explain.NOT_HERE]


class Sessions:
    def find_session(self, token: str, now: int, *, used: bool = True) -> str | None:
        return SESSIONS.get(token)


class Backend(SimulatedBackend):
    """With two sessions and an audit of two calls, one of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[CallRecord] = []
        self.records = Sessions()  # type: ignore[assignment]
        example = contract.parse("DescribeCalls", contract.operation("DescribeCalls").example)["items"]["call"][0]
        self.audit = [
            {**example, "call_request_id": ADMINS_ID, "access_key_id": "testid", "result_message": "<i>full</i>"},
            {**example, "call_request_id": READERS_ID, "access_key_id": "readerid"},
        ]

    def note(self, record: CallRecord) -> None:
        self.noted.append(record)

    def run(self, call: contract.Call, caller: Caller) -> dict[str, Any]:
        if call.action != "DescribeCalls":
            return super().run(call, caller)
        wanted = call.params["call_request_id"]
        return {
            "items": {
                "call": [
                    each
                    for each in self.audit
                    if each["call_request_id"] == wanted
                    and (caller.role == "admin" or each["access_key_id"] == caller.access_key_id)
                ]
            }
        }


@dataclasses.dataclass
class Page:
    status: int
    headers: Mapping[str, str]
    text: str


class Site:
    def __init__(self, port: int, backend: Backend) -> None:
        self.port = port
        self.backend = backend

    def get(self, path: str, session: str = "") -> Page:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"cookie": f"icecore={session}"} if session else {})
            answered = connection.getresponse()
            headers = {name.lower(): value for name, value in answered.getheaders()}
            return Page(answered.status, headers, answered.read().decode())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    backend = Backend()
    app = build_app(backend, pages=lambda gateway: console.pages(gateway, backend), clock=backend.clock)  # type: ignore[arg-type]
    server = Server(app)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield Site(server.port, backend)
    server.stop()
    thread.join(15)
    assert not thread.is_alive()


# ---------------------------------------------------------------- entries against contract and tree


def test_entries_have_the_operations_and_statuses_of_the_contract() -> None:
    gateway = set(contract.gateway_errors())
    documented = {
        (code, status, name)
        for name in contract.operations()
        for code, status in contract.documented_errors(name) - gateway
    }
    shown = {(entry.code, status, name) for entry in explain.entries().values() for name, status in entry.operations}
    assert shown == documented
    assert {(entry.code, status) for entry in explain.entries().values() for status in entry.gateway} == gateway
    for code, status in {(code, status) for code, status, _ in documented} | gateway:
        assert status in explain.entries()[code].statuses, (code, status)


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_every_class_is_a_case_with_its_own_facts(kind: type[IcecoreError]) -> None:
    cases = [(code, case) for code, entry in explain.entries().items() for case in entry.cases if case.kind is kind]
    assert cases
    for code, case in cases:
        raised = case.example()
        assert raised.wire_code() == code
        assert (case.status, case.exit, case.retry) == (kind.status, kind.exit, kind.retry)
        # what is shown of message and hint is what a raised one says, but for the values that each answer has
        for shown, said in ((case.message, raised.message), (case.hint, raised.advice())):
            assert "{" not in shown
            if shown:
                pattern = ".+".join(re.escape(part) for part in re.split(r"<[\w ]+>", shown))
                assert re.fullmatch(pattern, said), (shown, said)


def test_every_class_is_explained_in_words_of_its_own() -> None:
    texts: dict[str, type[IcecoreError]] = {}
    for kind in RAISED:
        why = explanations.explanation(kind)
        owner = next(parent for parent in kind.__mro__ if explanations.WHY.get(parent) is why)
        # only the same refusal under another code or status may do without
        assert owner is kind or (owner is not IcecoreError and issubclass(kind, owner)), kind
        assert len(why.cause) > 80 and why.cause[-1] == ".", kind
        assert why.fix and all(step[-1] in ".?" or " " not in step.split(": ")[-1] for step in why.fix), kind
        for text in {why.cause, *why.fix}:
            assert texts.setdefault(text, owner) is owner, (kind, text)
    assert set(explanations.WHY) <= set(RAISED)


def test_commands_options_and_operations_in_the_texts_exist() -> None:
    grammar = arguments.grammar()
    names = {name for group in arguments.GROUPS.values() for name in group}
    pages = [page for name in names for page in grammar.pages(name)]
    commands = {page.prog.removeprefix("icecore ") for page in pages}
    options = {option for page in pages for action in page._actions for option in action.option_strings}
    told = " ".join(
        text
        for entry in explain.entries().values()
        for case in entry.cases
        for text in (case.cause, case.hint, *case.fix)
    )
    named = re.findall(r"`icecore ([a-z ]+)", told)
    assert len(named) > 20
    for command in named:
        words = command.split()
        assert words[0] in commands or " ".join(words[:2]) in commands, command
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", told)) - options - {"--delete"} == set()  # rsync's
    actions = set(re.findall(r"\b(?:Describe|Create|Delete|Register|Cancel|Revoke)[A-Z]\w+", told))
    assert len(actions) > 5 and actions <= set(contract.operations())


def test_codes_in_the_documents_exist() -> None:
    found = set()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"\b(?:Invalid|OperationDenied|Missing|Forbidden|Throttling)\w*\.[A-Z]\w+", text))
        for before, after in re.findall(r"\b[45]\d\d `([A-Z][\w.]+)`|`([A-Z][\w.]+)`(?: is)? [45]\d\d\b", text):
            found.add(before or after)
        # `CODE` | 400 in a table
        found |= set(re.findall(r"`([A-Z]\w+)` \| [45]\d\d\b", text))
    assert {"BackupTimesExceeded", "IdempotentParameterMismatch", "InvalidDBCluster.NotFound"} <= found
    assert found - set(explain.entries()) == set()


# ---------------------------------------------------------------- entries against what the gateway answers


TEST_KEY = ("testid", "testsecret", "")


def without(request: Request, header: str) -> Request:
    return dataclasses.replace(request, headers=[(k, v) for k, v in request.headers if k.lower() != header])


def changed(request: Request, header: str, value: str) -> Request:
    return dataclasses.replace(request, headers=[(k, value if k.lower() == header else v) for k, v in request.headers])


def v1(backend: Backend, *pairs: tuple[str, str], late_s: int = 0, key: tuple[str, str, str] = TEST_KEY) -> Request:
    return sign_v1("127.0.0.1:8080", "DescribeRegions", pairs, key, int(backend.now) - late_s, "nonce")


# decided before the wanted form of the answer was looked at, or because of it
ALWAYS_JSON = {"InvalidParameter", "InvalidParameter.Format", "UnsupportedHTTPMethod"}
CREATE = ("CreateBackup", [("DBClusterId", "pc-1")])
Provoke = Callable[[Backend], Request]
PROVOKED: dict[str, Provoke] = {
    "MissingAccessKeyId": lambda b: Request("GET", "/", "Action=DescribeRegions", [("host", "127.0.0.1:8080")]),
    "MissingTimestamp": lambda b: without(signed(b, *CREATE), "x-acs-date"),
    "InvalidAccessKeyId.NotFound": lambda b: changed(
        signed(b, *CREATE),
        "authorization",
        (signed(b, *CREATE).header("authorization") or "").replace("testid", "nobody"),
    ),
    "InvalidAccessKeyId.Inactive": lambda b: signed(b, *CREATE, key="oldid"),
    "InvalidSecurityToken.Malformed": lambda b: sign_v3(
        "127.0.0.1:8080", *CREATE, ("stsid", "stssecret", "wrong"), int(b.now), "nonce"
    ),
    "SignatureDoesNotMatch": lambda b: v1(b, key=("testid", "another", "")),
    "IncompleteSignature": lambda b: without(signed(b, *CREATE), "x-acs-content-sha256"),
    "InvalidTimeStamp.Expired": lambda b: v1(b, late_s=3600),
    "InvalidTimeStamp.Format": lambda b: changed(signed(b, *CREATE), "x-acs-date", "2026-11-24 04:09:30"),
    "InvalidSignatureMethod": lambda b: changed(signed(b, *CREATE), "authorization", "ACS3-RSA-SHA256 Credential=x"),
    "InvalidParameter.Format": lambda b: v1(b, ("Format", "YAML")),
    "InvalidAction.NotFound": lambda b: signed(b, "DescribeWeather", []),
    "UnsupportedHTTPMethod": lambda b: dataclasses.replace(signed(b, *CREATE), method="PUT"),
    "Forbidden.RAM": lambda b: signed(b, *CREATE, key="readerid"),
    "MissingParameter": lambda b: signed(b, "CreateBackup", []),
    "InvalidPageSize.Malformed": lambda b: signed(b, "DescribeDBClusters", [("PageSize", "7")]),
    "InvalidClientToken.Malformed": lambda b: signed(b, CREATE[0], [*CREATE[1], ("ClientToken", "x" * 65)]),
    "InvalidParameter": lambda b: Request("GET", "/", "Action=%FF", [("host", "127.0.0.1:8080")]),
    "BackupTimesExceeded": lambda b: signed(b, "CreateBackup", [("DBClusterId", "pc-full")]),
    "InvalidDBClusterId.NotFound": lambda b: signed(b, "CreateBackup", [("DBClusterId", "pc-unknown")]),
    "InternalError": lambda b: signed(b, "CreateBackup", [("DBClusterId", "pc-broken")]),
}


@pytest.mark.parametrize(
    ("code", "xml"),
    [(code, False) for code in PROVOKED] + [(code, True) for code in PROVOKED if code not in ALWAYS_JSON],
)
def test_examples_are_what_the_gateway_answers(code: str, xml: bool, site: Site) -> None:
    backend = Backend()
    request = PROVOKED[code](backend)
    if xml:
        # Accept need not be signed; where Format is changed, the signature is not what is looked at
        accepting = [*without(request, "accept").headers, ("accept", "text/xml")]
        request = dataclasses.replace(
            request, headers=accepting, query=request.query.replace("Format=JSON", "Format=XML")
        )
    real = Gateway(backend, backend.clock).answer(request)
    assert real.code == code

    case = next(case for case in explain.entries()[code].cases if case.status == real.status)
    shown = explain.example_answer(case, host="127.0.0.1:8080", base_url="http://127.0.0.1:8080", xml=xml)
    assert (shown.status, shown.content_type, shown.code) == (real.status, real.content_type, real.code)
    said, told = fields(real.body, xml), fields(shown.body, xml)
    assert list(told) == list(said)
    assert (told["Code"], told["HostId"]) == (said["Code"], said["HostId"])
    if "<" not in case.message:
        assert told["Message"] == said["Message"]

    # the link in the answer leads to the page, signed in or not
    link = urlsplit(said["Recommend"])
    assert told["Recommend"].split("?")[0] == said["Recommend"].split("?")[0]
    for session in ("", "session-of-admin"):
        page = site.get(f"{link.path}?{link.query}", session)
        assert page.status == 200 and f"<h1>{code}</h1>" in page.text
        assert said["RequestId"] in page.text


def fields(body: bytes, xml: bool) -> dict[str, str]:
    if xml:
        return {element.tag: element.text or "" for element in ET.fromstring(body)}
    found: dict[str, str] = json.loads(body)
    return found


def test_a_nonce_used_twice_and_two_versions(site: Site) -> None:
    backend = Backend()
    gateway = Gateway(backend, backend.clock)
    request = v1(backend)
    assert gateway.answer(request).status == 200
    assert gateway.answer(request).code == "SignatureNonceUsed"
    assert site.get("/errors/SignatureNonceUsed").status == 200


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("code", sorted(explain.entries()))
def test_a_page_says_what_its_entry_says(code: str, site: Site) -> None:
    entry = explain.entries()[code]
    page = site.get(f"/errors/{quote(code, safe='')}")
    assert page.status == 200 and len(page.text.encode()) < PAGE_BYTES
    text = plain(page.text)
    for case in entry.cases:
        assert case.shown_message in text
        assert case.cause.replace("`", "") in text
        assert (f'data-label="HTTP">{case.status}<' in page.text) == entry.over_http
    for name, _ in entry.operations:
        assert f'href="/console/explorer/{name}"' in page.text
    if entry.answered:
        assert f'"Code": "{code}"' in text and f"<Code>{code}</Code>" in text
    for place in entry.seen:
        assert PLACES[place] in text
    assert entry.answered or entry.seen


def plain(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def test_the_list_has_every_code_and_fits(site: Site) -> None:
    page = site.get("/errors")
    assert page.status == 200 and len(page.text.encode()) < PAGE_BYTES
    linked = set(re.findall(r'href="/errors/([^"?]+)"', page.text))
    assert linked == set(explain.entries())
    assert {entry.group for entry in explain.entries().values()} == set(explain.GROUPS)
    # nothing stands in the page that its policy forbids
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", page.text)


@pytest.mark.parametrize(
    "path",
    [
        "/errors/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/errors/" + "A" * 10_000,
        "/errors/..",
        "/errors/../../etc/passwd",
        "/errors/..%2f..%2fetc%2fpasswd",
        "/errors//example.org/",
        "/errors/https:%2f%2fexample.org",
        "/errors/%00",
        "/errors/%FF%FE",
        "/errors/BackupTimesExceeded/",
        "/errors/backuptimesexceeded",
        "/errors/{{7*7}}",
    ],
)
def test_a_hostile_code_is_told_apart_and_escaped(path: str, site: Site) -> None:
    page = site.get(path)
    assert page.status == 404
    assert page.headers["content-type"].startswith("text/html") and "location" not in page.headers
    assert "set-cookie" not in page.headers
    assert "<script" not in page.text and ">49<" not in page.text
    assert len(page.text) < 10_000


def test_a_line_break_in_a_code_leads_nowhere(site: Site) -> None:
    page = site.get("/errors/%0d%0aset-cookie:%20a=b")
    assert page.status == 404 and not {"set-cookie", "location"} & set(page.headers)
    assert "a=b" not in page.text


def test_a_code_that_does_not_exist_offers_those_like_it(site: Site) -> None:
    page = site.get("/errors/backuptimesExceeded")
    assert page.status == 404 and 'href="/errors/BackupTimesExceeded"' in page.text
    assert "<i>" not in site.get("/errors/%3Ci%3E").text


# ---------------------------------------------------------------- search


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("BackupTimesExceeded", "BackupTimesExceeded"),
        ("backuptimesexceeded", "BackupTimesExceeded"),
        ("Exceeding the daily backup times of this DB cluster.", "BackupTimesExceeded"),
        ('{"RequestId":"X","Code":"Forbidden.RAM","Message":"who knows"}', "Forbidden.RAM"),
        (
            "<Error><Code>NotOurs</Code><Message>Specified signature nonce was used already.</Message>",
            "SignatureNonceUsed",
        ),
        (
            "Error:InvalidDBClusterId.NotFound code: 404, The DBClusterId provided does not exist in our records.",
            "InvalidDBClusterId.NotFound",
        ),
        (
            'The input parameter "DBType" that is mandatory for processing this request is not supplied.',
            "MissingParameter",
        ),
        (
            r'Message":"The input parameter \"DBType\" that is mandatory for processing this request is not supplied."',
            "MissingParameter",
        ),
        ("The specified parameter PageSize is not valid.", "InvalidPageSize.Malformed"),
        ("server string to sign is:GET&%2F&AccessKeyId", None),
        ("error: no space left to write clusters/pc-1/packs/00: No space left on device", "StorageFull"),
        (
            "Specified signature is not matched with our calculation. server string to sign is:GET&",
            "SignatureDoesNotMatch",
        ),
        ("what is the usage of this", None),
        ("zebra", None),
    ],
)
def test_search_names_the_code(text: str, code: str | None) -> None:
    best = explain.search(text).best
    assert (best.code if best else None) == code


def test_search_by_beginning_and_words() -> None:
    begin = [entry.code for entry in explain.search("operationdenied.").others]
    assert begin[:2] == ["OperationDenied.BackupStatus", "OperationDenied.DBClusterStatus"]
    assert "InvalidTimeStamp.Expired" in [entry.code for entry in explain.search("clock wrong").others]
    assert explain.search("zebra").others == ()
    # every code and every message of the tree finds its own page
    for entry in explain.entries().values():
        named = explain.search(entry.code)
        assert named.best is entry and entry not in named.others
        for case in entry.cases:
            said = case.example().message
            found = explain.search(said)
            if len(re.sub(r"<[\w ]+>", "", case.message)) > 2 * explain.LITERAL_LENGTH:
                assert entry in [found.best, *found.others], (entry.code, said)


def test_a_search_takes_no_longer_for_a_long_text() -> None:
    text = "storage failed to " * 100_000
    assert explain.search(text).best is None


@pytest.mark.parametrize("text", ["<script>", "' onmouseover=x", "%", "\x00", "x" * 3000])
def test_searching_for_markup_shows_it_as_text(text: str, site: Site) -> None:
    page = site.get(f"/errors?q={quote(text)}")
    assert page.status == 200
    assert "<script" not in page.text and "value=\"' on" not in page.text and "value='" not in page.text


def test_a_search_that_is_too_long_says_so(site: Site) -> None:
    assert "too long" in site.get("/errors?q=" + "x" * 17_000).text


# ---------------------------------------------------------------- RequestIds


def test_a_stranger_is_led_to_sign_in_and_back(site: Site) -> None:
    for path in (f"/errors/BackupTimesExceeded?RequestId={ADMINS_ID}", f"/errors?q={ADMINS_ID}"):
        page = site.get(path)
        assert page.status == 200 and "pc-2ze3ngi149b313k7" not in page.text
        link = html.unescape(re.findall(r'href="(/console/sign-in\?next=[^"]+)"', page.text)[0])
        back = site.get(link, "session-of-admin").headers["location"]
        assert back.startswith("/errors") and ADMINS_ID in back
        assert "pc-2ze3ngi149b313k7" in site.get(back, "session-of-admin").text
    # and it is told apart from nothing: the same page for an id that nobody has
    assert (
        site.get(f"/errors/InternalError?RequestId={ADMINS_ID}").text.replace(ADMINS_ID, UNKNOWN_ID)
        == site.get(f"/errors/InternalError?RequestId={UNKNOWN_ID}").text
    )


def test_who_signed_in_sees_the_call_and_what_to_do(site: Site) -> None:
    page = site.get(f"/errors?q={ADMINS_ID.lower()}", "session-of-admin")
    for part in ("CreateBackup", "testid", "pc-2ze3ngi149b313k7", "10.0.0.17", "8 ms", "2026-11-15 07:30:05+00:00"):
        assert part in page.text, part
    # a RequestId alone leads to its code's explanation; the message is text, not markup
    assert "The cluster has three manual backups" in page.text
    assert "<i>full" not in page.text and "&lt;i&gt;full" in page.text
    assert 'href="/console/explorer/CreateBackup?' in page.text
    other = site.get(f"/errors/Forbidden.RAM?RequestId={ADMINS_ID}", "session-of-admin")
    assert "not with the code of this page" in other.text


def test_other_peoples_calls_and_none_answer_alike(site: Site) -> None:
    for path in ("/errors?RequestId={}", "/errors?q={}", "/errors/BackupTimesExceeded?RequestId={}"):
        theirs = site.get(path.format(ADMINS_ID), "session-of-reader")
        nobodys = site.get(path.format(UNKNOWN_ID), "session-of-reader")
        assert theirs.status == nobodys.status == 200
        assert theirs.text.replace(ADMINS_ID, UNKNOWN_ID) == nobodys.text
        assert "There is no call with this RequestId that you may see" in nobodys.text
        assert "10.0.0.17" in site.get(path.format(READERS_ID), "session-of-reader").text


@pytest.mark.parametrize("wrong", ["%3Cscript%3E", "..", "1", "x" * 3000, "AAAAAAAA-0000-4000-8000-00000000000"])
def test_what_is_no_request_id_is_not_looked_up(wrong: str, site: Site) -> None:
    page = site.get(f"/errors/InternalError?RequestId={wrong}", "session-of-admin")
    assert page.status == 200 and 'id="call"' not in page.text and "<script" not in page.text


# ---------------------------------------------------------------- pieces


def test_prose_sets_code_and_escapes_the_rest() -> None:
    assert prose("say `a<b` & go to /console/explorer.") == (
        'say <code>a&lt;b</code> &amp; go to <a href="/console/explorer">/console/explorer</a>.'
    )


def test_a_replay_leaves_out_what_the_audit_hid_or_cut() -> None:
    kept = [("DBClusterId", "pc-1"), ("Comment", "long" + "…"), ("ClientToken", "***"), ("Action", "x"), ("Nope", "y")]
    call = {"call_action": "CreateBackup", "call_parameters": [{"name": n, "value": v} for n, v in kept]}
    assert replay(call).startswith("/console/explorer/CreateBackup?")
    assert "DBClusterId=pc-1" in replay(call)
    assert not {"Comment", "ClientToken", "Nope"} & set(re.findall(r"\w+", replay(call)))
    assert replay({"call_action": "", "call_parameters": []}) == ""
    assert replay({"call_action": "../../x"}) == ""


def test_the_families_are_told() -> None:
    for kind, family in ((errors.QuotaExceeded, "caller"), (errors.Busy, "world"), (errors.Damaged, "law")):
        assert explain.Case(kind).family == family
    assert explain.Case(IcecoreError).family == "unforeseen"
