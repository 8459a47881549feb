import io
import sys

import pytest

from pgcore_train.run.progress import ProgressBar, step_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose one number is the time."""
    now = [0.0]
    monkeypatch.setattr("pgcore_train.run.progress.time.perf_counter", lambda: now[0])
    return now


def test_nothing_where_nobody_watches(monkeypatch):
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with ProgressBar(100, 0) as bar:
        bar.update(50, 1.0)
    assert quiet.getvalue() == ""


def test_steps_mean_return_and_speed(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressBar(40_000, 10_000) as bar:
        clock[0] = 2.0
        bar.update(10_500, None)
        clock[0] = 4.0
        bar.update(30_000, 123.45)
    shown = terminal.getvalue()
    assert "no episode finished" in shown
    assert "30,000/40,000 steps" in shown
    assert "mean return 123.5" in shown
    assert "5,000 steps/s" in shown


def test_it_is_drawn_ten_times_a_second_at_most(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar(10_000, 0) as bar:
        for step in range(1000):
            clock[0] = step / 1000
            bar.update(step, None)
        shown = terminal.getvalue()
    assert 9 <= shown.count("no episode finished") <= 11


def test_a_trust_regions_step_is_shown():
    metrics = {
        "step_accepted": 1.0,
        "step_kl": 0.00873,
        "step_size": 0.12,
        "cg_iterations": 10.0,
        "line_search_steps": 2.0,
    }
    assert step_text(metrics) == "  KL 0.0087, step 0.12, CG 10, line search 2"
    assert step_text(metrics | {"step_accepted": 0.0}) == "  step refused"
    assert step_text({"loss": 1.0}) == ""
