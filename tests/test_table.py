"""clips.csv: every form of table that people write is read; what is wrong is said with row, column and what was wanted."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.afew import load_features
from emonet_scratch.data.clips import collect
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.data.table import COLUMNS, read_table
from emonet_scratch.errors import DataError

ROWS = [(2, {"path": "a.wav", "label": "joy"}), (3, {"path": "sub/b.wav", "label": "grief"})]


def written(folder, content, name="clips.csv", clips=("a.wav", "sub/b.wav", "c.wav", "d.wav")):
    for clip in clips:
        path = folder / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_form(tmp_path, separator, mark, end, last):
    lines = ["path,label", "a.wav,joy", "sub/b.wav,grief"]
    path = written(tmp_path, mark + end.join(lines).replace(",", separator) + end * last)
    assert read_table(path) == ROWS and read_table(str(path)) == ROWS
    data = collect([path])
    assert [(clip.id, clip.label) for clip in sorted(data.clips, key=lambda clip: clip.id)] == [("a", "joy"), ("b", "grief")]


@pytest.mark.parametrize("text", [
    "label,path\njoy,a.wav\ngrief,sub/b.wav\n",
    "PATH,Label\na.wav,joy\nsub/b.wav,grief\n",
    " path , label \n a.wav , joy \n sub/b.wav ,\tgrief\n",
    '"path","label"\n"a.wav","joy"\nsub/b.wav,"grief"\n',
    "id,path,age,label,path of the film\n1,a.wav,33,joy,\n2,sub/b.wav,,grief,x\n"])
def test_columns_in_any_order_case_and_company(tmp_path, text):
    assert read_table(written(tmp_path, text)) == ROWS


def test_blank_lines_count_as_rows_and_nothing_else(tmp_path):
    rows = read_table(written(tmp_path, "path,label,split\n\n \na.wav,joy,\n,,\n\t, ,\nsub/b.wav,grief,test\n\n"))
    assert [(number, cells["path"]) for number, cells in rows] == [(4, "a.wav"), (7, "sub/b.wav")]


def test_quoted_cells_hold_separators_and_quotes(tmp_path):
    path = written(tmp_path, 'path,label,group\n"a, b.wav","joy; great","the ""first"""\nc.wav,grief,x\n',
                   clips=("a, b.wav", "c.wav"))
    assert read_table(path)[0][1] == {"path": "a, b.wav", "label": "joy; great", "group": 'the "first"'}
    assert {clip.label for clip in collect([path]).clips} == {"joy; great", "grief"}


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=6).map(str.strip)


@given(st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS, CELLS), min_size=1, max_size=6), st.permutations(COLUMNS[:4]),
       st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-8-sig"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_writer_of_tables_writes_is_read(tmp_path_factory, rows, order, separator, encoding, end, quoted):
    cells = [dict(zip(COLUMNS, row, strict=False)) for row in rows]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, order, delimiter=separator, lineterminator=end,
                            quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(cells)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(out.getvalue().encode(encoding))
    assert read_table(path) == [(number, row) for number, row in enumerate(cells, 2)]


@pytest.mark.parametrize(("text", "words"), [
    ("a.wav,joy\nsub/b.wav,grief\n", ["row 1", "path and label", "comma, semicolon or tab", "no path among 'a.wav', 'joy'"]),
    ("path,emotion\na.wav,joy\n", ["row 1", "no label among 'path', 'emotion'"]),
    ("path|label\na.wav|joy\n", ["row 1", "no path among 'path|label'"]),
    ("path,label,Path\na.wav,joy,b\n", ["row 1", "column path is there twice"]),
    ("path,label,group,group\na.wav,joy,b,c\n", ["row 1", "column group is there twice"]),
    ("path,label\n", ["expected a row", "got none"]), ("path,label\n\n,\n", ["expected a row"]), ("\n", ["row 1"]),
    ("path,label\na.wav,joy\nb.wav\n", ["row 3", "expected 2 values", "got 1"]),
    ("path,label\na.wav,joy,3\n", ["row 2", "expected 2 values", "got 3"]),
    ("path,label\na, b.wav,joy\n", ["row 2", "got 3"]),
    ("path;label\na.wav,joy\n", ["row 2", "got 1"]),
    ("path,label\n,joy\n", ["row 2, column path", "name of a file", "nothing"]),
    ('path,label\n"a.wav,joy\n', ["near row", "unexpected end"]), ('path,label\n"a"b,joy\n', ["near row 2"]),
    ("path,label\n" + "x" * 200_000 + ",joy\n", ["near row 2", "field limit"]),
    ("x" * 100_000 + "\n", ["row 1", "no path"])])
def test_tables_that_are_refused(tmp_path, text, words):
    path = written(tmp_path, text)
    refused(lambda: read_table(path), repr(str(path)), *words)


@pytest.mark.parametrize(("content", "words"), [
    ("path,label\na.wav,fröhlich\n".encode("cp1252"), ["row 2, column label", "UTF-8", r"fr\udcf6hlich"]),
    ("path,label,group\na.wav,joy,Ж\n".encode("cp1251"), ["row 2, column group", "UTF-8"]),
    (b'path,label\na.wav,"joy\nous"\n', ["row 2, column label", "on one line", r"'joy\nous'"]),
    (b"path,label,split\na.wav,joy,\x1b[2Jx\n", ["row 2, column split", r"\x1b"]),
    ("path,label\na.wav,joy\n".encode("utf-16"), ["row"]), ("path,label\na.wav,joy\n".encode("utf-16-le"), ["row"]),
    (b"", ["empty"]), (b"PK\3\4" + bytes(range(256)) * 40, ["row"]), (b"\0" * 5000, ["row"]), (b"\xff" * 5000, ["row 1"])])
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, words):
    path = written(tmp_path, content)
    refused(lambda: read_table(path), repr(str(path)), *words)


def test_a_path_has_the_bytes_that_the_disk_has(tmp_path):
    path = written(tmp_path, b"path,label\ncaf\xe9.wav,joy\nb.wav,grief\n", clips=("caf\udce9.wav", "b.wav"))
    assert {clip.path.name for clip in collect([path]).clips} == {"caf\udce9.wav", "b.wav"}


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv"])
def test_no_such_table(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    refused(lambda: read_table(tmp_path / name), name)
    refused(lambda: collect([tmp_path / name]), name)


# ---- what the rows say ----

@pytest.mark.parametrize(("row", "words"), [
    ("gone.wav,joy,,,", ["column path", "a file that is there", "relative to the table", "'gone.wav'"]),
    ("sub,joy,,,", ["column path", "a file that is there"]), (".,joy,,,", ["column path"]), ("x\0y,joy,,,", ["column path"]),
    ("x" * 300 + ",joy,,,", ["column path", "a file that is there"]), ("a.wav/x,joy,,,", ["column path"]),
    ("c.wav,joy,dev,,", ["column split", "train, val, test or nothing", "'dev'"]),
    ("c.wav,joy,train test,,", ["column split", "'train test'"]),
    ("c.wav,,train,,", ["column label", "a class", "test split", "''"]), ("c.wav,,,,", ["column label"]),
    ("c.wav,joy,,,gone.arff", ["column features", "a file that is there", "'gone.arff'"]),
    ("a.wav,joy,,,", ["column path", "every file once", "row 2", "'a.wav'"]),
    ("./sub/../a.wav,joy,,,", ["column path", "every file once", "row 2"]),
    ("c.wav,joy,,,v.arff", ["column features", "this clip alone", "row 2"])])
def test_rows_that_are_refused(tmp_path, row, words):
    written(tmp_path, "", "v.arff")
    path = written(tmp_path, f"path,label,split,group,features\na.wav,joy,,,v.arff\nsub/b.wav,grief,,,\n{row}\n")
    refused(lambda: collect([path]), f"{str(path)!r} row 4", *words)


def test_splits_by_any_of_their_names_and_clips_without_a_class(tmp_path):
    splits = {"a.wav": "Train", "sub/b.wav": "validation", "c.wav": "TEST", "d.wav": " test "}
    labels = {"a.wav": "joy", "sub/b.wav": "grief", "c.wav": "Joy", "d.wav": ""}
    path = written(tmp_path, "path,split,label\n" + "".join(f"{k},{splits[k]},{labels[k]}\n" for k in splits))
    data = collect([path])
    assert [(c.id, c.split, c.label) for c in data.clips] == [
        ("a", "train", "joy"), ("b", "val", "grief"), ("c", "test", "joy"), ("d", "test", None)]
    assert data.classes == ("grief", "joy") and [data.number(clip) for clip in data.clips] == [1, 0, 1, -1]


def test_paths_are_relative_to_the_table_or_absolute(tmp_path, monkeypatch):
    elsewhere = tmp_path / "else where"
    path = written(tmp_path / "data", f"path,label\na.wav,joy\n../else where/e.wav,grief\n{elsewhere / 'f.wav'},grief\n")
    written(elsewhere, "x", "e.wav", clips=("f.wav",))
    monkeypatch.chdir(elsewhere)
    for table in (path, "../data/clips.csv"):
        assert sorted(clip.path.resolve() for clip in collect([table]).clips) == sorted(
            [(tmp_path / "data" / "a.wav").resolve(), (elsewhere / "e.wav").resolve(), (elsewhere / "f.wav").resolve()])


def test_a_link_to_a_clip_is_the_same_clip(tmp_path):
    path = written(tmp_path, "path,label\na.wav,joy\nsub/b.wav,grief\nlink.wav,joy\n")
    (tmp_path / "link.wav").symlink_to("a.wav")
    refused(lambda: collect([path]), "row 4, column path", "every file once", "row 2")


@pytest.mark.parametrize("place", ["features", "elsewhere"])
def test_the_file_in_the_column_features_is_the_vector_of_that_clip(tmp_path, place):
    """Whatever the file and its row are called, wherever it lies."""
    root = tmp_path / "data"
    for k, name in enumerate(("v1", "v2")):
        folder = root / "features" if place == "features" else tmp_path / "elsewhere"
        folder.mkdir(parents=True, exist_ok=True)
        write_arff(folder / f"{name}.arff", "r", ("f1", "f2"), [("somebody", None, [k, 10 + k])])
    named = "features" if place == "features" else str(tmp_path / "elsewhere")
    path = written(root, f"path,label,features\na.wav,joy,{named}/v2.arff\nsub/b.wav,grief,{named}/v1.arff\nc.wav,joy,\n")
    data = collect([path])
    features = load_features(data.roots, data.clips)
    vectors = {clip.id: features.vectors.get(clip.key) for clip in data.clips}
    assert np.array_equal(vectors["a"], [1, 11]) and np.array_equal(vectors["b"], [0, 10]) and vectors["c"] is None
    assert not features.unmatched and not features.problems


def test_a_file_of_all_vectors_needs_no_column(tmp_path):
    path = written(tmp_path, "path,label\na.wav,joy\nsub/b.wav,grief\n")
    write_arff(tmp_path / "all.arff", "r", ("x",), [("b", None, [2]), ("a.wav", None, [1])])
    data = collect([path])
    assert {clip.id: load_features(data.roots, data.clips).vectors[clip.key].tolist() for clip in data.clips} == {
        "a": [1], "b": [2]}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_table_itself_is_no_file_of_features(tmp_path, separator):
    path = written(tmp_path, "path,label,age\na.wav,1,31\nsub/b.wav,2,40\n".replace(",", separator))
    data = collect([path])
    lines = []
    assert load_features(data.roots, data.clips, log=lines.append) is None and not lines
