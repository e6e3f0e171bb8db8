"""Names, pages, checkpoints, modules and passwords of people who mean harm."""

from __future__ import annotations

import json
import os
import pickle
import stat
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faults.checker import SECRET, check, load
from faults.driver import until
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

REFUSED = ["", " ", "x" * 300, "a\nb", "\x1b[31mred", "left\u202eright", b"half\xed\xa0\x80"]
TAKEN = ["../../x", "/etc/x", "CON", ".", "große Ärger 学习率 🙂"]


@pytest.mark.row(76, 85)
def test_names_of_studies(lab: Lab, saw: Callable[..., None], tmp_path: Path) -> None:
    deep = type(lab)(tmp_path / "deep" / "er")
    deep.study(search={"trials": 1})
    before = {path for path in tmp_path.rglob("*") if deep.folder not in path.parents}
    words: list[Any] = deep.words()
    words[words.index("--out") : words.index("--out") + 2] = []  # the folder is made from the name
    words += ["--study"]
    refused = [deep.start(words=[*words, name]) for name in REFUSED]
    for name, call in zip(REFUSED, refused, strict=True):
        assert call.wait() == 2, f"{name!r}: {call.err}"
        assert "Traceback" not in call.err
        assert call.last.isprintable()
    assert not deep.database.exists()
    taken = [deep.start(words=[*words, name]) for name in TAKEN]
    for name, call in zip(TAKEN, taken, strict=True):
        assert call.wait() == 0, f"{name!r}: {call.err}"
        assert len(load(deep.database, name).trials) == 1
    after = {path for path in tmp_path.rglob("*") if deep.folder not in path.parents}
    assert after == before, "something was written outside of the folder"
    made = sorted(path.name for path in (deep.folder / "lrtune-out").iterdir())
    assert len(made) == len(TAKEN)
    deep.close()
    saw(f"{len(REFUSED)} refused with exit 2; {len(TAKEN)} worked, in folders {', '.join(made)}; nothing outside")


class Page(HTMLParser):
    """Elements that run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.handlers: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "script":
            self.scripts.append(dict(attrs))
        self.handlers += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcdoc")]


def page_of(lab: Lab) -> Page:
    page = Page()
    page.feed((lab.out / "report.html").read_text())
    return page


HOSTILE = '</title></script><script>alert(1)</script><img src=x onerror=alert(2)><a href=javascript:alert(3)>" onload="'


@pytest.mark.row(77, 78, 79)
def test_what_is_shown_is_text(lab: Lab, saw: Callable[..., None], tmp_path: Path) -> None:
    benign = type(lab)(tmp_path / "benign")
    hostile = type(lab)(tmp_path / "hostile")
    for one, text in ((benign, "plain"), (hostile, HOSTILE)):
        one.study(study={"name": text[:190], "metric": text[:100]}, search={"trials": 4})
        one.run(obj="1:raise@2,2:nan@3", env={"OBJ_METRIC": text[:100], "OBJ_TEXT": text})
        check(one, name=text[:190], trials=4)
    shown, usual = page_of(hostile), page_of(benign)
    assert shown.scripts == usual.scripts
    assert shown.handlers == usual.handlers == []
    assert shown.tags == usual.tags
    assert not [link for link in shown.loaded if link.lower().strip().startswith(("http", "//", "javascript", "x"))]
    text = (hostile.out / "report.html").read_text()
    assert "Content-Security-Policy" in text
    assert "<script>alert" not in text
    for one in (benign, hostile):
        one.close()
    saw(f"hostile study name, metric and traceback: the same {len(shown.scripts)} script elements as for plain ones, "
        "no handler, nothing loaded from elsewhere, content security policy set")  # fmt: skip


class Marker:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.row(81, 86)
def test_a_malicious_checkpoint_is_not_run(lab: Lab, saw: Callable[..., None], tmp_path: Path) -> None:
    import numpy as np

    lab.study(
        study={"metric": "accuracy", "direction": "maximize", "epochs": 40},
        train={"trainer": "", "estimator": "sklearn.linear_model:SGDClassifier", "data": "digits"},
        search={"strategy": "freeze-thaw", "trials": "", "budget": 3.0},
    )
    folder = lab.out / "checkpoints"
    lab.start()
    until(lambda: len(list(folder.glob("*.npz"))) >= 2 or lab._died(), "two checkpoints")
    lab.calls[-1].kill()
    saved = sorted(folder.glob("*.npz"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*saved, lab.database, lab.log]} == {0o600}
    marker = tmp_path / "marker"
    saved[0].write_bytes(pickle.dumps(Marker(marker)))
    for path in saved[1:]:
        with path.open("wb") as file:
            np.savez(file, skeleton=np.array([Marker(marker)], dtype=object))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (lab.out / "result.json").symlink_to(victim)
    lab.run()
    assert not marker.exists(), "a pickle was run"
    assert victim.read_text() == "precious"
    assert stat.S_IMODE((lab.out / "result.json").stat().st_mode) == 0o600
    check(lab)
    saw(f"{len(saved)} checkpoints replaced by pickles: none run, those trials trained anew, exit 0; state files 0600; "
        "a link planted for result.json was replaced, not followed")  # fmt: skip


@pytest.mark.row(84)
def test_modules_with_names_of_the_standard_library(lab: Lab, saw: Callable[..., None]) -> None:
    names = ("html", "types", "random", "optuna", "numpy")
    for name in names:
        (lab.folder / f"{name}.py").write_text("raise SystemExit('the wrong module was imported')\n")
    source = (lab.folder / "objective.py").read_text()
    (lab.folder / "json.py").write_text(source.replace("def train(", "log('imported')\n\n\ndef train("))
    lab.study(train={"trainer": "json.py:train"}, search={"trials": 2})
    lab.run()
    assert lab.count("imported") == 1
    check(lab, trials=2)
    saw(f"{', '.join(names)} beside a trainer called json.py: exit 0, the trainer was imported once")


@pytest.mark.row(80, 35)
def test_the_password_of_a_storage_is_nowhere(lab: Lab, saw: Callable[..., None]) -> None:
    pytest.importorskip("psycopg")
    urls = [f"postgresql://tuner:{SECRET}@127.0.0.1:1/x", f"postgresql://127.0.0.1:1/x?user=tuner&password={SECRET}"]
    secret = lab.folder / "secret-url"
    began = time.monotonic()
    calls = []
    for url in urls:
        secret.write_text(url)
        words = lab.words()
        place = words.index("--storage")
        calls.append(lab.start(words=words[:place] + words[place + 2 :], env={"LRTUNE_STORAGE": url}))
        calls.append(lab.start(words=[*words[:place], "--storage", f"@{secret}", *words[place + 2 :]]))
        command = Path(f"/proc/{calls[-1].process.pid}/cmdline").read_bytes()
        assert SECRET.encode() not in command
        time.sleep(0.5)
        until(lambda: all(call.process.poll() is not None for call in calls), "the commands to give up")
    for call in calls:
        assert call.wait() == 4, call.err
        assert "127.0.0.1:1" in call.last
        assert SECRET not in call.err + call.out
        assert "Traceback" not in call.err
    assert "***" in calls[0].last + calls[0].err or "tuner" not in calls[0].last
    saw(f"down at the start: exit 4, {calls[0].last.partition('error: ')[2]!r}; password in no output, list or file "
        f"({time.monotonic() - began:.0f} s for two pairs)")  # fmt: skip


@pytest.mark.row(87)
def test_the_dashboard_reads_while_workers_write(lab: Lab, saw: Callable[..., None]) -> None:
    pytest.importorskip("optuna_dashboard")
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}))
    port = free_port()
    lab.study(search={"trials": 8})
    lab.run("--trials", "1")
    words = [lab.words()[0], "dashboard", "study.toml", "--storage", str(lab.database), "--port", str(port)]
    dashboard = lab.start(words=words)

    def read() -> list[Any]:
        try:
            with opener.open(f"http://127.0.0.1:{port}/api/studies", timeout=30) as answer:
                return list(json.load(answer)["study_summaries"])
        except URLError:
            assert dashboard.process.poll() is None, dashboard.err
            return []

    until(read, "the dashboard")
    running, reads = lab.start("--workers", "3", sleep=0.03), 0
    while running.process.poll() is None:
        assert read()
        reads += 1
    assert running.wait() == 0, running.err
    assert "locked" not in running.err + dashboard.err
    check(lab, trials=8)
    dashboard.end()
    saw(f"{reads} reads of the dashboard's API while 3 workers wrote: no lock, exit 0, 8 of 8")
