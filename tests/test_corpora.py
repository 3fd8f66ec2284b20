"""The corpora's own names: every name of their lists is read right, and each list is taken for its own corpus alone."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.clips import collect
from emonet_scratch.data.corpora import CORPORA, parse, pattern_of, recognise
from emonet_scratch.data.labels import classes_of
from emonet_scratch.emotions import CLASSES

BY_NAME = {corpus.name: corpus for corpus in CORPORA}
WORDS = ("back", "bar", "bite", "fall", "OAF", "ps", "sad", "Third", "young")         # of 200; all are letters


def ravdess():
    """Speech: no repetition is missing, neutral has no strong intensity; song: neither disgust nor surprise."""
    for modality, actor in product((1, 2, 3), range(1, 25)):
        for channel, emotions in ((1, range(1, 9)), (2, range(1, 7))):
            for emotion, intensity, statement, repetition in product(emotions, (1, 2), (1, 2), (1, 2)):
                if (emotion, intensity) != (1, 2):
                    fields = modality, channel, emotion, intensity, statement, repetition, actor
                    label = "Neutral Calm Happy Sad Angry Fear Disgust Surprise".split()[emotion - 1]
                    yield f"Actor_{actor:02}/" + "-".join(f"{k:02}" for k in fields), label, f"{actor:02}"


def crema_d():
    """7442 clips: 91 actors, 12 sentences, one of them in three levels; one name lacks its last letter."""
    means = {"ANG": "Angry", "DIS": "Disgust", "FEA": "Fear", "HAP": "Happy", "NEU": "Neutral", "SAD": "Sad"}
    sentences = "IEO TIE IOM IWW TAI MTI IWL ITH DFA ITS TSI WSI".split()
    for actor, sentence, code in product(range(1001, 1092), sentences, means):
        for level in ("LO", "MD", "HI", "XX"):
            short = (actor, sentence, code, level) == (1040, "ITH", "SAD", "XX")
            yield f"AudioWAV/{actor}_{sentence}_{code}_{'X' if short else level}", means[code], str(actor)


def savee(joint):
    means = {"a": "Angry", "d": "Disgust", "f": "Fear", "h": "Happy", "n": "Neutral", "sa": "Sad", "su": "Surprise"}
    for speaker, code in product(("DC", "JE", "JK", "KL"), means):
        for k in range(1, 31 if code == "n" else 16):
            yield f"{'ALL' if joint == '_' else 'AudioData'}/{speaker}{joint}{code}{k:02}", means[code], speaker


def emodb():
    means = {"W": "Angry", "L": "Boredom", "E": "Disgust", "A": "Fear", "F": "Happy", "T": "Sad", "N": "Neutral"}
    for speaker, text, code, version in product((3, *range(8, 17)), "a01 a02 a04 a05 a07 b01 b02 b03 b09 b10".split(), means,
                                                "abcdef"):
        yield f"wav/{speaker:02}{text}{code}{version}", means[code], f"{speaker:02}"


def tess(folder):
    """Folders are OAF_Pleasant_surprise, YAF_pleasant_surprised, OAF_Fear, YAF_fear, or none; one name lacks an F."""
    means = {"angry": "Angry", "disgust": "Disgust", "fear": "Fear", "happy": "Happy", "neutral": "Neutral",
             "ps": "Surprise", "sad": "Sad"}
    surprise = {"OAF": "Pleasant_surprise", "YAF": "pleasant_surprised"}
    for actress, word, code in product(("OAF", "YAF"), WORDS, means):
        before = f"{actress}_{surprise[actress] if code == 'ps' else code.title() if actress == 'OAF' else code}/" * folder
        name = f"{actress}_{word}_{code}".replace("OAF_bite_neutral", "OA_bite_neutral")
        yield before + name, means[code], actress


def java_sed():
    labels = "Neutral Sad Happy Surprise Fear Angry".split()
    for actor, sentence, emotion, repetition in product(range(1, 11), range(1, 11), range(1, 7), range(1, 4)):
        yield f"{actor:02}-{sentence:02}-{emotion:02}_{repetition:02}", labels[emotion - 1], f"{actor:02}"


LISTS = {"RAVDESS": [list(ravdess())], "CREMA-D": [list(crema_d())], "SAVEE": [list(savee("/")), list(savee("_"))],
         "EmoDB": [list(emodb())], "TESS": [list(tess(True)), list(tess(False))], "Java-SED": [list(java_sed())]}
EVERY = [(title, rows) for title, lists in LISTS.items() for rows in lists]


def test_the_lists_are_complete():
    sizes = {title: [len(rows) for rows in lists] for title, lists in LISTS.items()}
    assert sizes["RAVDESS"] == [3 * 24 * (60 + 44)] and sizes["SAVEE"] == [480, 480]
    assert set(LISTS) == set(BY_NAME) - {"AFEW"}


@pytest.mark.parametrize(("title", "rows"), EVERY)
def test_every_name_is_read_right(title, rows):
    corpus = BY_NAME[title]
    for name, label, group in rows:
        parts = parse(corpus.pattern, name)
        assert parts is not None and corpus.labels[parts["label"]] == label, name
        assert parts["group"] == ("OA" if "OA_bite" in name else group), name
    assert set(corpus.labels.values()) == {label for _, label, _ in rows}


@pytest.mark.parametrize(("title", "rows"), EVERY)
def test_a_list_is_recognised_as_its_own_corpus_alone(title, rows):
    names = [name for name, _, _ in rows]
    assert recognise(names) == (BY_NAME[title], len(names))
    bare = [name.rpartition("/")[2] for name in names] if rows is not LISTS["SAVEE"][0] else names
    assert recognise(bare) == (BY_NAME[title], len(names))
    for corpus in CORPORA:
        fits = sum(parse(corpus.pattern, name) is not None for name in names)
        assert fits == (len(names) if corpus.name == title else 0), corpus.name


@pytest.mark.parametrize(("title", "rows"), EVERY)
@pytest.mark.parametrize("suffix", [".wav", ".FLAC", ".mp4", ".flv"])
def test_from_files_on_the_disk_of_any_suffix(title, rows, suffix, tmp_path):
    rows = rows[::1 + len(rows) // 300]
    for name, _, _ in rows:
        path = tmp_path / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    data = collect([tmp_path])
    assert len(data.clips) == len(rows) and not data.problems
    found = {clip.path.relative_to(tmp_path).with_suffix("").as_posix(): clip for clip in data.clips}
    for name, label, group in rows:
        clip = found[name]
        assert (clip.label, clip.group, clip.corpus) == (label, f"{title} {group}", title)
    assert title in data.notes[0] and f"{len(rows)} of {len(rows)} names fit" in data.notes[0]
    assert BY_NAME[title].licence in data.notes[0] and BY_NAME[title].group in data.notes[0]


@given(st.sampled_from(EVERY), st.integers(1, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_half_of_the_names_are_enough(listed, known, foreign, random):
    title, rows = listed
    names = [name for name, _, _ in random.sample(rows, known)] + [f"x/take {k}" for k in range(foreign)]
    random.shuffle(names)
    assert recognise(names) == ((BY_NAME[title], known) if known >= foreign else None)


def test_no_names_and_strange_ones_are_no_corpus():
    assert recognise([]) is None and recognise(["readme", "a/b/c"]) is None
    for name in ("1001_DFA_ANG_XX2", "x1001_DFA_ANG_XX", "03-01-09-01-01-01-01", "03-01-01-01-01-01-01-01", "DCa01",
                 "XDC_a01", "DC/s01", "03a01Xa", "103a01Wa", "OAF_back_calm", "OAF_two words_sad", "1-1-07_1",
                 "1001_DFA_ANG_XX/x"):
        assert recognise([name]) is None, name


def test_of_two_corpora_in_one_folder_the_larger_is_taken():
    names = [name for name, _, _ in LISTS["EmoDB"][0][:6]] + [name for name, _, _ in LISTS["RAVDESS"][0][:4]]
    assert recognise(names) == (BY_NAME["EmoDB"], 6)


def test_every_row_of_the_table_is_filled():
    for corpus in CORPORA:
        assert all(corpus) and 2 <= len(classes_of(corpus.labels.values())) == len(corpus.labels)
        own = set(corpus.labels.values()) - set(CLASSES)
        assert own == {"RAVDESS": {"Calm"}, "EmoDB": {"Boredom"}}.get(corpus.name, set())


REAL = {"ravdess": ("RAVDESS", 960, 16, "Angry 128, Calm 128, Disgust 128, Fear 128, Happy 128, Neutral 64, Sad 128, "
                    "Surprise 128"),
        "emodb": ("EmoDB", 535, 10, "Angry 127, Boredom 81, Disgust 46, Fear 69, Happy 71, Neutral 79, Sad 62"),
        "java_sed": ("Java-SED", 192, 8, "Angry 32, Fear 32, Happy 32, Neutral 32, Sad 32, Surprise 32"),
        "crema_d": ("CREMA-D", 6, 1, "Angry 1, Disgust 1, Fear 1, Happy 1, Neutral 1, Sad 1")}


@pytest.mark.parametrize("folder", REAL)
def test_real_files(real_data, folder):
    title, count, groups, classes = REAL[folder]
    data = collect([real_data / folder], allow_shared_groups=folder == "crema_d")        # which are of one actress
    assert len(data.clips) == count and len({clip.group for clip in data.clips}) == groups and not data.problems
    have = [clip.label for clip in data.clips]
    assert ", ".join(f"{name} {have.count(name)}" for name in data.classes) == classes
    assert f"{title} (" in data.notes[0] and f"{count} of {count} names fit" in data.notes[0]


# ---- patterns that a user writes ----

@pytest.mark.parametrize(("pattern", "name", "parts"), [
    ("{group}-{}-{label}_{}", "07-02-03_1", {"group": "07", "label": "03"}),
    ("{group}-{}-{label}_{}", "deep/er/07-02-03_1", {"group": "07", "label": "03"}),
    ("{label}", "a/b c", {"label": "b c"}),
    ("{split}/{label}/{}", "x/Train/joy/1", {"split": "Train", "label": "joy"}),
    ("{label}/{group}.{}", "joy/ann.1.2", {"label": "joy", "group": "ann"}),
    ("({label})[{group}]*", "(joy)[ann]*", {"label": "joy", "group": "ann"}),
    ("{label}_{}", "joy_", {"label": "joy"}),
    ("{label}-{group}", "грусть-Аня", {"label": "грусть", "group": "Аня"}),
    ("{group}_{label}", "OA_YA", {"group": "OA", "label": "YA"}),
    ("{group}-{label}", "-joy", None),
    ("{split}/{label}/{}", "joy/1", None),
    ("{group}_{label}", "joy", None)])
def test_patterns(pattern, name, parts):
    assert parse(pattern_of(pattern), name) == parts


@given(st.dictionaries(st.sampled_from(["label", "group", "split"]), st.text("ab7é ё.", min_size=1), min_size=1),
       st.permutations(["label", "group", "split"]), st.lists(st.text("xyz", max_size=2), min_size=4, max_size=4))
def test_what_is_written_into_a_pattern_is_read_out_of_it(parts, order, rest):
    parts = {"label": "l"} | parts
    words = [word for word in order if word in parts]
    pattern = "{}+" + "+".join(f"{{{word}}}" for word in words) + "+{}"
    name = rest[0] + "+" + "+".join(parts[word] for word in words) + "+" + rest[1]
    assert parse(pattern_of(pattern), f"folder/{name}") == parts


@pytest.mark.parametrize(("pattern", "word"), [("{group}_{}", "{label}"), ("", "{label}"), ("{label}{label}", "twice"),
                                               ("{label}_{group}_{group}", "twice"), ("{emotion}", "{emotion}"),
                                               ("{Label}", "{Label}"), ("{label}_{1}", "{1}")])
def test_patterns_that_are_refused(pattern, word):
    with pytest.raises(ValueError, match="expected") as caught:
        pattern_of(pattern)
    assert word in str(caught.value)


def test_afew_is_known_by_its_numbers_in_folders_of_classes(tmp_path):
    for k, name in enumerate(BY_NAME["AFEW"].labels.values()):
        for split in ("Train_AFEW", "Val_AFEW"):
            path = tmp_path / split / name / f"{k:05}{len(split):04}.avi"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x")
    data = collect([tmp_path])
    assert data.notes == (f"{str(tmp_path)!r}: AFEW's layout, 14 clips",)
    assert recognise([clip.path.relative_to(tmp_path).with_suffix("").as_posix() for clip in data.clips]) == (
        BY_NAME["AFEW"], 14) and {clip.group for clip in data.clips} == {""}
    assert [clip.label for clip in data.split("train")] == list(BY_NAME["AFEW"].labels)
