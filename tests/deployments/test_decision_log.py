"""The decision log's files: rotated, one for each replica on a node; and lines that are lost are counted."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster.polling import until
from deployments.decision_log import FileDecisionLog
from router.decision_log_rules import DecisionLogRules
from router.decisions.metrics import LOG_DROPPED, LOG_LINES
from tests.fakes.metrics import CountedMetrics


@pytest.fixture
def metrics() -> CountedMetrics:
    return CountedMetrics()


@pytest.fixture
def log(metrics) -> Iterator[FileDecisionLog]:
    log = FileDecisionLog(metrics, max_queued=100)
    yield log
    log.close()


def lines_in(*files: Path) -> list[int]:
    return [json.loads(line)["n"] for file in files for line in file.read_text("utf-8").splitlines()]


def _lines(n: int) -> list[dict[str, int]]:
    return [{"n": n}]


def _has_written(metrics: CountedMetrics, num_lines: int) -> bool:
    return metrics.series(LOG_LINES) == {(): num_lines}


def test_lines_are_written_in_order_to_files_that_are_rotated(tmp_path, log, metrics):
    log.configure(DecisionLogRules(folder=str(tmp_path / "new" / "folder"), max_bytes=4096, num_files=2))
    for n in range(60):
        assert log.write(lambda n=n: [{"n": n, "text": "é\ud800" * 10}])
    log.close()
    files = sorted((tmp_path / "new" / "folder").glob("*.jsonl*"), reverse=True)
    assert [file.name.rpartition("-")[2] for file in files] == ["0.jsonl.2", "0.jsonl.1", "0.jsonl"]
    found = lines_in(*files)
    assert found == list(range(found[0], 60))
    assert max(file.stat().st_size for file in files) <= 4096
    assert metrics.series(LOG_LINES) == {(): 60}


def test_a_disk_that_hangs_holds_up_no_new_rules(tmp_path, log, monkeypatch):
    """A FIFO that nothing reads stands for it."""
    monkeypatch.setattr("deployments.decision_log.CLOSE_TIMEOUT_S", 0.2)
    hanging, working = tmp_path / "hanging", tmp_path / "working"
    hanging.mkdir()
    os.mkfifo(hanging / f"decisions-{socket.gethostname()}-0.jsonl")
    log.configure(DecisionLogRules(folder=str(hanging)))
    for n in range(200):  # more than the queue takes
        assert log.write(partial(_lines, n))
    log.configure(DecisionLogRules(folder=str(working)))
    assert log.write(partial(_lines, 7))
    log.close()
    assert lines_in(*working.glob("*.jsonl")) == [7]


def test_a_file_that_was_closed_by_a_failure_is_opened_again(tmp_path, log, metrics, monkeypatch):
    log.configure(DecisionLogRules(folder=str(tmp_path)))
    log.write(partial(_lines, 1))
    assert until(lambda: _has_written(metrics, 1), 10)
    with monkeypatch.context() as broken:
        broken.setattr("deployments.decision_log._Handler.emit", _fail)
        log.write(partial(_lines, 2))
        assert until(lambda: metrics.series(LOG_DROPPED) == {("write_failed",): 1}, 10)
    log.write(partial(_lines, 3))
    log.close()
    assert lines_in(*tmp_path.glob("*.jsonl")) == [1, 3]


def test_half_a_line_that_was_left_spoils_no_other_line(tmp_path, log):
    file = tmp_path / f"decisions-{socket.gethostname()}-0.jsonl"
    file.write_text('{"n":1}\n{"n":')
    log.configure(DecisionLogRules(folder=str(tmp_path)))
    log.write(partial(_lines, 2))
    log.close()
    assert file.read_text() == '{"n":1}\n{"n":\n{"n":2}\n'


def test_lines_that_count_as_lost_are_not_written_later(tmp_path, log, metrics):
    """The limit of a file's size stands for a full disk."""
    log.configure(DecisionLogRules(folder=str(tmp_path)))
    log.write(partial(_lines, 1))
    assert until(lambda: _has_written(metrics, 1), 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        log.write(partial(_lines, 2))
        assert until(lambda: metrics.series(LOG_DROPPED) == {("write_failed",): 1}, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    log.write(partial(_lines, 3))
    log.close()
    assert lines_in(*tmp_path.glob("*.jsonl")) == [1, 3]


def _fail(*_: object) -> None:
    raise ValueError("I/O operation on closed file.")


def test_it_is_off_without_rules(tmp_path, log, metrics):
    assert not log.write(lambda: [{"n": 1}])
    log.configure(DecisionLogRules(folder=str(tmp_path)))
    assert log.write(lambda: [{"n": 2}])
    log.configure(None)
    assert not log.write(lambda: [{"n": 3}])
    assert lines_in(*tmp_path.glob("*.jsonl")) == [2]


def test_replicas_of_one_node_write_to_files_of_their_own_and_a_later_one_goes_on(tmp_path, metrics):
    rules = DecisionLogRules(folder=str(tmp_path))
    logs = [FileDecisionLog(metrics) for _ in range(3)]
    for n, log in enumerate(logs):
        log.configure(rules)
        log.write(partial(_lines, n))
        assert until(partial(_has_written, metrics, n + 1), 10.0, 0.01)
    logs[1].close()
    later = FileDecisionLog(metrics)
    later.configure(rules)
    later.write(lambda: [{"n": 9}])
    for log in (later, logs[0], logs[2]):
        log.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [lines_in(file) for file in files] == [[0], [1, 9], [2]]


def test_a_full_queue_loses_lines_and_counts_them(tmp_path, log, metrics):
    log.configure(DecisionLogRules(folder=str(tmp_path)))
    is_busy, may_go_on = threading.Event(), threading.Event()

    def busy() -> list[dict[str, int]]:
        is_busy.set()
        assert may_go_on.wait(10)
        return [{"n": -1}]

    log.write(busy)
    assert is_busy.wait(10)
    for n in range(130):
        log.write(lambda n=n: [{"n": n}])
    may_go_on.set()
    log.close()
    assert lines_in(*tmp_path.glob("*.jsonl")) == [-1, *range(100)]
    assert metrics.series(LOG_DROPPED) == {("queue_full",): 30}


def test_a_folder_that_cannot_be_written_loses_lines_and_stops_nothing(tmp_path, log, metrics):
    (tmp_path / "file").touch()
    log.configure(DecisionLogRules(folder=str(tmp_path / "file")))
    assert log.write(lambda: [{"n": 1}, {"n": 2}])
    log.close()
    assert metrics.series(LOG_DROPPED) == {("write_failed",): 2}
