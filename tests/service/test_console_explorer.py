"""The Explorer over HTTP: calls of the bytes that are shown, and what is refused."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from explorer_place import (
    OF_THE_SIGNATURE,
    PAGE_BYTES,
    Place,
    Reader,
    address_of,
    blocks,
    code,
    fields_of,
    opened,
    status,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icecore.api import contract, signature
from icecore.console import explorer_chosen


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with opened(tmp_path_factory.mktemp("explorer") / "home") as place:
        yield place


@pytest.fixture
def place(house: Place) -> Iterator[Place]:
    with house.watched():
        yield house


# ---------------------------------------------------------------- calling


@pytest.mark.parametrize("version", ["V3", "V1"])
@pytest.mark.parametrize("form", ["JSON", "XML"])
def test_the_bytes_shown_of_every_operation_are_right(place: Place, version: str, form: str):
    visitor = place.signed_in()
    for number, (action, operation) in enumerate(contract.operations().items()):
        send = ("POST", "GET", "FORM")[number % 3]
        shown = visitor.get(address_of(action, example="1", version=version, format=form, send=send, tab="signature"))
        assert shown.status == 200
        request = fields_of(shown, "call")["request"]
        assert request.rstrip("\n") in blocks(shown)
        answered = visitor.call(shown)
        if operation.mutates:
            assert "Yes, call it" in answered.text
            assert fields_of(answered, "call")["request"] == request
            answered = visitor.call(answered)
        assert answered.status == 200
        own = {code for code, _ in operation.errors}
        assert code(answered) not in OF_THE_SIGNATURE - own, (action, code(answered))
        assert status(answered) == 200 or code(answered), action
        assert f"content-type: {'text/xml' if form == 'XML' else 'application/json'}" in answered.text
        assert request.rstrip("\n") in blocks(answered)
        # the gateway has it in its log as a call from here
        request_id = re.search(r"<dt>RequestId</dt><dd><code>([0-9A-F-]{36})", answered.text)
        assert request_id
        noted = place.call("DescribeCalls", CallRequestId=request_id[1])["items"]["call"]
        assert [(call["call_action"], call["origin"]) for call in noted] == [(action, "explorer")]


def test_a_call_that_works_says_what_came(place: Place):
    visitor = place.signed_in()
    cluster = {"DBClusterId": place.cluster_id}
    answered = visitor.call(visitor.get(address_of("DescribeDBClusterAttribute", cluster)))
    assert status(answered) == 200
    body = next(block for block in blocks(answered) if block.startswith("{"))
    assert '"DBClusterDescription": "orders"' in body
    # looking again shows it as the last one
    assert '"DBClusterDescription": "orders"' in html.unescape(
        re.sub("<[^>]*>", "", visitor.get(address_of("DescribeDBClusterAttribute", cluster, tab="response")).text)
    )


def test_the_same_bytes_work_once(place: Place):
    visitor = place.signed_in()
    shown = visitor.get(address_of("DescribeRegions"))
    first, second = visitor.call(shown), visitor.call(shown)
    assert status(first) == 200
    assert code(second) == "SignatureNonceUsed"
    # the page that says so has fresh ones
    assert status(visitor.call(second)) == 200


def test_old_bytes_get_the_real_refusal(place: Place):
    visitor = place.signed_in()
    shown = visitor.get(address_of("DescribeRegions"))
    place.clock[0] += signature.CLOCK_SKEW_S + 1
    assert code(visitor.call(shown)) == "InvalidTimeStamp.Expired"


def test_what_changes_something_asks_first(place: Place):
    visitor = place.signed_in()
    cluster_id = place.fresh()
    shown = visitor.get(address_of("CreateBackup", {"DBClusterId": cluster_id}))

    for confirm in ("", "no", "YES"):
        asked = visitor.call(shown, confirm=confirm)
        assert "Call CreateBackup?" in asked.text and place.backups(cluster_id) == 0
    answered = visitor.call(asked)
    assert status(answered) == 200 and place.backups(cluster_id) == 1
    # pressed twice it has one effect
    assert code(visitor.call(asked)) == "SignatureNonceUsed" and place.backups(cluster_id) == 1


def test_a_refusal_leads_to_the_error_center(place: Place):
    visitor = place.signed_in()
    answered = visitor.call(visitor.get(address_of("DescribeDBClusterAttribute", {"DBClusterId": "pc-none"})))
    link = re.search(r'href="(/errors/InvalidDBClusterId\.NotFound\?RequestId=[0-9A-F-]+)"', answered.text)
    assert link and status(answered) == 404
    assert visitor.get(link[1]).status == 200


# ---------------------------------------------------------------- what is refused


def test_changed_bytes_do_not_pass(place: Place):
    visitor = place.signed_in()
    shown = visitor.get(address_of("DescribeDBClusters", {"DBClusterDescription": "shop"}))
    request = fields_of(shown, "call")["request"]
    for version in ("V3", "V1"):
        request = fields_of(
            visitor.get(address_of("DescribeDBClusters", {"DBType": "MySQL"}, version=version)), "call"
        )["request"]
        answered = visitor.call(shown, request=request.replace("MySQL", "Oracle"))
        assert code(answered) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", ["V3", "V1"])
def test_only_a_request_of_this_page_is_passed_on(place: Place, version: str):
    visitor, other = place.signed_in(), place.signed_in()
    shown = visitor.get(address_of("DescribeRegions", version=version))
    request = fields_of(shown, "call")["request"]
    theirs = fields_of(other.get(address_of("DescribeRegions", version=version)), "call")["request"]
    cluster_id = place.fresh()
    mutating = fields_of(visitor.get(address_of("CreateBackup", {"DBClusterId": cluster_id})), "call")["request"]
    for sent in (
        "",
        theirs,  # another key's
        mutating,  # another operation's: it would not be asked for
        request.replace(" / ", " /console ").replace(" /?", " /console?"),
        request.replace(f"host: 127.0.0.1:{place.port}", "host: 169.254.169.254"),
        request.replace("HTTP/1.1", "HTTP/1.1\r\nhost: evil"),
        request + "x" * 100_000,
        request.replace("POST", "DELETE"),
    ):
        refused = visitor.call(shown, request=sent)
        assert refused.status == 400, sent[:80]
        assert "InvalidParameter" in refused.text
    assert place.backups(cluster_id) == 0
    # a form without the session's token, or from elsewhere
    assert visitor.call(shown, form_token="0" * 64).status == 403
    fields = urlencode(fields_of(shown, "call")).encode()
    typed = {"content-type": "application/x-www-form-urlencoded", "origin": "http://evil.example"}
    assert visitor.request("POST", "/console/explorer/DescribeRegions", fields, typed).status == 403
    assert status(visitor.call(shown)) == 200


def test_a_form_that_is_too_large_is_refused_and_long_values_are_told(place: Place):
    visitor = place.signed_in()
    shown = visitor.get(address_of("DescribeRegions"))
    assert visitor.call(shown, theirs="x" * 300_000).status == 413
    long = visitor.get(address_of("DescribeDBClusters", {"DBClusterDescription": "x" * 20_000}))
    assert long.status == 200 and "The address was too long" in long.text
    # long ones are posted, and come back
    value = ",".join(f"pc-{n:040}" for n in range(50)) + "," + "x" * 6000
    posted = visitor.post("/console/explorer/DescribeDBClusters", {"p.DBClusterIds": value, "tab": "sample"})
    assert posted.status == 200 and value in posted.text
    assert not [href for href in re.findall(r'href="([^"]*)"', posted.text) if len(href) > 6100]
    assert len(posted.body) < PAGE_BYTES


@pytest.mark.parametrize("name", ["Nothing", "createbackup", "..%2f..%2fetc", "%3Cscript%3E", "CreateBackup%00", "a/b"])
def test_there_is_no_page_of_what_is_no_operation(place: Place, name: str):
    page = place.signed_in().get(f"/console/explorer/{name}")
    assert page.status == 404 and "<script>" not in page.text.replace('<script src="', "")


def test_strangers_sign_in_first(place: Place):
    page = Reader(place.port).get(address_of("CreateBackup", {"DBClusterId": "pc-1"}))
    assert page.status == 303 and page.location.startswith("/console/sign-in?next=%2Fconsole%2Fexplorer%2FCreateBackup")


def test_a_reader_calls_what_reads_and_is_told_why_not_what_changes(place: Place):
    admin, reader = place.signed_in(), place.signed_in("reader")
    cluster_id = place.fresh()
    assert status(reader.call(reader.get(address_of("DescribeRegions")))) == 200
    shown = reader.get(address_of("CreateBackup", {"DBClusterId": cluster_id}))
    assert not [form for form in shown.forms() if form.get("do") == "call"]
    assert "is a reader and CreateBackup changes something" in shown.text
    # who posts it all the same gets the gateway's refusal
    signed = blocks(reader.get(address_of("CreateBackup", {"DBClusterId": cluster_id}, tab="signature")))[-1]
    answered = reader.post(
        "/console/explorer/CreateBackup", {"do": "call", "confirm": "yes", "request": signed + "\n\n"}
    )
    assert code(answered) == "Forbidden.RAM"
    assert place.backups(cluster_id) == 0
    # keys are not offered to who may not see them; the page is there all the same
    assert reader.get(address_of("RevokeAccessKey")).status == 200
    assert admin.get(address_of("RevokeAccessKey")).status == 200


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_form_and_no_address_breaks_a_page(place: Place, data: st.DataObject):
    """Whatever stands in them: a page or a refusal, never an error of the server."""
    visitor = place.visitors[0] if place.visitors else place.signed_in()
    action = data.draw(st.sampled_from(list(contract.operations())))
    names = ["version", "format", "send", "language", "tab", "required", "example", "refill", "a", "b", "do"]
    names += ["request", "confirm", "theirs", "server", "signature", "p.DBClusterId", "p.Tag.1.Key", "p.Tag.0.Key"]
    names += ["p.BackupId", "p.Tag.99999999999999999999.Key", "p.", "p.Tag", "p.ConnectionString", "p.MaxResults"]
    known = ["call", "compare", "yes", "1", "V1", "XML", "GET", "FORM", *explorer_chosen.TABS, "Tag.1.Key", "٣"]
    fields = data.draw(
        st.dictionaries(st.sampled_from(names), st.one_of(st.sampled_from(known), st.text()), max_size=8)
    )
    fields = {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
    if data.draw(st.booleans()):
        page = visitor.get(f"/console/explorer/{action}?{urlencode(fields)}")
    else:
        page = visitor.post(f"/console/explorer/{action}", fields)
    assert page.status in (200, 400), page.text
