"""What the benchmark's page says of what was measured, and what it reads of the server's log."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT / "scripts"), str(ROOT / "bench")]

from dataset import Told  # noqa: E402
from load import Counter  # noqa: E402
from page import COMPARED, TITLES, page  # noqa: E402
from picture import picture  # noqa: E402
from ratios import compared, spread  # noqa: E402
from results import Record, Section, load, sections  # noqa: E402
from source_server import SourceServer  # noqa: E402


def section(tmp_path: Path) -> Section:
    made = Section(tmp_path / "1-try.json", "A <run>", "compare.py --size 1G", rounds=2, plain=False)
    made.notes = {"icecore": "ours", "borg": "theirs"}
    made.absent = {"restic": "not installed"}
    for number, (own_s, other_s) in enumerate([(2.0, 5.0), (4.0, 6.0)]):
        made.add(Record("full", "icecore", number, own_s, 1.0, 100, 10))
        made.add(Record("full", "borg", number, other_s, 1.0, 50, 0))
    made.add(Record("full", "borg", 2, 100.0, 1.0, 50, 20))  # ours failed in this round
    made.failed("icecore, round 3: it broke")
    return made


def test_ratios_are_of_the_same_round_and_nothing_is_made_up(tmp_path: Path) -> None:
    [only] = compared(section(tmp_path), COMPARED)
    assert (only.tool, only.rounds) == ("borg", 2)
    assert only.ratios["time"] == [2.5, 1.5]
    assert only.ratios["stored"] == []  # one of them stored nothing
    assert spread(only.ratios["time"]) == "2 (1.50–2.50)"


def test_the_page_of_kept_results_names_what_failed_and_what_was_absent(tmp_path: Path) -> None:
    made = section(tmp_path)
    assert load(made.path) == made
    text = page(sections(tmp_path))
    assert "| A <run> | Full backup | borg | 2 (1.50–2.50) |" in text
    assert "**failed**: icecore, round 3: it broke" in text
    assert "**restic** was not measured: not installed" in text


def test_the_picture_has_a_row_for_each_ratio(tmp_path: Path) -> None:
    root = ElementTree.fromstring(picture([section(tmp_path)], TITLES))
    assert len(root.findall("{*}circle")) == 1
    [line] = [each for each in root.findall("{*}line") if each.get("stroke-width") == "3"]
    one = next(each for each in root.findall("{*}line") if each.get("class") == "one")
    assert float(one.get("x1", "0")) < float(line.get("x1", "0")) < float(line.get("x2", "0"))


def test_times_of_a_backup_are_read_from_the_servers_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("1795646500.000 LOG:  duration: 9.000 ms  statement: SELECT pg_backup_start('older', true)\n")
    told = Told(SourceServer(tmp_path, 1, tmp_path))
    assert told.times() == {}
    with log.open("a") as file:
        file.write(
            "1795646534.487 LOG:  duration: 0.065 ms  parse <unnamed>: SELECT pg_backup_start($1, true)::text\n"
            "1795646534.500 LOG:  duration: 250.000 ms  execute <unnamed>: select lsn::text as lsn\n"
            "\t  from pg_catalog.pg_backup_start('pgBackRest', true) as lsn\n"
            "1795646534.500 DETAIL:  parameters: $1 = 'pg_backup_stop(boolean)'\n"
            "1795646537.000 LOG:  duration: 500.000 ms  statement: SELECT labelfile FROM pg_backup_stop(false)\n"
        )
    assert told.times() == {"checkpoint_s": 0.25, "held_s": 2.0}


def test_a_rate_is_that_between_its_moments() -> None:
    counter = Counter("")
    counter._seen = [(0.0, 100), (10.0, 1100), (12.0, 1100), (20.0, 1900)]
    assert counter.rate(0.0, 10.0) == 100
    assert counter.rate(5.0, 11.0) == 500 / 6
    assert counter.slowest(8.0, 14.0) == 0
