"""The Explorer over HTTP: forms, samples, strings compared, history."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from explorer_place import (
    HOSTILE,
    PAGE_BYTES,
    Place,
    Reader,
    address_of,
    blocks,
    fields_of,
    opened,
    status,
    steps_of,
    told_by,
)
from visitor import Page

from icecore.api import contract, samples, signature
from icecore.api.contract import Call
from icecore.console import explorer_form


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with opened(tmp_path_factory.mktemp("explorer") / "home") as place:
        yield place


@pytest.fixture
def place(house: Place) -> Iterator[Place]:
    with house.watched():
        yield house


# ---------------------------------------------------------------- the form


def test_the_list_is_searched_by_every_word(place: Place):
    visitor = place.signed_in()

    def found(text: str) -> list[str]:
        page = visitor.get(f"/console/explorer?{urlencode({'q': text})}")
        assert page.status == 200
        return re.findall(r'<th scope="row"><a href="/console/explorer/(\w+)"', page.text)

    assert found("") == list(contract.operations())
    assert found("createbackup") == ["CreateBackup"]
    assert "CreateBackup" in found("clienttoken SNAPSHOT")
    assert found("no such operation at all") == []
    for text in HOSTILE:
        page = visitor.get(f"/console/explorer?{urlencode({'q': text})}")
        assert html.escape(text, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page.text


@pytest.mark.parametrize("tab", ["document", "sample", "signature", "response", "history"])
def test_hostile_values_come_back_as_they_were(place: Place, tab: str):
    visitor = place.signed_in()
    for text in HOSTILE:
        values = {"DBClusterId": text, "Comment": text, "ClientToken": text}
        page = visitor.get(address_of("CreateBackup", values, tab=tab))
        assert page.status == 200
        form = next(form for form in page.forms() if "p.Comment" in form and "do" not in form)
        assert {name: form[f"p.{name}"] for name in values} == values
        assert "<img src=x" not in page.text and "<script>alert" not in page.text
        # and so they are in what is signed
        request = fields_of(page, "call")["request"]
        sent = dict(signature.parse_pairs(urlsplit(request.split(" ")[1]).query))
        assert {name: sent[name] for name in values} == values


def test_a_wrong_value_is_told_at_its_field_and_the_rest_is_there(place: Place):
    visitor = place.signed_in()
    values = {"DBClusterId": "pc 1", "StartTime": "yesterday", "EndTime": "2026-11-24T00:00Z", "PageSize": "7"}
    for tab in ("document", "sample", "signature", "response", "history"):
        page = visitor.get(address_of("DescribeBackups", values, tab=tab))
        assert page.status == 200 and page.text.count('class="wrong"') == 3
        assert page.text.count('aria-invalid="true"') == 3
    # a wrong choice stays chosen
    assert "<option selected>7</option>" in page.text


def test_optional_fields_can_be_hidden_but_not_what_stands_in_them(place: Place):
    visitor = place.signed_in()
    values = {"DBClusterId": "pc-1", "BackupMode": "Manual"}
    page = visitor.get(address_of("DescribeBackups", values, required="1"))
    fields = re.findall(r'name="p\.(\w+)"', page.text.split('id="shown"')[0])
    assert fields == ["DBClusterId", "StartTime", "EndTime", "BackupMode"]
    assert "4 optional parameters not shown" in page.text.replace("\u202f", "")


def test_the_address_holds_everything(place: Place):
    """What one person sees another sees at the same address, but for nonce and time."""
    values = {"Tag.1.Key": "team", "Tag.1.Value": "shop & co", "DBType": "PostgreSQL"}
    address = address_of(
        "DescribeDBClusters", values, version="V1", format="XML", send="FORM", tab="signature", language="go"
    )
    one, other = place.signed_in(), place.signed_in()

    def seen(visitor: Reader) -> str:
        text = visitor.get(address).text.replace(visitor.key_id, "KEY").replace(visitor.key_id[:10], "KEY")
        text = re.sub(r'name="form_token" value="\w+"', "", text)
        return re.sub(r"[0-9a-f]{32}|[\w+/]{27}=|[\w%]{27,60}%3D|content-length: \d+", "", text)

    assert seen(one) == seen(other)
    page = one.get(address)
    query = parse_qs(
        urlsplit(
            next(h for h in map(html.unescape, re.findall(r'href="([^"]*)"', page.text)) if "tab=sample" in h)
        ).query
    )
    assert query == {f"p.{name}": [text] for name, text in values.items()} | {
        "version": ["V1"],
        "format": ["XML"],
        "send": ["FORM"],
        "tab": ["sample"],
    }


def test_what_exists_here_is_offered(place: Place):
    job = place.call("CreateBackup", DBClusterId=place.cluster_id)["backup_job_id"]
    page = place.signed_in().get(address_of("DeleteBackup"))
    assert f'<option value="{place.cluster_id}">orders</option>' in page.text
    assert f'<option value="{job}">' in page.text
    # reading begins with real things, changing does not
    visitor = place.signed_in()
    assert (
        f'value="{place.cluster_id}"'
        in visitor.get(address_of("DescribeBackupTasks", example="1")).text.split("<datalist")[0]
    )
    assert (
        f'value="{place.cluster_id}"'
        not in visitor.get(address_of("DeleteDBCluster", example="1")).text.split("<datalist")[0]
    )


def test_what_may_be_secret_is_posted_and_not_kept(place: Place):
    visitor = place.signed_in()
    hidden = "host=/nowhere application_name=k33p-0ut"
    # an address does not take it
    assert "k33p-0ut" not in visitor.get(address_of("RegisterDBCluster", {"ConnectionString": hidden})).text
    form = next(form for form in visitor.get(address_of("RegisterDBCluster")).forms() if "p.ConnectionString" in form)
    assert form[":method"] == "post"
    values = {"p.DBClusterDescription": "billing", "p.Engine": "postgresql", "p.ConnectionString": hidden}
    for tab in ("document", "sample", "signature", "response", "history"):
        page = visitor.post("/console/explorer/RegisterDBCluster", {**values, "tab": tab})
        assert page.status == 200 and hidden in html.unescape(page.text)
        assert "k33p-0ut" not in "".join(re.findall(r'(?:href|action|src)="([^"]*)"', page.text))
    # it goes in the body, and is nowhere afterwards
    request = fields_of(page, "call")["request"]
    assert "k33p-0ut" not in request.split("\n\n")[0] and "k33p-0ut" in request.split("\n\n")[1]
    answered = visitor.call(visitor.call(page))
    assert status(answered) == 200
    kept = place.app.records.explored(visitor.key_id)
    assert "k33p" not in repr(kept) and "ConnectionString=%2A%2A%2A" in kept[0].pairs
    for path in (
        address_of("RegisterDBCluster", tab="history"),
        address_of("RegisterDBCluster", tab="response"),
        "/console/access",
    ):
        assert "k33p" not in visitor.get(path).text
    refill = re.search(
        r'<a href="(/console/explorer/RegisterDBCluster\?[^"]*)">RegisterDBCluster',
        visitor.get(address_of("RegisterDBCluster", tab="history")).text,
    )
    assert refill
    again = visitor.get(html.unescape(refill[1]))
    form = next(form for form in again.forms() if "p.ConnectionString" in form and "do" not in form)
    assert (form["p.DBClusterDescription"], form["p.ConnectionString"]) == ("billing", "")


# ---------------------------------------------------------------- samples


def test_the_sample_shown_is_the_sample(place: Place):
    visitor = place.signed_in()
    endpoint = f"http://127.0.0.1:{place.port}"
    for action in ("CreateBackup", "DescribeDBClusters", "DescribeJobs"):
        operation = contract.operation(action)
        texts = explorer_form.example(operation, {}) | ({"Comment": HOSTILE[1]} if action == "CreateBackup" else {})
        filled = explorer_form.fill(operation, texts)
        assert filled.error is None
        for language in samples.LANGUAGES:
            page = visitor.get(address_of(action, texts, tab="sample", language=language.id))
            expected = samples.sample(Call(action, filled.call.params), endpoint, language.id)
            assert blocks(page)[-1] == expected, (action, language.id)


def test_the_language_is_remembered(place: Place):
    visitor = place.signed_in()
    page = visitor.get(address_of("DescribeRegions", tab="sample", language="java"))
    cookie = page.headers["set-cookie"]
    assert "language=java" in cookie and "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/console" in cookie
    assert "The same call in Java<" in visitor.get(address_of("CreateBackup", tab="sample")).text
    for wrong in ("klingon", "<script>", ""):
        page = visitor.get(address_of("CreateBackup", tab="sample", language=wrong))
        assert "The same call in Java<" in page.text and "set-cookie" not in page.headers
    # where the form is posted too, and the tab stays
    form = next(
        f for f in visitor.get(address_of("RegisterDBCluster", tab="sample")).forms() if "do" not in f and "tab" in f
    )
    fields = {name: text for name, text in form.items() if not name.startswith(":")} | {"language": "ruby"}
    assert "The same call in Ruby<" in visitor.post("/console/explorer/RegisterDBCluster", fields).text
    assert visitor.cookies["language"] == "ruby"
    visitor.cookies["language"] = "klingon"
    assert "The same call in curl<" in visitor.get(address_of("CreateBackup", tab="sample")).text


# ---------------------------------------------------------------- comparing


@pytest.mark.parametrize(("version", "title"), [("V1", "String to sign"), ("V3", "Canonical request")])
def test_an_own_string_is_compared_with_the_form(place: Place, version: str, title: str):
    visitor = place.signed_in()
    values = {"DBClusterId": "pc-1", "Comment": "before the upgrade"}
    shown = visitor.get(address_of("CreateBackup", values, version=version, tab="signature"))
    steps, form = steps_of(shown), fields_of(shown, "compare")
    right = steps[title]

    def compared(theirs: str, given: str = "") -> Page:
        return visitor.post("/console/explorer/CreateBackup", {**form, "theirs": theirs, "signature": given})

    # another time and nonce than the page's next one are no mistake
    place.clock[0] += 5
    assert "The strings are equal, byte by byte" in told_by(compared(right.replace("\n", "\r\n")))
    # with the signature that belongs to it, and with another
    assert "String and signature are right" in told_by(compared(right, steps["Signature"]))
    assert "another AccessKeySecret was used" in told_by(compared(right, "QUJD"))
    # a mistake is found, and what was pasted stays to be mended
    wrong = right.replace("before%2520the", "before%2Bthe").replace("before%20the", "before+the")
    page = compared(wrong)
    at = next(n for n, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
    assert f"They part at byte {at} " in told_by(page) and "A space became +" in told_by(page)
    kept = re.search(r'<textarea id="theirs"[^>]*>\n(.*?)</textarea>', page.text, re.DOTALL)
    assert kept and html.unescape(kept[1]) == wrong


def test_under_v3_the_hash_alone_tells_little(place: Place):
    visitor = place.signed_in()
    shown = visitor.get(address_of("CreateBackup", {"DBClusterId": "pc-1"}, tab="signature"))
    steps, form = steps_of(shown), fields_of(shown, "compare")
    hashed, canonical = steps["String to sign"], steps["Canonical request"]
    page = visitor.post("/console/explorer/CreateBackup", {**form, "theirs": hashed})
    assert "paste your canonical request" in told_by(page)
    # with what the server answered it is known whether the canonical request is right
    page = visitor.post("/console/explorer/CreateBackup", {**form, "theirs": canonical, "server": hashed})
    assert "The strings are equal" in told_by(page)
    wrong = canonical.replace("\n/\n", "\n")
    page = visitor.post("/console/explorer/CreateBackup", {**form, "theirs": wrong, "server": hashed})
    assert "The path is missing" in told_by(page)


def test_an_own_string_is_compared_with_the_servers(place: Place):
    """As somebody would whose call was refused: both strings, whatever the form says."""
    visitor = place.signed_in()
    shown = visitor.get(address_of("DescribeRegions", tab="signature"))
    ours = "POST&%2F&" + signature.percent("AccessKeyId=k&Action=CreateBackup&Comment=a%2Ab&SignatureNonce=1")
    message = f"Specified signature is not matched with our calculation. server string to sign is:{ours}"
    for server in (ours, message, f'{{"Code":"SignatureDoesNotMatch","Message":"{message}","RequestId":"x"}}'):
        form = {**fields_of(shown, "compare"), "server": server, "theirs": ours.replace("%252A", "*")}
        told = told_by(visitor.post("/console/explorer/DescribeRegions", form))
        assert f"byte {ours.index('%252A')} " in told and "asterisk" in told
        assert "With this mended they are equal" in told


def test_what_is_longer_than_any_string_to_sign_is_refused(place: Place):
    visitor = place.signed_in()
    form = fields_of(visitor.get(address_of("CreateBackup", tab="signature")), "compare")
    assert visitor.post("/console/explorer/CreateBackup", {**form, "theirs": "x" * 40_000}).status == 413


def test_pasting_markup_shows_markup(place: Place):
    visitor = place.signed_in()
    form = fields_of(visitor.get(address_of("CreateBackup", tab="signature")), "compare")
    for text in HOSTILE:
        page = visitor.post(
            "/console/explorer/CreateBackup", {**form, "theirs": text, "server": text + "x", "signature": text}
        )
        assert page.status == 200
        assert "<img src=x" not in page.text and "<script>alert" not in page.text


# ---------------------------------------------------------------- history


def test_history_is_ones_own_and_fills_the_form_again(place: Place):
    one, other = place.signed_in(), place.signed_in()
    values = {"DBClusterDescription": "only mine", "DBType": "PostgreSQL"}
    one.call(one.get(address_of("DescribeDBClusters", values, version="V1", format="XML")))
    page = one.get(address_of("CreateBackup", tab="history"))
    refill = re.search(r'<a href="(/console/explorer/DescribeDBClusters\?[^"]*)"', page.text)
    assert refill
    again = one.get(html.unescape(refill[1]))
    shown = next(form for form in again.forms() if "p.DBClusterDescription" in form and "do" not in form)
    assert shown["p.DBClusterDescription"] == "only mine"
    assert "<option selected>PostgreSQL</option>" in again.text and "<option selected>V1</option>" in again.text
    assert "<option selected>XML</option>" in again.text
    # the same address is nothing to somebody else
    assert "only mine" not in other.get(html.unescape(refill[1])).text

    assert "only mine" not in other.get(address_of("CreateBackup", tab="history")).text
    assert "No calls from here yet" in other.get(address_of("CreateBackup", tab="history")).text
    assert "Not called yet" in other.get(address_of("DescribeDBClusters", tab="response")).text
    # nor by number
    number = place.app.records.explored(one.key_id)[0].number
    other.call(other.get(address_of("DescribeRegions")))
    own = place.app.records.explored(other.key_id)[0].number
    compared = other.get(address_of("DescribeRegions", tab="history", a=str(number), b=str(own)))
    assert compared.status == 200 and "only mine" not in compared.text and "Two calls compared" not in compared.text


def test_the_last_answer_is_shown_in_either_format(place: Place):
    visitor = place.signed_in()
    for form in ("JSON", "XML"):
        assert "Not called yet" in visitor.get(address_of("DescribeRegions", tab="response", format=form)).text
        visitor.call(visitor.get(address_of("DescribeRegions", format=form)))
    for form, start in (("JSON", "{"), ("XML", "<?xml")):
        page = visitor.get(address_of("DescribeRegions", tab="response", format=form))
        assert blocks(page)[-1].startswith(start)
        other = address_of("DescribeRegions", tab="response") if form == "XML" else "format=XML&amp;tab=response"
        assert other in page.text


def test_two_calls_are_compared_line_by_line(place: Place):
    visitor = place.signed_in()
    for name in ("orders", "other"):
        visitor.call(visitor.get(address_of("DescribeDBClusters", {"DBClusterDescription": name})))
    second, first = (str(call.number) for call in place.app.records.explored(visitor.key_id))
    page = visitor.get(address_of("DescribeDBClusters", tab="history", a=first, b=second))
    lines = next(block for block in blocks(page) if "−" in block).split("\n")
    assert "− DBClusterDescription = orders" in lines and "+ DBClusterDescription = other" in lines
    assert any(line.startswith("−") and place.cluster_id in line for line in lines)
    for a, b in (("x", "y"), (first, first), ("", first), ("999999", first)):
        assert visitor.get(address_of("DescribeDBClusters", tab="history", a=a, b=b)).status == 200


def test_a_new_secret_is_shown_once(place: Place):
    visitor = place.signed_in()
    for form in ("JSON", "XML"):
        shown = visitor.get(address_of("CreateAccessKey", {"Role": "reader"}, format=form))
        answered = visitor.call(visitor.call(shown))
        found = re.search(r"KeySecret\W+([A-Za-z0-9]{30})", re.sub("<[^>]*>|&[a-z0-9#]+;", " ", answered.text))
        assert found, answered.text
        for tab in ("response", "history"):
            assert found[1] not in visitor.get(address_of("CreateAccessKey", tab=tab)).text
        assert found[1] not in repr(place.app.records.explored(visitor.key_id))


def test_fifty_calls_and_large_answers_fit_a_page(place: Place):
    visitor = place.signed_in()
    records = place.app.records
    body = '{"Items":[' + ",".join(f'{{"BackupId":"{n}","Name":"<b>&{"x" * 60}"}}' for n in range(2000)) + "]}"
    pairs = urlencode({f"Tag.{n}.Key": "k" * 128 for n in range(1, 20)})
    for number in range(60):
        records.keep_explored(
            visitor.key_id,
            request_id=f"{number:036}",
            action="DescribeDBClusters",
            version="V3",
            pairs=pairs,
            status=200,
            content_type="application/json",
            body=body[: 64_000 - number],
            called_at=int(place.clock[0]) - number,
            took_ms=3,
        )
    kept = records.explored(visitor.key_id)
    assert len(kept) == 50
    both = address_of("DescribeDBClusters", tab="history", a=str(kept[0].number), b=str(kept[-1].number))
    for address in (
        both,
        address_of("DescribeDBClusters", tab="history"),
        address_of("DescribeDBClusters", tab="response"),
    ):
        page = visitor.get(address)
        assert page.status == 200 and len(page.body) < PAGE_BYTES, (address, len(page.body))


def test_every_page_is_within_its_size(place: Place):
    visitor = place.signed_in()
    for action in contract.operations():
        for tab in ("document", "sample", "signature", "response", "history"):
            page = visitor.get(address_of(action, example="1", tab=tab, language="java"))
            assert page.status == 200 and len(page.body) < PAGE_BYTES, (action, tab, len(page.body))
            assert "style=" not in page.text and " onclick=" not in page.text
