import subprocess
import sys

from journal.plugin import pgcore_after_training, pgcore_after_update, pgcore_before_training

SETTINGS = {
    "estimator.name": "ppo",
    "environment.name": "CartPole-v1",
    "run.backend": "numpy",
    "run.seed": 3,
}


def test_a_run_is_a_title_a_row_an_update_and_a_last_line(tmp_path):
    pgcore_before_training(tmp_path, SETTINGS)
    pgcore_after_update(tmp_path, {"steps": 512, "loss": 0.25})
    pgcore_after_training(tmp_path, {"ending": "goal", "steps": 512}, None)
    lines = (tmp_path / "journal.md").read_text().splitlines()
    assert lines[0] == "# ppo on CartPole-v1, numpy, seed 3"
    assert lines[4] == "| 512 | nan | 0.25 | nan |"
    assert lines[-1] == "Ended by goal after 512 steps."


def test_an_error_is_named(tmp_path):
    pgcore_after_training(tmp_path, {"ending": "error", "steps": 0}, ValueError("a reason"))
    assert "Ended by ValueError: a reason" in (tmp_path / "journal.md").read_text()


def test_a_run_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pgcore_after_update(None, {"steps": 512})
    assert list(tmp_path.iterdir()) == []


def test_pgcore_train_writes_the_file(tmp_path):
    command = "import sys; from pgcore.cli import main; sys.argv[0] = 'pgcore'; main()"
    options = ["CartPole-v1", "--steps", "1024", "--evaluation-episodes", "1", "--out", tmp_path]
    subprocess.run([sys.executable, "-c", command, "train", *options], check=True)
    text = (tmp_path / "journal.md").read_text()
    assert text.startswith("# ppo on CartPole-v1, numpy, seed 0")
    assert text.endswith("Ended by steps after 1,024 steps.\n")
