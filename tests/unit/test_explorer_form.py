"""The Explorer's form of each operation, and answers as they are shown and kept."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.api import contract
from icecore.console import explorer_form, explorer_shown

# ---------------------------------------------------------------- the form


def test_a_wrong_value_is_told_at_its_field_and_stays_in_the_request():
    operation = contract.operation("DescribeBackups")
    texts = {"DBClusterId": "pc-1", "StartTime": "yesterday", "EndTime": "2026-11-24T00:00Z", "PageSize": "31"}
    filled = explorer_form.fill(operation, texts)
    told = {field.parameter.name: field.problem for field in filled.fields if field.problem}
    assert set(told) == {"StartTime", "PageSize"}
    assert "StartTime" in told["StartTime"]
    assert dict(filled.pairs) == texts
    assert set(filled.call.params) == {"db_cluster_id", "end_time"}
    assert filled.error is not None


def test_what_only_the_whole_shows_is_told_at_its_field():
    operation = contract.operation("DescribeBackups")
    late = {"DBClusterId": "pc-1", "StartTime": "2026-11-24T00:00Z", "EndTime": "2026-11-23T00:00Z"}
    told = {field.parameter.name for field in explorer_form.fill(operation, late).fields if field.problem}
    assert told == {"EndTime"}


def test_an_empty_form_is_no_mistake():
    for operation in contract.operations().values():
        filled = explorer_form.fill(operation, {})
        assert not [field for field in filled.fields if field.problem]
        assert filled.pairs == [] and filled.call.params == {}


def test_an_example_of_every_operation_is_right_and_bound():
    for operation in contract.operations().values():
        filled = explorer_form.fill(operation, explorer_form.example(operation, {}))
        assert filled.error is None, (operation.name, filled.error)
        bound = contract.bind(operation.name, filled.pairs).params
        assert {name: bound[name] for name in filled.call.params} == filled.call.params


def test_a_list_has_rows_for_what_is_filled_and_one_more():
    operation = contract.operation("DescribeDBClusters")
    filled = explorer_form.fill(
        operation, {"Tag.3.Key": "team", "Tag.3.Value": "shop", "Tag.99.Key": "x", "Tag.0.Key": "y"}
    )
    tag = next(field for field in filled.fields if field.parameter.name == "Tag")
    assert len(tag.rows) == tag.parameter.max_items
    filled = explorer_form.fill(operation, {"Tag.2.Key": "team"})
    tag = next(field for field in filled.fields if field.parameter.name == "Tag")
    assert [entry.name for entry in tag.entries][-2:] == ["Tag.3.Key", "Tag.3.Value"]
    assert filled.call.params["tag"] == [{"key": "team", "value": None}]
    half = explorer_form.fill(operation, {"Tag.1.Value": "shop"})
    tag = next(field for field in half.fields if field.parameter.name == "Tag")
    assert "Tag.1.Key" in tag.problem and "tag" not in half.call.params


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["DBClusterId", "Comment", "ClientToken", "Tag.1.Key", "Nothing"]), st.text()))
def test_whatever_is_typed_stays_as_it_is(texts: dict[str, str]):
    filled = explorer_form.fill(contract.operation("CreateBackup"), texts)
    known = {name: text for name, text in texts.items() if text and name in ("DBClusterId", "Comment", "ClientToken")}
    assert dict(filled.pairs) == known
    assert {entry.name: entry.text for field in filled.fields for entry in field.entries if entry.text} == known


# ---------------------------------------------------------------- answers as they are shown


def test_xml_is_indented_and_loses_nothing():
    for operation in contract.operations().values():
        compact = explorer_shown.answer.success(
            operation.name, contract.parse(operation.name, operation.example), "ID", xml=True
        ).body.decode()
        pretty = explorer_shown.indented_xml(compact)
        assert re.sub(r"\n\s*", "", pretty) == compact
        assert pretty.split("\n")[1][0] == "<" and pretty.split("\n")[2].startswith("  <")


def test_what_is_given_out_once_is_not_kept():
    operation = contract.operation("CreateAccessKey")
    result = {"key_id": "LTAI", "key_secret": 'q"\\uiet<&'}
    for xml in (False, True):
        given_out = explorer_shown.answer.success("CreateAccessKey", result, "ID", xml=xml)
        kept = explorer_shown.masked(operation, given_out.content_type, given_out.body.decode())
        assert "uiet" not in kept and "***" in kept and "LTAI" in kept
    register = contract.operation("RegisterDBCluster")
    pairs = [("Engine", "postgresql"), ("ConnectionString", "password=x"), ("AccessKeyId", "k"), ("Signature", "s")]
    assert explorer_shown.masked_pairs(register, pairs) == [("Engine", "postgresql"), ("ConnectionString", "***")]


def test_a_long_answer_is_cut_at_a_line_and_counted():
    text = json.dumps({"a": ["x" * 50] * 2000})
    body = explorer_shown.body("application/json", text)
    assert body.text.endswith("\n") and len(body.text) <= explorer_shown.HIGHLIGHTED_LENGTH
    assert len(body.text) + len(body.more) + body.left_out == len(explorer_shown.indented_json(text))


def test_compared_lines_say_which_side_they_are_of():
    lines = explorer_shown.compared("a\nb\nc", "a\nx\nc")
    assert lines == [("same", "a"), ("first", "b"), ("second", "x"), ("same", "c")]
    assert explorer_shown.compared("same", "same") == []
