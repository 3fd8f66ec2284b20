"""When and who: windows of a clip, and its people."""

import csv
import errno
import itertools
import json
import shutil
import threading

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data.blas import one_blas_thread
from emonet_scratch.data.extract import vector_of
from emonet_scratch.data.faces import SEARCH, crop, overlap
from emonet_scratch.data.video import probe, read_sound, stream_frames
from emonet_scratch.errors import DataError
from emonet_scratch.explain.clip_page import ClipPage
from emonet_scratch.explain.film import Film
from emonet_scratch.explain.people import GAP, People, apart
from emonet_scratch.explain.tell import OWNER, several, tell
from emonet_scratch.explain.timeline import Memory, Table, Timeline, as_table, starts
from emonet_scratch.files import owned_file
from emonet_scratch.training.trunk import sights
from tests.test_cli import fails

from . import media

pytest.importorskip("cv2", reason="OpenCV is not installed")


def told(boxes_at, T, cuts=()):
    """People who have seen T frames with these boxes in them; a search near a box finds what overlaps it."""
    now = [0]

    def search(frame, near=None):
        return [box for box in boxes_at(now[0]) if near is None or overlap(box, near) > 0.1]
    people = People(search)
    for t in range(T):
        now[0] = t
        people.see(t, np.full((16, 16, 3), 255 * (sum(t >= cut for cut in cuts) % 2), np.uint8))
    return people


LEFT, RIGHT = (10.0, 10.0, 40.0, 40.0), (100.0, 10.0, 40.0, 40.0)


def test_people_have_numbers_in_order_of_appearance():
    people = told(lambda t: [LEFT] if t < 50 else [LEFT, RIGHT], 100)
    assert list(people.between(0, 50)) == [1]
    assert {n: chain[0] for n, chain in people.between(0, 100).items()} == {1: (0, LEFT), 2: (50, RIGHT)}
    assert list(people.between(50, 100)) == [1, 2]


def test_what_is_found_once_has_no_number():
    people = told(lambda t: [LEFT, (200.0, 200, 30, 30)] if t == 25 else [LEFT] if t < 50 else [LEFT, RIGHT], 100)
    assert list(people.between(0, 50)) == [1] and list(people.between(50, 100)) == [1, 2]


@pytest.mark.parametrize("gap, numbers", [(GAP, [1]), (GAP + 5, [1, 2])])
def test_a_gap_of_a_second_is_bridged_and_a_longer_one_is_not(gap, numbers):
    assert list(told(lambda t: [] if 20 < t < 20 + gap else [LEFT], 120).between(0, 120)) == numbers


@pytest.mark.parametrize("gap", [1, 6, 24])
def test_a_gap_of_one_beside_another_is_bridged(gap):
    people = told(lambda t: [LEFT] if 20 < t <= 20 + gap else [LEFT, RIGHT], 150)
    assert {n: chain[-1][0] for n, chain in people.between(0, 150).items()} == {1: 145, 2: 145}


def test_a_cut_ends_a_track_and_is_searched_at_once():
    people = told(lambda t: [LEFT], 100, cuts=(52,))
    assert people.cuts == [52] and [chain[0][0] for chain in people.between(0, 100).values()] == [0, 52]
    assert people.scene(51) == (0, 52) and people.scene(52) == (52, None)


def test_a_face_that_is_found_twice_is_one_person():
    small, large = (30.0, 40.0, 40.0, 40.0), (20.0, 20.0, 80.0, 80.0)
    found = told(lambda t: [small] if t < 30 else [large, small] if t < 60 else [small, large], 90)
    assert list(found.between(0, 90)) == [1]
    assert apart([large, small], [small]) == [small] and apart([small, large], []) == [large]
    assert apart([LEFT, RIGHT], []) == [LEFT, RIGHT]                          # two are two


def test_memory_is_bounded():
    people = told(lambda t: [LEFT] if t % 200 < 150 else [], 2000)
    people.forget(1990)
    assert sum(map(len, people.found.values())) <= 3 and len(people.found) <= 2 and len(people.searched) <= 2


@pytest.mark.parametrize("shape", ["360:270", "640:360"])
def test_a_cut_between_two_people_before_one_wall_is_seen_and_nothing_else_is(real_data, tmp_path, shape):
    clips = [sorted((real_data / "java_sed").glob(f"{actor}-01-03*.mp4"))[0] for actor in ("01", "02", "04")]
    inputs = [text for clip in clips for text in ("-i", clip)]
    parts = "".join(f"[{k}:v]scale={shape},setsar=1,fps=25,trim=start_frame=15:end_frame=55,setpts=PTS-STARTPTS[v{k}];"
                    for k in range(3))                                        # they begin in black
    media.ffmpeg(*inputs, "-filter_complex", parts + "[v0][v1][v2]concat=n=3[v]", "-map", "[v]", tmp_path / "cut.mp4")
    people = People()
    for t, frame in enumerate(stream_frames(tmp_path / "cut.mp4", SEARCH)):
        people.see(t, frame)
    assert people.cuts == [40, 80]
    for clip in clips:
        people = People()
        for t, frame in enumerate(list(stream_frames(clip, SEARCH))[15:]):    # they begin in black
            people.see(t, frame)
        assert people.cuts == []


@pytest.fixture(scope="module")
def two(person, tmp_path_factory):
    """Two people side by side, the right one of whom leaves after 1.5 seconds."""
    out = tmp_path_factory.mktemp("two") / "two.mp4"
    graph = ("[0:v]scale=256:256,fps=25[a];[1:v]scale=256:256,fps=25,drawbox=t=fill:color=gray:enable='gte(t,1.5)'[b];"
             "[a][b]hstack=shortest=1[v]")
    media.ffmpeg("-i", person, "-stream_loop", "3", "-i", sorted(person.parent.glob("*.mp4"))[-1], "-filter_complex", graph,
                 "-map", "[v]", "-map", "0:a", out)
    return out


def test_of_a_clip_of_one_window_the_answer_is_that_of_the_clip(answerer, person):
    rows = list(Timeline(answerer, person, window=9.0))
    whole = answerer(person)
    assert len(rows) == 1 and rows[0].person == 1 and rows[0].answer.label == whole.label
    assert np.allclose(rows[0].answer.probabilities, whole.probabilities, atol=1e-6)
    shares = rows[0].shares
    assert np.isfinite(shares.face).all() and (shares.face != 0).any() and (shares.voice != 0).any()


def test_a_clip_without_room_for_a_second_window_is_one_as_a_whole(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-t", "2.4", tmp_path / "a.mp4")
    row, = Timeline(answerer, tmp_path / "a.mp4")
    assert np.allclose(row.answer.probabilities, answerer(tmp_path / "a.mp4").probabilities, atol=1e-6)
    assert row.start == 0 and row.end == pytest.approx(2.4, abs=0.1)


def test_where_pictures_end_before_the_sound_the_voice_goes_on_alone(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-t", "1.6", tmp_path / "seen.mp4")
    media.ffmpeg("-i", tmp_path / "seen.mp4", "-stream_loop", "2", "-i", person, "-map", "0:v", "-map", "1:a",
                 tmp_path / "a.mkv")
    line = Timeline(answerer, tmp_path / "a.mkv")
    rows = list(line)
    assert line.seconds > 6 and rows[-1].end > line.seconds - 0.6 and rows[0].end == 2
    assert all(row.person == (1 if row.start < 1.2 else 0) for row in rows if not 1.2 <= row.start < 1.6)
    assert {row.answer.weights for row in rows if row.start >= 1.6} == {"voices"}
    assert all(not row.shares.face.any() and row.shares.voice.any() for row in rows if row.start >= 1.6)


def test_a_short_sound_is_one_window_and_its_answer_that_of_the_clip(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-vn", "-t", "1.2", tmp_path / "a.wav")
    row, = Timeline(answerer, tmp_path / "a.wav")
    whole = answerer(tmp_path / "a.wav").probabilities
    assert row.end == pytest.approx(1.2) and np.allclose(row.answer.probabilities, whole)


def test_two_people_side_by_side_one_of_whom_leaves(answerer, two):
    rows = list(Timeline(answerer, two, window=1.0, step=0.5))
    early = {row.person for row in rows if row.end <= 1.5}
    late = {row.person for row in rows if row.start >= 2}
    assert early == {1, 2} and len(late) == 1
    assert [row.start for row in rows] == sorted(row.start for row in rows)
    middle = {row.person: row.box[0] + row.box[2] / 2 for row in rows}        # pixels of a clip of 512 x 256
    stays = late.pop()
    assert middle[stays] < 256 < middle[3 - stays] < 512
    assert all(0 <= row.box[1] and row.box[1] + row.box[3] <= 256 for row in rows)
    table = as_table(rows[0], answerer.classes)
    assert abs(sum(table[name] for name in answerer.classes) - 1) < 1e-5 and table["end"] - table["start"] == 1


def test_windows_hear_what_is_heard_of_the_clip(answerer, person):
    line = Timeline(answerer, person)
    with one_blas_thread():                                                   # as while a clip is read
        assert np.array_equal(line._hear(0, None), vector_of(person))


def test_what_windows_share_is_looked_at_once_and_seen_alike(answerer, person):
    frames = np.stack(list(stream_frames(person, SEARCH, max_frames=40)))
    places = np.tile([128.0, 128, 100], (40, 1))
    memory = Memory(answerer)
    memory.look(1, 0, frames[:30], places[:30])
    memory.forget(10)
    assert sorted(memory.known[1]) == list(range(10, 30))
    _, faces, seen = memory.look(1, 10, frames[10:], places[10:])
    whole = crop(frames[10:], places[10:], answerer.size)
    assert np.array_equal(faces, whole)
    assert np.allclose(seen, sights(answerer.models["fused"].net, whole, "cpu"), atol=1e-5)
    places, none, _ = memory.look(2, 10, frames[10:], np.zeros((30, 3)))
    assert len(none) == 0 and not places.any()


def test_a_sound_has_windows_without_people(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-vn", tmp_path / "a.wav")
    rows = list(Timeline(answerer, tmp_path / "a.wav"))
    assert rows and {row.person for row in rows} == {0} and {row.answer.weights for row in rows} == {"voices"}
    assert not rows[0].shares.face.any() and rows[0].box is None and not np.isnan(vector_of(tmp_path / "a.wav")).all()


def test_without_sound_faces_are_read(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-an", "-c:v", "copy", tmp_path / "a.mp4")
    rows = list(Timeline(answerer, tmp_path / "a.mp4"))
    assert {row.person for row in rows} == {1} and not any(row.answer.voice for row in rows)
    assert not any(row.shares.voice.any() for row in rows)                    # what is not there adds nothing


def test_crops_do_not_look_over_a_cut(answerer, real_data, tmp_path):
    clips = [sorted((real_data / "java_sed").glob(f"{actor}-01-03*.mp4"))[0] for actor in ("01", "04")]
    graph = "".join(f"[{k}:v]fps=25,trim=start_frame=15:end_frame={15 + n},setpts=PTS-STARTPTS[v{k}];"
                    for k, n in enumerate((42, 30))) + "[v0][v1]concat=n=2[v]"
    media.ffmpeg("-i", clips[0], "-i", clips[1], "-filter_complex", graph, "-map", "[v]", tmp_path / "cut.mp4")
    rows = list(Timeline(answerer, tmp_path / "cut.mp4"))
    seen = {n: {t for row in rows if row.person == n for t in row.view.seen.tolist()} for n in (1, 2)}
    assert max(seen[1]) == 41 and min(seen[2]) == 42 and not several(rows[:1])


@pytest.mark.parametrize("window, step", [(0, 1), (1, 0), (-1, 1)])
def test_windows_have_a_length(answerer, person, window, step):
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Timeline(answerer, person, window, step)


@pytest.mark.parametrize("step, first", [(0.5, [0, 12, 25, 38, 50]), (0.04, [0, 1, 2, 3, 4]), (0.01, [0, 1, 2, 3, 4])])
def test_windows_start_at_frames_and_go_on(step, first):
    assert list(itertools.islice(starts(step), 5)) == first


@pytest.mark.parametrize("size, place, box", [
    ((640, 360), (0.5, 0.5, 0.25), (240, 100, 160, 160)), ((360, 640), (0.5, 0.5, 0.25), (100, 240, 160, 160)),
    ((100, 100), (0.25, 0.75, 0.5), (0, 50, 50, 50))])
def test_boxes_are_in_pixels_of_the_clip(size, place, box):
    line = Timeline.__new__(Timeline)
    line.size = size
    assert line.pixels(np.array(place)) == pytest.approx(box)


# ---- what is written ----

def test_rows_are_written_as_csv_and_json(answerer, two, tmp_path):
    line = Timeline(answerer, two, window=1.0)
    tables = [Table(tmp_path / name, answerer.classes) for name in ("a.csv", "a.json")]
    said = []
    rows = tell(line, tables, said.append)
    read = list(csv.DictReader((tmp_path / "a.csv").open()))
    same = json.loads((tmp_path / "a.json").read_text())
    assert len(read) == len(same) == len(rows) and said == [OWNER] and all(row.view is None for row in rows)
    for a, b, row in zip(read, same, rows, strict=True):
        assert a["class"] == b["class"] == row.answer.label and int(a["person"]) == b["person"] == row.person
        assert [float(a[side]) for side in ("left", "top", "width", "height")] == b["box"]
        k = row.answer.probabilities.argmax()
        assert float(a["adds_face"]) == pytest.approx(row.shares.face[k], abs=1e-5)


def test_what_was_read_before_it_is_stopped_is_kept(answerer, person, tmp_path):
    class Stopped(Table):
        def add(self, row):
            super().add(row)
            if row.start >= 1:
                raise KeyboardInterrupt
    table = Stopped(tmp_path / "a.csv", answerer.classes)
    page = ClipPage(line := Timeline(answerer, person), tmp_path / "a.html")
    with pytest.raises(KeyboardInterrupt):
        tell(line, [page, table, Film(line, tmp_path / "a.mp4")], print)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4 and not (tmp_path / "a.mp4").exists()
    assert "The reading was stopped" in (tmp_path / "a.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.html"]          # no locks, nothing half


def test_a_full_disk_leaves_what_was_there(answerer, person, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("mine")

    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "a.csv")
    monkeypatch.setattr(Table, "write", full)
    with pytest.raises(OSError, match="No space"):
        tell(Timeline(answerer, person, window=9.0), [Table(tmp_path / "a.csv", answerer.classes)], print)
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_what_cannot_be_written_costs_nothing_else(answerer, person, tmp_path, capsys):
    class Full(Table):
        def write(self, whole):
            raise OSError(errno.ENOSPC, "No space left on device", str(self.out))
    line = Timeline(answerer, person)
    tellers = [Full(tmp_path / "a.csv", answerer.classes), ClipPage(line, tmp_path / "a.html")]
    with pytest.raises(OSError, match="No space"):
        tell(line, tellers, print)
    assert (tmp_path / "a.html").exists() and capsys.readouterr().out == f"wrote {tmp_path / 'a.html'}\n"


def test_the_clip_itself_is_not_overwritten(answerer, person, tmp_path, capsys):
    clip = tmp_path / "a.mp4"
    shutil.copy(person, clip)
    before = clip.read_bytes()
    assert "is the clip itself" in fails(capsys, "predict", clip, "--video", clip)
    assert clip.read_bytes() == before and capsys.readouterr().out == ""


def test_a_film_hears_what_it_sees_where_pictures_begin_later(answerer, person, tmp_path):
    media.ffmpeg("-itsoffset", "1", "-i", person, "-i", person, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "flac",
                 tmp_path / "late.mkv")
    assert main(["predict", str(tmp_path / "late.mkv"), "--video", str(tmp_path / "film.mp4")]) == 0
    a, b = read_sound(tmp_path / "film.mp4"), read_sound(tmp_path / "late.mkv")
    n = min(len(a), len(b)) - 2000
    assert np.corrcoef(a[1000:n], b[1000:n])[0, 1] > 0.9


def test_a_broken_sound_track_is_told(answerer, person, tmp_path):
    media.ffmpeg("-i", person, "-c:v", "copy", "-c:a", "aac", "-bsf:a", "noise=amount=3", tmp_path / "a.mkv")
    line, said = Timeline(answerer, tmp_path / "a.mkv"), []
    rows = tell(line, [], said.append)
    assert rows and (not line.fault or "without sound" in said[0])


@pytest.mark.parametrize("arguments, reason", [
    (["a.mp4", "--timeline", "a.txt"], "expected a name that ends in .csv, .json"),
    (["a.mp4", "--video", "a.avi"], "expected a name that ends in .mp4"), (["none.mp4", "--timeline", "a.csv"], "none.mp4"),
    (["a.mp4", "--timeline", "no/folder/a.csv"], "no/folder"), (["bad.mp4", "--page", "a.html"], "no media file"),
    (["a.wav", "--video", "b.mp4"], "has no pictures"), (["empty", "--page", "site"], "expected clips"),
    (["a.mp4", "--page", "empty.html"], "is a folder"), (["a.mp4", "--page", "bad.mp4"], "wants NAME.html, or a folder"),
    (["a.mp4", "--page", "mine"], "not one of ours")])
def test_what_cannot_be_told_is_one_line(person, tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    shutil.copy(person, "a.mp4")
    (tmp_path / "bad.mp4").write_text("no clip")
    for name in ("empty", "empty.html", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "index.html").write_text("my own page")
    media.ffmpeg("-f", "lavfi", "-i", "sine=d=1", "a.wav")
    assert reason in fails(capsys, "predict", *arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "bad.mp4", "a.wav", "empty", "empty.html", "mine"}
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["my own page"]


@pytest.mark.parametrize("arguments, reason", [
    (["a.mp4", "b.mp4", "--timeline", "a.csv"], "--timeline is of one clip, got 2"),
    (["a.mp4", "b.mp4", "--page", "a.html"], "--page of 2 clips is a folder"),
    (["a.mp4", "--embed"], "--embed goes with --page"),
    (["a.mp4", "--json", "--page", "a.html"], "--json does not go with --page"),
    (["a.mp4", "--timeline", "a.csv", "--window", "0"], "expected 0.4 to 60 seconds"),
    (["a.mp4", "--window", "3"], "--window and --step go with"),
    (["a.mp4", "--timeline", "a.csv", "--checkpoint", "x"], "leave out --checkpoint")])
def test_wrong_calls_of_a_timeline(capsys, arguments, reason):
    with pytest.raises(SystemExit) as stop:
        main(["predict", *arguments])
    assert stop.value.code == 2 and reason in capsys.readouterr().err


def test_two_at_once_do_not_write_one_file(answerer, person, tmp_path):
    with owned_file(tmp_path / "a.csv"):
        found = []

        def other():
            try:
                tell(Timeline(answerer, person), [Table(tmp_path / "a.csv", answerer.classes)], print)
            except DataError as error:
                found.append(str(error))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "is in use" in found[0]


def test_a_film_has_what_is_seen_and_the_sound(two, tmp_path):
    assert main(["predict", str(two), "--video", str(tmp_path / "film.mp4"), "--window", "1"]) == 0
    made, was = probe(tmp_path / "film.mp4"), probe(two)
    assert made.has_sound and made.duration == pytest.approx(was.duration, abs=0.1)
    assert (made.display_width, made.display_height) == (was.display_width, was.display_height)
    after, before = (next(itertools.islice(stream_frames(path, 512), 20, None))[128:384].astype(int)
                     for path in (tmp_path / "film.mp4", two))
    changed = np.abs(after - before).max(axis=2) > 60
    assert changed[-8:].mean() > 0.5 and 0.005 < changed[:-20].mean() < 0.2   # a bar below; boxes and names, and little else
    a, b = read_sound(tmp_path / "film.mp4"), read_sound(two)
    n = min(len(a), len(b)) - 2000
    assert np.corrcoef(a[1000:n], b[1000:n])[0, 1] > 0.9                      # of the same moment
