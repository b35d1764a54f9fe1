"""Text to phonemes: against Kokoro's own pipeline, misaki's dictionary and hand labels."""

import dataclasses
import json
import random
import re
import socket
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest

from kvw.errors import TextError
from kvw.text import (
    DEFAULT_OTHER_TEXT,
    DEFAULT_TARGET_TEXT,
    LANGUAGES,
    MAX_PHONEMES,
    Phonemes,
    Phonemizer,
    clean,
    import_kokoro,
    quiet_kokoro,
    read_text,
)

LABELS = Path(__file__).parent / "data" / "pronunciations.json"
STORY = (
    "The old lighthouse stood at the end of a narrow road; nobody had lived there for years. "
    'When the wind rose, the keeper\'s daughter said, "It sounds like an organ," and closed the '
    "shutters. She had read of storms that lasted a week: this one, she thought, would be over by "
    "Sunday, at 10:30 a.m. or so. It cost her $3.50 to send a letter, and the answer never came. "
)


@pytest.fixture(scope="module")
def no_network():
    """Any connection, and spaCy's download, fail."""
    import spacy.cli  # noqa: F401 (there to be patched)

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was used: {args}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr("spacy.cli.download", refuse)
        yield


@pytest.fixture(scope="module")
def offline(no_network):
    """American English as it is without spaCy's model, installed or not."""
    import spacy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spacy.util, "is_package", lambda name: False)
        return Phonemizer("a")


@pytest.fixture(scope="module")
def spanish(no_network):
    return Phonemizer("es")


def engine_of(phonemizer):
    return phonemizer._pipeline.g2p


def letters(phonemes):
    return re.sub(r"\s", "", phonemes)


# Chunks.


def kokoro_pipeline(lang_code, engine):
    """Kokoro's pipeline as its constructor makes it, with our engine in the place of its own."""
    kokoro = import_kokoro()
    pipeline = kokoro.KPipeline("es", repo_id="hexgrad/Kokoro-82M", model=False)
    pipeline.lang_code = lang_code
    pipeline.g2p = engine
    return pipeline


def test_chunks_of_a_long_english_text_are_kokoros(offline):
    text = STORY * 9
    assert len(text) > 3000
    expected = [result.phonemes for result in kokoro_pipeline("a", engine_of(offline))(text)]
    assert len(expected) > 5
    assert list(offline.phonemize(text).chunks) == expected


def test_chunks_of_a_long_spanish_text_are_kokoros(spanish):
    text = "El faro estaba al final del camino. ¿Quién vivía allí? Nadie lo sabía, dijo ella. " * 30
    expected = [result.phonemes for result in kokoro_pipeline("e", engine_of(spanish))(text)]
    assert max(map(len, expected)) < MAX_PHONEMES, "Kokoro cuts none of these off"
    assert list(spanish.phonemize(text).chunks) == expected


@pytest.mark.parametrize(
    "text",
    [
        "supercalifragilistic" * 100,
        "bcdfg" * 400,
        "word-" * 400,
        "word—" * 400,
        "no punctuation at all in a text that goes on and on and on and on " * 40,
        "1234567890" * 60,
        "9," * 400,
        "0f1e2d3c4b5a" * 40,
    ],
)
def test_nothing_of_an_awful_text_is_lost_and_all_of_it_fits(offline, text):
    chunks = offline.phonemize(text).chunks
    assert all(1 <= len(chunk) <= MAX_PHONEMES for chunk in chunks)
    assert len(chunks) > 1
    spoken = "".join(map(letters, chunks))
    # The engine on bites that it takes: nothing of those is missing from the whole.
    for word, count in (("word", 400), ("punctuation", 40)):
        if word in text:
            phonemes = letters(engine_of(offline)(word)[0]).replace("ˈ", "").replace("ˌ", "")
            assert spoken.replace("ˈ", "").replace("ˌ", "").count(phonemes) == count


def test_each_letter_of_an_endless_word_is_spoken(offline):
    chunks = offline.phonemize("x" * 2000).chunks
    assert sum(chunk.count("ɛks") for chunk in chunks) == 2000


def test_a_sentence_that_kokoro_cuts_off_goes_on_in_another_chunk(spanish):
    text = "una palabra más y " * 60 + "fin"
    [cut_off] = [result.phonemes for result in kokoro_pipeline("e", engine_of(spanish))(text)]
    assert len(cut_off) == MAX_PHONEMES
    chunks = spanish.phonemize(text).chunks
    assert len(chunks) > 1
    assert all(len(chunk) <= MAX_PHONEMES for chunk in chunks)
    assert letters("".join(chunks)) == letters(engine_of(spanish)(text)[0])


def test_every_text_that_ends_in_a_chunk_of_510_is_complete(spanish):
    # One character more at a time, over the limit: at no length is one lost.
    for n in range(80, 96):
        text = "casa, " * n
        whole = letters(engine_of(spanish)(text.strip())[0])
        assert letters("".join(spanish.phonemize(text).chunks)) == whole


def test_paragraphs_are_chunks_of_their_own_but_lines_are_not(offline):
    wrapped = "The lighthouse stood at the end of\na narrow road.\n\n\nNobody lived\r\nthere."
    joined = ["The lighthouse stood at the end of a narrow road.", "Nobody lived there."]
    expected = tuple(offline.phonemize(paragraph).chunks[0] for paragraph in joined)
    assert offline.phonemize(wrapped).chunks == expected


def test_a_paragraph_of_punctuation_alone_is_no_chunk(offline):
    assert offline.phonemize("One.\n\n* * *\n\n...\n\nTwo.").chunks == ("wˈʌn.", "tˈu.")


# Cleaning.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a  b\tc\u00a0d", "a b c d"),
        ("\ufeffone", "one"),
        ("one\ntwo\r\nthree\rfour", "one two three four"),
        ("one\n \t\ntwo", "one\n\ntwo"),
        ("a well-\nknown man", "a well-known man"),
        ("so -\nthere", "so - there"),
        ("don’t ‘say’", "don't 'say'"),
        ("“keep” — these… – too", "“keep” — these… – too"),
        ("yes--no---maybe", "yes—no—maybe"),
        ("rule ------ rule", "rule ------ rule"),
        ("re\u00adso\u200blution", "resolution"),
        ("cafe\u0301", "café"),
        ("fine 😀👍🏽 ❤️ 👩‍🚀 done", "fine done"),
        ("10 °C ™", "10 °C ™"),
        ("क्\u200dष", "क्\u200dष"),
    ],
)
def test_cleaning(text, expected):
    assert clean(text) == expected
    assert clean(expected) == expected


def test_cleaned_text_is_composed_and_cleaning_again_changes_nothing():
    awful = "a\u0301--b\u2028\u2029c\n\n\n d‘’\n-\ne -\nf\x00\x85g 😀\u200d😀\u00ad-\u00ad-x"
    cleaned = clean(awful)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert clean(cleaned) == cleaned


def test_curly_and_straight_apostrophes_sound_the_same(offline):
    straight = "I don't think it's the cat's. They'd say so, wouldn't they?"
    curly = straight.replace("'", "’")
    assert offline.phonemize(curly).chunks == offline.phonemize(straight).chunks


def test_phonemizing_the_stored_text_gives_the_same(offline):
    spoken = offline.phonemize("Two “lines”\nof one--\n\nand another.")
    assert offline.phonemize(spoken.text) == spoken


# English without spaCy's model.


def test_the_engine_says_what_it_is(offline):
    spoken = offline.phonemize(DEFAULT_OTHER_TEXT)
    assert (spoken.g2p, spoken.lang_code) == ("misaki offline", "a")
    assert spoken.text == DEFAULT_OTHER_TEXT


def test_spacys_model_is_used_where_it_is_installed(monkeypatch):
    """A stand-in for misaki's G2P, since the model is no dependency."""
    import spacy
    from misaki import en

    class Stub:
        def __init__(self, **options):
            assert spacy.util.is_package("en_core_web_sm")
            self.options = options

        def __call__(self, text):
            token = en.MToken(text=text, tag="NN", whitespace="", phonemes="stˈʌb")
            return "stˈʌb", [token]

    monkeypatch.setattr(spacy.util, "is_package", lambda name: name == "en_core_web_sm")
    monkeypatch.setattr(en, "G2P", Stub)
    phonemizer = Phonemizer("en-gb")
    assert phonemizer.g2p == "misaki en_core_web_sm"
    assert phonemizer.phonemize("anything").chunks == ("stˈʌb",)
    options = engine_of(phonemizer).options
    assert (options["trf"], options["british"], options["unk"]) == (False, True, "")
    assert options["fallback"] is not None


def test_the_default_texts_in_phonemes(offline):
    # Written down once and read aloud; one chunk each.
    [target] = offline.phonemize(DEFAULT_TARGET_TEXT).chunks
    assert target == (
        "ði ˈOld lˈIthˌWs kˈipəɹ nˈɛvəɹ ɪmˈæʤᵊnd ðæt wˈʌn dˈA hid bi ɡˈIdɪŋ ʃˈɪps fɹʌm ðə kˈʌmfəɹt "
        "ʌv hɪz lˈɪvɪŋ ɹˈum, bˌʌt wɪð mˈɑdəɹn tɛknˈɑləʤi ænd ɐn əɹˈA ʌv kˈæməɹəz, hi dˈɪd ʤˈʌst "
        "ðˈæt, sˈɪpɪŋ tˈi wˌIl ðə stˈɔɹm ɹˈAʤd ˌWtsˈId ænd ɡˈʌlz ʃɹˈikt ˈOvəɹhˌɛd."
    )
    [other] = offline.phonemize(DEFAULT_OTHER_TEXT).chunks
    assert "ˈɔfᵊn jˈuzd ɪn klˈæsɹˌumz" in other


def test_hand_labelled_pronunciations(offline):
    sentences = json.loads(LABELS.read_text(encoding="utf-8"))["sentences"]
    wrong, total = [], 0
    for sentence in sentences:
        _, tokens = engine_of(offline)(sentence["text"])
        left = iter(tokens)
        for word, expected in sentence["words"]:
            total += 1
            if word[0] in "$£":  # spaCy's tokens: the sign, which is silent, and the amount
                next(token for token in left if token.text == word[0])
                found = next(left)
            else:
                found = next(token for token in left if token.text == word)
            if found.phonemes != expected:
                wrong.append((sentence["text"], word, expected, found.phonemes))
    assert total > 250
    # spaCy's en_core_web_sm gets 94.3 % of these.
    assert 1 - len(wrong) / total >= 0.98, wrong


FRAMES = [
    ("They wanted to {} it.", "VERB", False),
    ("They will {} it.", "VERB", False),
    ("We did not {} it.", "VERB", False),
    ("She never {} it.", "VERB", True),
    ("The machine {} the rest.", "VERB", True),
    ("The {} of it was small.", "NOUN", None),
    ("My brother saw the {}.", "NOUN", None),
    ("There is no {} in that.", "NOUN", None),
]


@pytest.mark.parametrize(("frame", "word_class", "with_s"), FRAMES)
def test_the_dictionarys_heteronyms_in_plain_sentences(offline, frame, word_class, with_s):
    """A property over misaki's dictionary: "to X it" is a verb, "the X of it" a noun."""
    engine = engine_of(offline)
    right = total = 0
    for word, forms in engine.lexicon.golds.items():
        if isinstance(forms, str) or not (word.islower() and word.isalpha()):
            continue
        if not {"NOUN", "VERB"} & set(forms) or word in ("content", "contents"):
            continue  # "content" has no verb of the other stress in use
        if with_s is not None and word.endswith("s") != with_s:
            continue
        expected = forms.get(word_class, forms["DEFAULT"]).replace("ɾ", "T")
        _, tokens = engine(frame.format(word))
        total += 1
        right += [token.phonemes for token in tokens if token.text == word] == [expected]
    assert total > 250
    assert right / total > 0.97


def test_numbers_currency_and_signs(offline):
    def same(written, spoken):
        [written_chunk] = offline.phonemize(written).chunks
        [spoken_chunk] = offline.phonemize(spoken).chunks
        without_stress = str.maketrans("", "", "ˈˌ ")
        assert written_chunk.translate(without_stress) == spoken_chunk.translate(without_stress)

    same("$3.50", "three dollars and fifty cents")
    same("$5 million", "five million dollars")
    same("£1", "one pound")
    same("1,234", "one thousand two hundred thirty four")
    same("-5", "minus five")
    same("50%", "fifty percent")
    same("the 21st", "the twenty first")
    same("in 1984", "in nineteen eighty four")
    same("A & B", "A and B")
    same("cats vs. dogs", "cats versus dogs")


def test_quotes_dashes_and_brackets_reach_kokoro(offline):
    [chunk] = offline.phonemize('He said "hi" (twice) - and left; why?').chunks
    assert "“hˈI”" in chunk
    assert "(twˈIs)" in chunk
    assert " — " in chunk
    assert ";" in chunk
    assert chunk.endswith("?")


def test_an_apostrophe_is_no_quote(offline):
    [chunk] = offline.phonemize("The dogs' bowls and James' car: rock 'em.").chunks
    assert not set("“”\"'") & set(chunk)


def test_words_in_capitals(offline):
    def say(text, word):
        return next(t.phonemes for t in engine_of(offline)(text)[1] if t.text == word)

    assert say("The US won.", "US") == "jˌuˈɛs"
    assert say("Tell us more.", "us") == "ˌʌs"
    assert say("TELL US MORE ABOUT IT NOW.", "US") == "ˈʌs"
    assert say("We met at 9 AM sharp.", "AM") == "ˌAˈɛm"
    assert say("I was NEVER TESTED.", "TESTED") == say("I was tested.", "tested")


def test_words_are_not_run_into_one_by_a_slash(offline):
    [chunk] = offline.phonemize("program/site").chunks
    assert " " in chunk


def test_a_pronunciation_can_be_given(offline):
    assert offline.phonemize("[Kokoro](/kˈOkəɹO/) speaks.").chunks[0].startswith("kˈOkəɹO ")


def test_the_tagger_tags_every_token_whatever_comes(offline):
    """Every tag is a known one, for each token that occurs, in any order."""
    tags = set(
        re.findall(
            r"\S+",
            "DT PRP PRP$ NN NNS NNP TO MD VB VBP VBZ VBD VBN VBG CC WP WDT WRB EX UH RB RP IN CD "
            "SYM JJ POS HYPH NFP FW ADD $ # . , : -LRB- -RRB- `` ''",
        )
    )
    words = re.findall(
        r"\S+",
        "a A I that used to in read wound close 's n't US $5 3rd - -- … \" ' ( ] * x/y the content "
        "lives use uses records live he they house's and who 1.5 % & . , ? ! ; É #1 “ ” :",
    )
    dice = random.Random(0)  # noqa: S311
    for _ in range(300):
        text = dice.choice(["", " "]).join(dice.choices(words, k=dice.randrange(1, 14)))
        document = engine_of(offline).nlp(clean(text))
        assert {token.tag_ for token in document} <= tags, text


# Other languages.


@pytest.mark.parametrize(
    ("lang_code", "text", "expected"),
    [
        ("e", "Hola mundo.", "ˈola mˈundo."),
        ("fr-fr", "Bonjour le monde.", "bɔ̃ʒˈuʁ lə mˈɔ̃d."),
        ("hi", "नमस्ते दुनिया।", "nəmˈʌsteː dˈʊnɪjˌaː"),
        ("i", "Ciao mondo.", "ʧˈao mˈondo."),
        ("pt-br", "Olá mundo.", "olˈa mˈũŋdʊ."),
    ],
)
def test_other_languages_by_espeak(no_network, lang_code, text, expected):
    spoken = Phonemizer(lang_code).phonemize(text)
    [chunk] = spoken.chunks
    assert unicodedata.normalize("NFC", chunk) == unicodedata.normalize("NFC", expected)
    assert spoken.g2p == "espeak"
    assert spoken.lang_code in LANGUAGES


def test_british_english_is_not_american(offline, no_network, monkeypatch):
    import spacy

    monkeypatch.setattr(spacy.util, "is_package", lambda name: False)
    british = Phonemizer("b")
    [chunk] = british.phonemize("I bathe in the bath.").chunks
    assert "bˈɑːθ" in chunk
    assert "bˈæθ" in offline.phonemize("I bathe in the bath.").chunks[0]


def test_the_languages_are_kokoros():
    from kokoro.pipeline import ALIASES, LANG_CODES

    assert set(LANGUAGES) == set(LANG_CODES)
    from kvw.text import _ALIASES

    assert _ALIASES == ALIASES


# Errors: one sentence each.


def error_of(call, *args):
    with pytest.raises(TextError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.endswith((".", '"')), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_text(offline, text):
    assert "it is empty" in error_of(offline.phonemize, text)


@pytest.mark.parametrize("text", ["...", "😀 🎉", "—", "?!", "* * *", "\u200b", "$"])
def test_a_text_without_a_word(offline, spanish, text):
    assert "no word to speak in American English" in error_of(offline.phonemize, text)
    if text not in ("$", "* * *"):  # espeak says "dólar", "asterisco"
        assert "no word to speak in Spanish" in error_of(spanish.phonemize, text)


def test_an_unknown_language_lists_the_known():
    message = error_of(Phonemizer, "klingon")
    assert "'klingon'" in message
    assert all(f"{code} ({name})" in message for code, name in LANGUAGES.items())


@pytest.mark.parametrize(("lang_code", "extra"), [("j", "ja"), ("zh", "zh")])
def test_a_language_whose_extra_is_missing(monkeypatch, lang_code, extra):
    monkeypatch.setitem(sys.modules, f"misaki.{extra}", None)  # as if it could not be imported
    message = error_of(Phonemizer, lang_code)
    assert f'pip install "misaki[{extra}]"' in message
    assert LANGUAGES[lang_code[0]] in message


def test_espeak_that_cannot_start(monkeypatch):
    from misaki import espeak

    def fail(*args, **kwargs):
        raise RuntimeError("espeak not installed on your system")

    monkeypatch.setattr(espeak, "EspeakFallback", fail)
    assert "reinstall espeakng-loader" in error_of(Phonemizer, "a")
    monkeypatch.setattr(espeak, "EspeakG2P", fail)
    assert "Italian" in error_of(Phonemizer, "i")


def test_a_model_of_spacy_that_does_not_load(monkeypatch):
    import spacy

    def fail(*args, **kwargs):
        raise OSError("[E053] config.cfg not found")

    monkeypatch.setattr(spacy.util, "is_package", lambda name: True)
    monkeypatch.setattr(spacy, "load", fail)
    assert "en_core_web_sm is installed but cannot be loaded" in error_of(Phonemizer, "a")


# Stored phonemes.


def test_phonemes_survive_json(offline):
    spoken = offline.phonemize(STORY * 3)
    stored = json.loads(json.dumps(spoken.to_dict()))
    assert Phonemes.from_dict(stored) == spoken
    assert len(spoken.chunks) > 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spoken.text = "other"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"chunks": "abc"}, "list of strings"),
        ({"chunks": [1]}, "list of strings"),
        ({"chunks": []}, "there is none"),
        ({"chunks": ["a", ""]}, "there is one of 0"),
        ({"chunks": ["a" * 511]}, "there is one of 511"),
        ({"text": None}, "string as text"),
        ({"g2p": 3}, "string as g2p"),
        ({"lang_code": "k"}, "'k' is unknown"),
    ],
)
def test_damaged_phonemes(change, part):
    values = {"text": "a", "chunks": ["ɐ"], "g2p": "espeak", "lang_code": "a", **change}
    assert part in error_of(Phonemes.from_dict, values)


# Text arguments.


def test_a_text_is_itself():
    assert read_text("Hello there.", "The target text") == "Hello there."


@pytest.mark.parametrize("content", [b"Caf\xc3\xa9.\n", b"\xef\xbb\xbfCaf\xc3\xa9.\n"])
def test_a_txt_file_is_read(tmp_path, content):
    path = tmp_path / "words.TXT"
    path.write_bytes(content)
    assert read_text(f" {path} ", "The target text").strip() == "Café."


def test_text_files_that_cannot_be_read(tmp_path):
    def message(content=None):
        if content is not None:
            path.write_bytes(content)
        text = error_of(read_text, str(path), "The other text")
        assert text.startswith(f"The other text is to be read from {path}")
        return text

    path = tmp_path / "words.txt"
    assert "no such file" in message()
    assert "is empty" in message(b" \n")
    assert "UTF-8" in message(b"caf\xe9")
    assert "binary" in message(b"MZ\x00\x00")
    path = tmp_path / "folder.txt"
    path.mkdir()
    assert "folder" in message()
    path = tmp_path / f"{'long' * 100}.txt"
    assert "cannot be read" in message()
    assert "must not be empty" in error_of(read_text, " ", "The other text")


# Importing Kokoro.


def test_kokoros_import_leaves_loguru_alone(monkeypatch, capsys):
    from loguru import logger

    import_kokoro()
    heard: list[str] = []
    sink = logger.add(heard.append, format="{message}")
    try:
        before = repr(logger)  # lists the handlers
        monkeypatch.delitem(sys.modules, "kokoro")  # so that its __init__ runs once more
        kokoro = import_kokoro()
        assert kokoro.__name__ == "kokoro"
        assert repr(logger) == before
        logger.info("still here")
        assert [str(message).strip() for message in heard] == ["still here"]
        another = logger.add(heard.append)  # the logger's own methods are back
        logger.remove(another)
        assert repr(logger) == before
    finally:
        logger.remove(sink)
    assert capsys.readouterr().out == ""


def test_another_thread_may_log_while_kokoro_is_imported(tmp_path):
    """With a small package in Kokoro's place, whose import calls the application."""
    (tmp_path / "kokoro.py").write_text(
        "from loguru import logger\nimport application\nlogger.remove()\nlogger.add(print)\n"
        "application.use()\n"
    )
    (tmp_path / "application.py").write_text(
        "from loguru import logger\nheard = []\n"
        "def use():\n    logger.remove(logger.add(lambda message: None))\n"
        "    logger.add(heard.append, format='{message}')\n"
    )
    script = (
        "import sys, application; from kvw.text import import_kokoro; import_kokoro()\n"
        "from loguru import logger; logger.info('x'); print(len(application.heard))\n"
        "assert 'torch' not in sys.modules and 'spacy' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"},
    )
    assert run.stdout == "1\n"  # by application, and not by the package's print
    assert "x" in run.stderr  # by loguru's own handler, which is still there


def test_only_kokoros_known_warnings_are_silenced():
    import torch

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet_kokoro():
            torch.nn.LSTM(2, 2, dropout=0.5)
            torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["something else"]


def test_phonemizing_prints_nothing(no_network, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Phonemizer("f").phonemize("Un très long texte, sans fin et sans point " * 60)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
