"""Pages as text: nothing from elsewhere, nothing of a user that is not escaped, not too large."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data.sound import is10
from emonet_scratch.explain.clip_page import ClipPage, Few, heat_png, sound_of
from emonet_scratch.explain.contributions import Shares
from emonet_scratch.explain.index import Entry, write_index
from emonet_scratch.explain.page import page, smaller, table, thinned
from emonet_scratch.explain.run_page import write_run_page
from emonet_scratch.explain.tell import usual
from emonet_scratch.explain.timeline import Row, Timeline, View
from emonet_scratch.training.answer import Answer
from emonet_scratch.training.settings import read_settings

from . import media

EVIL = "<img src=x onerror=alert(1)>\"'</script>"


class Tags(HTMLParser):
    """All tags of a page, as a browser finds them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def foreign(text):
    """What of a page is not in it, and what would run: addresses that are neither data nor pages beside it, and handlers."""
    tags = Tags(text).found
    places = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "poster")]
    ran = [name for _, attributes in tags for name in attributes if name.startswith("on")]
    style = re.findall(r"url\(|@import", text[:text.index("</style>")])
    return [p for p in places if not p.startswith("data:") and not re.fullmatch(r"[\w.%-]+\.html", p)] + ran + style


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def row(k, n, rng, view=None, classes=7):
    p = rng.dirichlet(np.ones(classes))
    answer = Answer("a.mp4", "fused", "Happy", p, 0.5, True, True)
    return Row(k / 2, k / 2 + 2, n, (1.0, 2, 30, 30), answer, Shares(*rng.standard_normal((2, classes))), view)


def test_every_text_is_escaped():
    text = page(EVIL, table([EVIL], [[EVIL]]), {EVIL: EVIL}, "clip.js").decode()
    assert text.count("</script>") == 2 and data_of(text) == {EVIL: EVIL} and not foreign(text)
    assert "img" not in [tag for tag, _ in Tags(text).found]


def test_a_table_takes_html_only_where_it_is_said():
    assert table(["a", "b"], [["<b>", "<i>"]], raw=[1]).endswith("<td>&lt;b&gt;</td><td><i></td></tr></tbody></table>")


def test_thinned_keeps_the_ends():
    assert thinned(list(range(9)), 3) == [0, 4, 8] and thinned([1, 2], 3) == [1, 2] and thinned([], 3) == []


@pytest.mark.parametrize("count", [0, 3, 8, 9, 17, 1000])
def test_a_few_of_a_stream_are_even(count):
    few = Few(8)
    for k in range(count):
        if few.wanted():
            few.add(k, -k)
    kept = list(few.kept)
    assert len(kept) <= 8 and (count <= 8 or len(kept) >= 4) and kept[:1] == [0][:count]
    assert len(set(np.diff(kept))) <= 1 and all(few.kept[k] == -k for k in kept)
    assert not count or count - kept[-1] <= few.step


def test_curves_of_a_sound_are_those_of_the_descriptors():
    t = np.arange(16000) / 16000
    assert [len(c) for c in is10.curves(np.zeros(16000 * 21, np.float32))] == [2095, 2095]     # of several blocks
    sound = (0.3 * sum(np.sin(2 * np.pi * 200 * k * t) / k for k in range(1, 6))).astype(np.float32)
    pitch, loudness = is10.curves(sound)
    smooth, _ = is10.descriptors(sound * (32768 / 32767), "energy")
    assert len(pitch) == len(loudness) == len(smooth) and np.median(pitch) == pytest.approx(200, rel=0.02)
    assert loudness[10:-10] == pytest.approx(smooth[10:-10, 0], rel=0.02)
    whole = np.rint(sound * 32768).astype(np.int16)
    assert np.allclose(is10.curves(whole)[1], loudness, rtol=1e-2)
    shown = sound_of(whole)
    assert shown["seconds"] == 1 and len(shown["wave"]) == 800
    assert max(shown["wave"]) == pytest.approx(np.abs(sound).max(), abs=1e-3)
    assert sound_of(None)["wave"] == sound_of(np.zeros(10, np.int16))["wave"] == []


def test_no_heat_is_no_error():
    assert heat_png(np.zeros((48, 48))).startswith("data:image/png")


def test_who_is_in_most_windows_speaks_for_a_clip():
    rng = np.random.default_rng(0)
    rows = [row(0, 2, rng), row(0, 1, rng), row(1, 2, rng), row(1, 1, rng), row(2, 2, rng)]
    found, p = usual(rows)
    assert found.person == 2 and np.allclose(p, np.mean([r.answer.probabilities for r in rows if r.person == 2], axis=0))
    assert usual(rows[:4])[0].person == 1
    silent = Row(0, 2, 0, None, Answer("a.mp4", "", "unknown", np.full(7, 1 / 7), None, False, False), None)
    assert usual([silent, silent, *rows[:1]])[0].person == 2 and usual([silent])[0].answer.label == "unknown"


# ---- of real clips ----

@pytest.fixture(scope="module")
def clip(person, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "<img src=x onerror=alert(1)>.mp4"
    shutil.copy(person, out)
    return out


def test_a_page_of_a_clip_with_an_evil_name(answerer, clip, tmp_path):
    assert main(["predict", str(clip), "--page", str(tmp_path / "a.html"), "--embed"]) == 0
    text = (tmp_path / "a.html").read_text()
    assert text.count("&lt;img src=x onerror=alert(1)&gt;.mp4") == 3 and not foreign(text)
    assert 'src="data:video/mp4;base64,' in text and text.count("What the LSTM does") == 1
    data = data_of(text)
    rows = list(Timeline(answerer, clip))
    assert len(data["rows"]) == len(rows) and data["step"] == 0.5 and data["duration"] >= rows[-1].end
    for shown, row in zip(data["rows"], rows, strict=True):
        assert shown["p"] == pytest.approx(row.answer.probabilities, abs=1e-4) and shown["label"] == row.answer.label
        k = row.answer.probabilities.argmax()
        assert shown["adds"] == pytest.approx([row.shares.face[k], row.shares.voice[k]], abs=1e-3)
        assert len(shown["terms"]) == 10 and shown["crop"].startswith("data:image/jpeg") and shown["heat"]
    assert len(data["sound"]["pitch"]) > 100 and text.count("<tr>") == len(rows) + 1


def test_a_minute_is_less_than_3_megabytes_whatever_it_shows(answerer, clip, tmp_path):
    rng, line = np.random.default_rng(0), Timeline(answerer, clip)
    line.sound = rng.integers(-2**15, 2**15, 960000, np.int16)
    made = ClipPage(line, tmp_path / "a.html")
    for k in range(117):                                                      # noise, which nothing makes smaller
        frame, face = (rng.integers(0, 256, (n, n, 3), np.uint8) for n in (256, 48))
        features, audio = rng.standard_normal((50, 64)), rng.standard_normal(1582)
        made.add(row(k, 1, rng, View(frame, face, np.full((50, 3), 0.5), np.arange(12 * k, 12 * k + 50), features, audio)))
    made.write(True)
    assert (tmp_path / "a.html").stat().st_size < 3e6


def test_each_person_of_a_window_that_is_kept_has_a_face(answerer, clip, tmp_path):
    rng, made = np.random.default_rng(0), ClipPage(Timeline(answerer, clip), tmp_path / "a.html")
    for k in range(700):
        for n in (1, 2):
            face = rng.integers(0, 256, (48, 48, 3), np.uint8)
            view = View(None, face, np.full((50, 3), 0.5), np.arange(12 * k, 12 * k + 50), np.ones((50, 64)), np.ones(1582))
            made.add(row(k, n, rng, view))
    made.write(True)
    data = data_of((tmp_path / "a.html").read_text())
    kept = [r["person"] for r in data["rows"] if "crop" in r]
    assert data["every"] == 4 and len(kept) == 350 and kept == [1, 2] * 175
    assert [t for t, _ in made.read[1]] == list(range(1500))                  # a frame once, and no more than a minute


def test_a_sound_and_a_clip_without_a_face_have_pages(real_data, tmp_path):
    media.ffmpeg("-f", "lavfi", "-i", "sine=d=3", tmp_path / "a.wav")
    for source, name in ((tmp_path / "a.wav", "a"), (real_data / "clips" / "no_face.mp4", "b")):
        assert main(["predict", str(source), "--page", str(tmp_path / f"{name}.html"), "--embed"]) == 0
    text = (tmp_path / "a.html").read_text()
    assert "There are no pictures in it." in text and '<audio controls src="data:' in text and "the LSTM does" not in text
    assert {r["person"] for r in data_of((tmp_path / "b.html").read_text())["rows"]} == {0}


def test_a_folder_has_an_index_and_names_what_cannot_be_read(clip, tmp_path, capsys):
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(clip, folder / "deep" / clip.name)
    media.ffmpeg("-f", "lavfi", "-i", "sine=d=3", folder / "a.wav")
    (folder / "bad.mp4").write_text("no clip")
    assert main(["predict", str(folder), "--page", str(tmp_path / "site")]) == 1
    text = (tmp_path / "site" / "index.html").read_text()
    links = re.findall(r'href="([^"]*)"', text)
    assert len(links) == 2 and all((tmp_path / "site" / name).exists() for name in links) and not foreign(text)
    assert "not read: " in text and "bad.mp4" in capsys.readouterr().err


def test_an_index_is_sorted_by_class(tmp_path):
    rng = np.random.default_rng(0)
    entries = [Entry(f"{k}.mp4", f"{k}.html", [row(0, 1, rng)]) for k in range(9)]
    write_index(tmp_path / "index.html", entries, [f"class {k}" for k in range(7)])
    classes = re.findall(r"</a></td><td>(class \d)", (tmp_path / "index.html").read_text())
    assert len(classes) == 9 and classes == sorted(classes)


# ---- of a run ----

def test_a_run_has_a_page(tmp_path):
    out = tmp_path / "run"
    call = ["train", "--runs", str(tmp_path), "--out", str(out), "--clips-per-class", "2", "2", "1", "--epochs", "1"]
    assert main(call) == 0
    text = (out / "page.html").read_text()
    results = json.loads((out / "results.json").read_text())
    assert all(f"<td>{name}</td><td>{r['accuracy']:.3f}</td>" in text for name, r in results.items()) and not foreign(text)
    rows = {name: list(csv.DictReader((out / name / "validation.csv").open())) for name in results}
    for name, r in results.items():
        assert sum(row["class"] == row["label"] for row in rows[name]) / len(rows[name]) == pytest.approx(r["accuracy"])
    wrong = sorted((row for row in rows["fused"] if row["class"] != row["label"]), key=lambda row: float(row[row["label"]]))
    told = [f"{row['id']}: {row['label']}, taken for {row['class']}" for row in wrong[:6]]
    assert re.findall(r"<figcaption>([^<]*) with", text) == told and text.count("data:video/mp4") == len(told)
    before = (out / "page.html").read_bytes()
    (out / "page.html").unlink()                                              # killed before it was written
    assert main(["train", "--resume", str(out)]) == 0 and (out / "page.html").read_bytes() == before
    shutil.rmtree(next(tmp_path.glob("synthetic*")))                          # clips that are gone are named all the same
    text = write_run_page(out, read_settings(out)).read_text()
    assert "data:video" not in text and text.count("it cannot be played any more") == len(told)


def test_accuracy_by_group_is_worst_first(tmp_path):
    from emonet_scratch.explain.run_page import _by_group
    answers = {"fused": [{"group": g, "label": "a", "class": c} for g, c in ("xa", "xa", "yb", "ya", "zb")]}
    assert re.findall(r"<td>(\w)</td><td>(\d)</td><td>([\d.]+)", "".join(_by_group(answers))) == [
        ("z", "1", "0.000"), ("y", "2", "0.500"), ("x", "2", "1.000")]
    assert _by_group({"fused": [{"group": "", "label": "a", "class": "a"}]}) == []


def test_a_picture_gets_smaller(tmp_path):
    from emonet_scratch.training.report import drawn
    png = drawn(lambda figure_class: figure_class(figsize=(5, 4)))
    assert smaller(png).startswith("data:image/png;base64,")
