"""Feature files: what is written is read back, what openSMILE and Weka write is read, damage is named."""

import math
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data import opensmile
from emonet_scratch.data.opensmile import is_feature_table, read_arff, read_csv, read_features, write_arff
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError

HEADER = """@relation r
@attribute name string
@attribute f0 numeric
@attribute f1 real
@attribute class {Angry,Sad}
@data
"""
# every character but NUL and lone surrogates; the second half draws the ones that need care more often
texts = (st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
         | st.text("'\"\\%{},;? \n\r\tnrt\u2028\x85é"))
floats = st.floats(width=64) | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])


@st.composite
def tables(draw):
    free = texts.filter(lambda name: opensmile._plain(name) not in opensmile.RESERVED)
    names = draw(st.lists(free, min_size=1, max_size=4))
    row = st.tuples(st.none() | texts, st.none() | st.sampled_from(CLASSES),
                    st.lists(floats, min_size=len(names), max_size=len(names)))
    return draw(texts), names, draw(st.lists(row, min_size=1, max_size=4))


def written(tmp_path, text, name="f.arff"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(read, path, *words):
    """The one line of the DataError, which names the file and holds all these words."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (repr(str(path)), *words):
        assert word in message
    return message


@given(tables())
def test_write_then_read_gives_back_everything(tmp_path_factory, table):
    relation, names, rows = table
    path = tmp_path_factory.mktemp("arff") / "odd 'name'.arff"
    write_arff(path, relation, names, rows)
    got = read_arff(path)
    assert got.relation == relation and got.names == tuple(names) and len(got.rows) == len(rows)
    for row, (name, label, vector) in zip(got.rows, rows, strict=True):
        assert (row.name, row.label) == (name, label)
        assert row.vector.dtype == np.float64
        np.testing.assert_array_equal(row.vector, vector)
        assert not np.any(np.signbit(row.vector) != np.signbit(vector), where=~np.isnan(vector))
    assert os.listdir(path.parent) == [path.name]          # no temporary file stays


@given(texts, st.sampled_from([",", ";"]))
def test_quoted_cells_come_back_between_others(text, separator):
    line = separator.join(["1", opensmile._quote(text, always=True), "?", opensmile._quote(text, always=True)])
    assert opensmile._cells(line, separator, 0) == ["1", text, None, text]


@given(st.binary(max_size=300) | texts.map(lambda text: (HEADER + text).encode()))
def test_junk_is_read_or_refused_in_one_line(tmp_path_factory, junk):
    folder = tmp_path_factory.mktemp("junk")
    for name in ("f.arff", "f.csv"):
        path = written(folder, junk, name)
        try:
            assert read_features(path).rows
        except DataError as error:
            assert repr(str(path)) in str(error) and "\n" not in str(error)


def test_numbers_of_classes_and_missing_names_are_written(tmp_path):
    rows = [("1", 0, [1.5]), (None, np.int64(6), np.float32([.1])), ("3", None, [0])]
    write_arff(tmp_path / "f.arff", "r", ["a"], rows)
    rows = read_arff(tmp_path / "f.arff").rows
    assert [(row.name, row.label) for row in rows] == [("1", "Angry"), (None, "Surprise"), ("3", None)]
    assert rows[1].vector[0] == np.float32(.1)


@pytest.mark.parametrize(("names", "row", "words"), [
    (["a", "frameTime"], ("1", None, [1, 2]), "frameTime"),
    (["Class"], ("1", None, [1]), "Class"),
    (["a"], ("1", None, [1, 2]), "expected 1 features, got 2"),
    (["a"], ("1", "Bored", [1]), "got 'Bored'"),
    (["a"], ("1", np.int64(7), [1]), "got 7"),
    (["a"], ("1", -1, [1]), "got -1"),
    (["a"], ("nul\0", None, [1]), "NUL"),
])
def test_rows_that_cannot_be_written(tmp_path, names, row, words):
    with pytest.raises(DataError, match=words):
        write_arff(tmp_path / "f.arff", "r", names, [row])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, call):
    path = written(tmp_path, "old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match=r"f\.arff'.*No space left"):
        write_arff(path, "r", ["a"], [("1", None, [1])])
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f.arff"]


def test_writing_into_no_folder(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        write_arff(tmp_path / "absent" / "f.arff", "r", ["a"], [("1", None, [1])])


def test_what_opensmile_writes_is_read(tmp_path):
    text = """@relation AFEW

@attribute name string
@attribute frameIndex numeric
@attribute frameTime numeric
@attribute pcm_loudness_sma_maxPos numeric
@attribute mfcc_sma[0]_maxPos numeric
@attribute emotion unknown

@data

'unknown',0,0.000000,1.500000e+00,-2,unknown

'D:\\AFEW\\000046280.wav',1,0.01,?,3,unknown
'it's',1,0.01,4,5,unknown
""".replace("\n", "\r\n")
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        table = read_arff(written(tmp_path, content))
        assert table.relation == "AFEW"
        assert table.names == ("pcm_loudness_sma_maxPos", "mfcc_sma[0]_maxPos")
        assert [row.name for row in table.rows] == ["unknown", "D:\\AFEW\\000046280.wav", "it's"]
        assert [row.label for row in table.rows] == ["unknown"] * 3
        np.testing.assert_array_equal([row.vector for row in table.rows], [[1.5, -2], [np.nan, 3], [4, 5]])


def test_what_weka_writes_is_read(tmp_path):
    text = """% a comment
   @RELATION 'a relation'
@Attribute "file name" STRING
@attribute 'it\\'s \\\\ 50\\%' Real
% another
@ATTRIBUTE gender {m,f}
@ATTRIBUTE count\tINTEGER
@attribute Class{Angry, 'Sad'}

  @DATA
% and another
one , 1.5 , m , 2 , Angry
"two, or\\ttwo", ?,f,-3, 'Sad'
'?',inf,?,4,?"""
    table = read_arff(written(tmp_path, text))
    assert table.relation == "a relation" and table.names == ("it's \\ 50%", "count")
    assert [row[:2] for row in table.rows] == [("one", "Angry"), ("two, or\ttwo", "Sad"), ("?", None)]
    np.testing.assert_array_equal([row.vector for row in table.rows], [[1.5, 2], [np.nan, -3], [np.inf, 4]])


@pytest.mark.parametrize(("declared", "value", "label"), [
    ("class numeric", "3", None), ("emotion real", "0", None), ("Label numeric", "?", None),
    ("class {0,1,2}", "2", "2"), ("mood {Happy,Sad}", "Sad", "Sad"), ("class string", "Fear", "Fear"),
])
def test_class_columns_are_no_features(tmp_path, declared, value, label):
    text = f"@relation r\n@attribute a numeric\n@attribute {declared}\n@data\n1,{value}\n"
    table = read_arff(written(tmp_path, text))
    assert table.names == ("a",) and table.rows[0].label == label and table.rows[0].name is None


def test_a_nominal_column_is_neither_name_nor_feature(tmp_path):
    columns = "sex {m,f}", "name string", "a numeric", "note string", "class {Sad}"
    header = "".join(f"@attribute {column}\n" for column in columns)
    table = read_arff(written(tmp_path, f"@relation r\n{header}@data\nm,x,1,loud,Sad\n"))
    assert table.names == ("a",) and table.rows[0][:2] == ("x", "Sad") and table.rows[0].vector == [1]


def test_names_that_are_not_utf8_survive(tmp_path):
    row = read_arff(written(tmp_path, HEADER.encode() + b"caf\xe9,1,2,Sad\n")).rows[0]
    assert os.fsencode(row.name) == b"caf\xe9"
    write_arff(tmp_path / "g.arff", "r", ["a"], [(row.name, None, [1])])
    assert read_arff(tmp_path / "g.arff").rows[0].name == row.name


@pytest.mark.parametrize(("text", "line", "words"), [
    (HEADER + "a,1,2,Sad\nb,1,Sad\n", 8, "expected 4 values, one for each column, got 3"),
    (HEADER + "a,1,2,Sad\r\n\r\nb,1,2,3,Sad\r\n", 9, "got 5"),
    (HEADER + "a,1,high,Sad\n", 7, "column 3: expected a number or '?', got 'high'"),
    (HEADER + "a,1,1_000,Sad\n", 7, "got '1_000'"),
    (HEADER + "a,1,,Sad\n", 7, "got ''"),
    (HEADER + "a,1,'?',Sad\n", 7, "got '?'"),
    (HEADER + "a,1," + "9x" * 999 + ",Sad\n", 7, "..."),
    (HEADER + "{0 a, 2 1.5}\n", 7, "sparse"),
    (HEADER + "'a,1,2,Sad\n", 7, "closing quote"),
    (HEADER + "% nothing\n\n", 9, "at least one row"),
    (HEADER.replace("@data\n", ""), 6, "'@data'"),
    (HEADER.replace("f1 real", "f1"), 4, "'@attribute NAME TYPE'"),
    (HEADER.replace("f0 numeric", "'f0 numeric"), 3, "'@attribute NAME TYPE'"),
    ("@relation r\n@attribute name string\n@data\na\n", 2, "numeric feature column"),
    ("name;f0\na;1\n", 1, "is this an ARFF file"),
    (" \r\n\n\u2003", 1, "empty"),
    (b"RIFF\x00\x01\n", 1, "binary"),
    (HEADER.encode() + b"a,1,2,Sad\n\0\0", 8, "binary"),
    (b"\x89PNG\r\n\x1a\n", 1, "is this an ARFF file"),
])
def test_a_damaged_arff_is_named_with_its_line(tmp_path, text, line, words):
    refused(read_arff, written(tmp_path, text, "it's\nbad.arff"), f" line {line}: ", words)


def test_a_row_cut_anywhere_is_refused_or_shorter(tmp_path):
    """A copy that broke off in the last row: too few values, never a silent zero."""
    row = "a,1.25,2.5,Sad"
    for end in range(1, row.rindex(",")):
        refused(read_arff, written(tmp_path, HEADER + row[:end]), "line 7", "cut short")


def test_csv_with_and_without_header(tmp_path):
    head = "name;frameTime;f0;f1\n"
    rows = "'unknown';0.000000;1.5;?\n\n'a;b';0.01;2;nan\n"
    with_header, without = read_csv(written(tmp_path, head + rows)), read_csv(written(tmp_path, rows))
    assert with_header.names == ("f0", "f1") and without.names == ("column_3", "column_4")
    for table in (with_header, without):
        assert [row.name for row in table.rows] == ["unknown", "a;b"]
        np.testing.assert_array_equal([row.vector for row in table.rows], [[1.5, np.nan], [2, np.nan]])
    table = read_csv(written(tmp_path, "Name;frameIndex;frameLength;f0;class\r\n000046280;0;2.5;7;Happy\r\n"))
    assert table.names == ("f0",) and table.rows[0][:2] == ("000046280", "Happy") and table.rows[0].vector == [7]


@pytest.mark.parametrize(("text", "line", "words"), [
    ("name;frameTime;f0\n'a';0;1\n'b';0\n", 3, "expected 3 values"),
    ("name;frameTime;f0\n", 1, "at least one row"),
    ("name;frameTime;f0\n'a';0;x\n", 2, "column 3: expected a number or '?', got 'x'"),
    ("f0\n1\n", 1, "separated by ';'"), ("'a;b'\n1\n", 1, "separated by ';'"),
    ("name;f0\na;1,5\n", 2, "column 2: expected a number or '?', got '1,5'"),            # a decimal comma
    ("name,f0\na,1,5\n", 2, "expected 2 values"),
    ("'a';0\n", 1, "numeric feature column"),
    ("\n\n'a;0;1\n", 3, "closing quote"),
    ("\n ", 1, "empty"),
])
def test_a_damaged_csv_is_named_with_its_line(tmp_path, text, line, words):
    refused(read_csv, written(tmp_path, text, "f.csv"), f" line {line}: ", words)


@pytest.mark.parametrize(("head", "row", "names", "name"), [
    (";name;F0", "0;a;1.5", ("F0",), "a"), ("Unnamed: 0;name;F0", "0;a;1.5", ("F0",), "a"),
    ("index,F0", "0,1.5", ("F0",), None), (",F0", "a.wav,1.5", ("F0",), "a.wav"),
    (",0,1", "a.wav,1.5,2", ("0", "1"), "a.wav"),
    ("name;0;1", "a;1.5;2", ("0", "1"), "a"), ("name;F0;", "a;1.5;", ("F0",), "a"), ("\tF0", "a\t1.5", ("F0",), "a"),
    ("file;start;end;F0", "a.wav;0.0;3.2;1.5", ("F0",), "a.wav"),
    ("file,start,end,F0", "/x/a.wav,0 days 00:00:00,0 days 00:00:03.2,1.5", ("F0",), "/x/a.wav"),
    ("\ufefffile,F0", '"a ""b"", c.wav",1.5', ("F0",), 'a "b", c.wav'),
    ("name,frameTime,F0", "'a, b',0,1.5", ("F0",), "a, b"),
    ("Frame_Time;Speaker ID;filename;F0;emotion", "0;7;a;1.5;Sad", ("F0",), "a"),
    ("subject;id;start time;Happy;fold;F0", "7;a;0;.1;2;1.5", ("F0",), "a"),
    ("start (s);end_s;#;idx;target;onset;t0;class_id;name;F0", "0;1;2;3;4;5;6;7;a;1.5", ("F0",), "a"),
    ("path,file_name,F0,index_of_dispersion,duration", "x/a.wav,a.wav,1.5,2,3", ("F0", "index_of_dispersion", "duration"),
     "a.wav"),
])
def test_bookkeeping_is_no_feature_and_what_is_skipped_is_told(tmp_path, head, row, names, name):
    table = read_csv(written(tmp_path, f"{head}\n{row}\n", "f.csv"))
    assert (table.names, table.rows[0].name, table.rows[0].vector[0]) == (names, name, 1.5)
    cells = len(head.split("\t" if "\t" in head else ";" if ";" in head else ","))
    assert len(table.skipped) == cells - len(names) - (name is not None) - ("emotion" in head)


def test_columns_of_arff_by_name_and_type(tmp_path):
    """Types with a range are numeric; a name may be nominal; dates and unknown types are told, not taken."""
    columns = [("F0 numeric [0,1]", ".5"), ("F1 real[0,2]", "1.5"), ("F2 INTEGER [1,9]", "3"), ("F3 NUMERIC{0,9}", "4"),
               ("file_name {a.wav,b.wav}", "b.wav"), ("speaker numeric", "7"), ("start real", "0"),
               ("when date", "2013-01-01"),
               ("'index' numeric", "1"), ("mood {Happy,Sad}", "Sad")]
    head = "".join(f"@attribute {column}\n" for column, _ in columns)
    table = read_arff(written(tmp_path, f"@relation r\n{head}@data\n{','.join(value for _, value in columns)}\n"))
    assert table.names == ("F0", "F1", "F2", "F3") and table.rows[0].vector.tolist() == [.5, 1.5, 3, 4]
    assert table.rows[0][:2] == ("b.wav", "Sad") and table.skipped == ("speaker", "start", "when", "index")


@pytest.mark.parametrize(("text", "name"), [
    (r"C:\clips\neutral_01.wav", r"C:\clips\neutral_01.wav"), (r"C:\\clips\\tom", r"C:\clips\tom"), (r"a\tb", "a\tb"),
    (r"C:\clips\%x", r"C:\clips\%x"), (r"\\\\server\\new", r"\\server\new"), (r"it\'s \% \n", "it's % \n")])
def test_a_text_with_backslashes_that_are_no_escapes_was_never_escaped(tmp_path, text, name):
    assert read_arff(written(tmp_path, f"{HEADER}'{text}',1,2,Sad\n")).rows[0].name == name


@pytest.mark.parametrize(("text", "is_one"), [
    ("name;F0\na;1\n", True), ("id;class\n", True), ("file,start,end,F0\na,0 days,0 days,1\n", True),
    ("file,loudness_sma3_amean,class\na,1,Sad\n", True), ("file\tframeTime\tF0\na\t0\t1\n", True),
    ("id,class,Angry,Disgust\na,Sad,.5,.5\n", False), ("file,start,end,emotion,rating\na,0,1,Sad,3\n", False),
    ("file,start,end,arousal\na,0,1,.3\n", False), ("frame,timestamp,AU01_r\n1,0.0,.3\n", False),
    ("start,end,transcript\n0,1,hello\n", False), ("file,duration\na,1\n", False), ("", False), ("text\n", False),
    ("'a,b\n", False)])
def test_which_tables_are_taken_for_features(text, is_one):
    assert is_feature_table(text) == is_one


def test_read_features_goes_by_suffix(tmp_path):
    assert read_features(written(tmp_path, HEADER + "a,1,2,Sad\n", "F.ARFF")).rows[0].name == "a"
    assert read_features(written(tmp_path, "name;frameTime;f0\na;0;1\n", "F.CSV")).rows[0].name == "a"
    refused(read_features, written(tmp_path, "x", "f.txt"), "suffix '.txt'")
    refused(read_features, tmp_path / "absent.arff", "no such file")
    (tmp_path / "folder.arff").mkdir()
    refused(read_features, tmp_path / "folder.arff", "expected a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.arff")
    refused(read_features, tmp_path / "pipe.arff", "expected a regular file")
    refused(read_features, written(tmp_path, "", "none.csv"), "empty")
    with open(tmp_path / "sparse.arff", "wb") as file:
        file.truncate(2**42)
    refused(read_features, tmp_path / "sparse.arff", "line 1: expected at most")


def test_what_a_feature_file_may_hold_is_bounded(tmp_path, monkeypatch):
    """Read line by line, so that no file takes more memory than its numbers."""
    tracemalloc.start()
    refused(read_arff, written(tmp_path, "@relation '" + "x" * 2**22), "line 1", "in a line")
    refused(read_arff, written(tmp_path, HEADER + "'" + "x" * (2**21 - 9) + "',1\n"), "expected 4 values")
    refused(read_csv, written(tmp_path, "a;" * 10**6, "f.csv"), "65536 columns")
    refused(read_arff, written(tmp_path, "%\n" * 2**17), "line 131072")
    assert tracemalloc.get_traced_memory()[1] < 3e8
    tracemalloc.stop()
    monkeypatch.setattr(opensmile, "MOST_VALUES", 500)
    refused(read_arff, written(tmp_path, HEADER + "a,1,2,Sad\n" * 50), "divide it")



def test_long_lines_of_quotes_and_blanks_take_no_time(tmp_path):
    """Patterns that backtrack would take minutes here."""
    for junk in (" " * 10**5, "'" * 10**5, "'\\" * 10**5, " '" * 10**5, "@attribute" + " " * 10**5 + "'"):
        for text in (HEADER + junk, "@relation " + junk, junk):
            with pytest.raises(DataError):
                read_arff(written(tmp_path, text))
