"""Text to phonemes: read a text argument, clean it, turn it once into chunks that Kokoro can speak.

Knows Kokoro's grapheme-to-phoneme engines (misaki for English, Japanese and Chinese, espeak-ng for
the other languages) and Kokoro's chunking, which it runs rather than copies. Knows nothing of
voices, models or audio, and never touches the network: where spaCy's `en_core_web_sm` is not
installed, English is tagged by the rules of `kvw.tagger`.

What happens to a text, in this order:

1. It is cleaned (`clean`): Unicode NFC, straight apostrophes, "--" to a dash, no emoji. The lines
   of a paragraph are joined; a blank line starts a new paragraph.
2. Each paragraph is phonemized and chunked by Kokoro's own pipeline: English at the last sentence
   end (else colon, else comma) that keeps a chunk within 510 phonemes, other languages in pieces of
   up to 400 letters. Chunks never span paragraphs.
3. Where Kokoro would cut a chunk off at 510 phonemes (a giant word, a long sentence outside
   English), the rest becomes a chunk of its own instead of being lost. Only there can the number of
   chunks exceed Kokoro's. Chunks of punctuation alone are left out: there is nothing to speak.
   Endless words and numbers, which the engines themselves cut off, are broken by spaces first.
"""

import inspect
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from kvw.errors import TextError
from kvw.tagger import tag_paragraph

MAX_PHONEMES = 510
"""Phoneme characters in one chunk: a Kokoro voice has one row for each length from 1 to this."""

LANGUAGES: Mapping[str, str] = {
    "a": "American English",
    "b": "British English",
    "e": "Spanish",
    "f": "French",
    "h": "Hindi",
    "i": "Italian",
    "j": "Japanese",
    "p": "Brazilian Portuguese",
    "z": "Mandarin Chinese",
}
"""Kokoro's language codes and what they stand for."""

_ALIASES = {
    "en-us": "a",
    "en-gb": "b",
    "es": "e",
    "fr-fr": "f",
    "hi": "h",
    "it": "i",
    "ja": "j",
    "pt-br": "p",
    "zh": "z",
}
# Those with an engine of misaki's own, under the name of its pip extra.
_EXTRAS = {"j": "ja", "z": "zh"}

# KVoiceWalk's example sentence for its example recording, and its default for the second text.
DEFAULT_TARGET_TEXT = (
    "The old lighthouse keeper never imagined that one day he'd be guiding ships from the comfort "
    "of his living room, but with modern technology and an array of cameras, he did just that, "
    "sipping tea while the storm raged outside and gulls shrieked overhead."
)
DEFAULT_OTHER_TEXT = (
    "If you mix vinegar, baking soda, and a bit of dish soap in a tall cylinder, the resulting "
    "eruption is both a visual and tactile delight, often used in classrooms to simulate volcanic "
    "activity on a miniature scale."
)


@dataclass(frozen=True)
class Phonemes:
    """A text as Kokoro hears it.

    Attributes:
        text: The cleaned text (see `clean`).
        chunks: At least one; each 1 to 510 phoneme characters with something to speak in it.
        g2p: The engine that made them, such as "misaki en_core_web_sm", "misaki offline" or
            "espeak". Engines differ in some words, and scores are only comparable between equal
            phonemes: keep these with a run instead of making them again.
        lang_code: Kokoro's one-letter language code.
    """

    text: str
    chunks: tuple[str, ...]
    g2p: str
    lang_code: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "text": self.text,
            "chunks": list(self.chunks),
            "g2p": self.g2p,
            "lang_code": self.lang_code,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Phonemes":
        """The inverse of `to_dict`.

        Raises:
            TextError: A field is missing or of another type, the language is unknown, or a chunk is
                empty or longer than 510 characters.
        """
        chunks = values.get("chunks")
        if not isinstance(chunks, list) or not all(isinstance(chunk, str) for chunk in chunks):
            raise TextError(
                f"Stored phonemes need a list of strings as chunks, but it is {chunks!r}."
            )
        bad = [len(chunk) for chunk in chunks if not 1 <= len(chunk) <= MAX_PHONEMES]
        if bad or not chunks:
            came = f"one of {bad[0]}" if bad else "none"
            raise TextError(
                f"Stored phonemes need chunks of 1 to {MAX_PHONEMES} characters; there is {came}."
            )
        texts = {key: values.get(key) for key in ("text", "g2p", "lang_code")}
        for key, value in texts.items():
            if not isinstance(value, str):
                raise TextError(f"Stored phonemes need a string as {key}, but it is {value!r}.")
        return cls(
            text=str(texts["text"]),
            chunks=tuple(chunks),
            g2p=str(texts["g2p"]),
            lang_code=_language(str(texts["lang_code"])),
        )


class Phonemizer:
    """Turns texts of one language into phonemes.

    Construction loads the language's engine: seconds for the imports the first time in a process,
    below a second afterwards. A text costs milliseconds.

    English text may carry misaki's own notation for a pronunciation: `[Kokoro](/kˈOkəɹO/)`.

    Attributes:
        lang_code: Kokoro's one-letter code.
        g2p: Name of the engine, as kept in `Phonemes.g2p`.
    """

    def __init__(self, lang_code: str = "a") -> None:
        """Loads the engine of a language.

        Args:
            lang_code: A key of `LANGUAGES`, or a name Kokoro takes for one ("en-us", "es", ...).

        Raises:
            TextError: The language is unknown, or a package that it needs is missing or broken.
        """
        self.lang_code = _language(lang_code)
        kokoro = import_kokoro()
        with quiet_kokoro():
            if self.lang_code in "ab":
                engine, self.g2p = _english_engine(british=self.lang_code == "b")
                # KPipeline's constructor would make its own engine, which downloads spaCy's model
                # where that is missing; the chunking needs these three attributes alone.
                self._pipeline = kokoro.KPipeline.__new__(kokoro.KPipeline)
                self._pipeline.lang_code = self.lang_code
                self._pipeline.model = None
                self._pipeline.g2p = engine
            else:
                self._pipeline = _foreign_pipeline(kokoro, self.lang_code)
                extra = _EXTRAS.get(self.lang_code)
                self.g2p = f"misaki {extra}" if extra else "espeak"

    def phonemize(self, text: str) -> Phonemes:
        """Phonemes of `text`, in chunks that a voice has a row for.

        Raises:
            TextError: The text is empty, or has nothing to speak in it.
        """
        if not text.strip():
            raise TextError("A text to speak was expected, but it is empty.")
        cleaned = clean(text)
        whole = self._kokoro_chunks(cleaned)
        chunks = tuple(
            piece for chunk in whole for piece in _split(chunk) if any(c.isalpha() for c in piece)
        )
        if not chunks:
            raise TextError(
                f"The text {_quoted(text)} has no word to speak in {LANGUAGES[self.lang_code]}."
            )
        return Phonemes(text=cleaned, chunks=chunks, g2p=self.g2p, lang_code=self.lang_code)

    def _kokoro_chunks(self, text: str) -> Iterator[str]:
        """Kokoro's chunks before it cuts off what exceeds 510 phonemes."""
        if self.lang_code not in "jz":  # these write no spaces
            text = _break_endless(text)
        for result in self._pipeline(text):
            if result.tokens is not None:
                yield self._pipeline.tokens_to_ps(result.tokens)
            elif len(result.phonemes) < MAX_PHONEMES:
                yield result.phonemes
            else:  # perhaps cut off; the engine is deterministic
                yield self._pipeline.g2p(result.graphemes)[0]


def clean(text: str) -> str:
    """The text as it is phonemized; cleaning it again changes nothing.

    Unicode is composed (NFC). Single newlines become spaces, since a .txt file is often wrapped at
    some column and Kokoro would end a chunk, and so a sentence, at each; a word broken at a hyphen
    is joined at it; blank lines separate paragraphs. Curly apostrophes and single quotes become
    straight (spaCy's model loses the "n’t" of a curly "don’t"); curly double quotes and dashes
    stay, since Kokoro has symbols for them. Emoji are left out: engines read their long names.
    """
    text = unicodedata.normalize("NFC", text)
    text = _EMOJI.sub(" ", text)
    text = _INVISIBLE.sub("", text)
    text = text.translate(_STRAIGHT)
    text = re.sub(r"(?<!-)-{2,3}(?!-)", "—", text)
    lines = [" ".join(line.split()) for line in re.split(r"\r\n|[\n\r\x0b\x0c\x85\u2028]", text)]
    paragraphs = "\n".join(lines).replace("\u2029", "\n\n")
    return "\n\n".join(
        " ".join(re.sub(r"(?<=\w)-\n(?=\w)", "-", paragraph).split())
        for paragraph in re.split(r"\n{2,}", paragraphs)
        if paragraph.strip()
    )


# Pictures and their modifiers; the signs below U+2600 (degree, trademark, arrows) are read aloud.
_EMOJI = re.compile(
    "[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\U000e0020-\U000e007f\ufe0e\ufe0f\u20e3]\u200d?"
)
# Byte order mark, soft hyphen, zero-width space, word joiner, direction marks, and control
# characters but tab and line ends. The zero-width joiners stay: Hindi needs them.
_INVISIBLE = re.compile(
    "[\ufeff\u00ad\u200b\u2060\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
# Words without end, with what may hold them together but is no pause.
_ENDLESS = re.compile(r"[^\s.,:;!?…—–]{51,}|\d[\d.,]{50,}")
_SPELLED = re.compile(r"[b-df-hj-np-tv-z]{15}(?=[b-df-hj-np-tv-z])", re.IGNORECASE)
_STRAIGHT = str.maketrans(dict.fromkeys("‘’‛ʼ", "'"))


def read_text(value: str, what: str) -> str:
    """The text that a flag or setting names: itself, or the content of a .txt file.

    For what the user of this computer writes, not for text that comes over a network: that could
    name any file.

    Args:
        value: A text, or the path of a UTF-8 file whose name ends in .txt.
        what: What the text is for, to begin an error with: "The target text".

    Raises:
        TextError: The file is missing, a directory, not UTF-8 text, or there is nothing in it; or
            the value itself is blank.
    """
    name = value.strip()
    if not name.lower().endswith(".txt"):
        if not name:
            raise TextError(f"{what} must not be empty: give a text, or the path of a .txt file.")
        return value
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise TextError(
            f"{what} is to be read from {path}, but there is no such file; "
            "a text of your own must not end in .txt."
        ) from error
    except IsADirectoryError as error:
        raise TextError(f"{what} is to be read from {path}, but that is a folder.") from error
    except UnicodeDecodeError as error:
        raise TextError(
            f"{what} is to be read from {path}, but that is not UTF-8 text; save it as UTF-8."
        ) from error
    except OSError as error:
        raise TextError(
            f"{what} is to be read from {path}, but that cannot be read: {error.strerror}."
        ) from error
    if "\x00" in text:
        raise TextError(f"{what} is to be read from {path}, but that is a binary file, not text.")
    if not text.strip():
        raise TextError(f"{what} is to be read from {path}, but that file is empty.")
    return text


def import_kokoro() -> ModuleType:
    """The package `kokoro`, imported without what it does to the process.

    On import `kokoro` removes every handler of loguru's one global logger and adds its own, so an
    application that logs with loguru would lose its log. Here the handlers stay as they are.
    Kokoro's own messages stay off, as Kokoro leaves them (`logger.disable("kokoro")`).
    """
    from unittest.mock import patch

    from loguru import logger

    remove, add = logger.remove, logger.add

    def called_by_kokoro() -> bool:
        frame = inspect.currentframe()
        caller = frame and frame.f_back and frame.f_back.f_back
        return caller is not None and caller.f_globals.get("__name__") == "kokoro"

    def guarded_remove(*args: Any, **kwargs: Any) -> None:
        if not called_by_kokoro():
            remove(*args, **kwargs)

    def guarded_add(*args: Any, **kwargs: Any) -> int:
        return -1 if called_by_kokoro() else int(add(*args, **kwargs))

    with quiet_kokoro(), patch.multiple(logger, remove=guarded_remove, add=guarded_add):
        import kokoro
    module: ModuleType = kokoro
    return module


@contextmanager
def quiet_kokoro() -> Iterator[None]:
    """Silences the warnings known to come from importing Kokoro and from building its modules.

    Those that tell a user nothing: a one-layer LSTM with dropout, the older `weight_norm`, and
    `torch.jit.script` in a package that spaCy loads. All others come through.
    """
    with warnings.catch_warnings():
        for category, message in (
            (UserWarning, r"dropout option adds dropout after all but last recurrent layer"),
            (FutureWarning, r"`torch\.nn\.utils\.weight_norm` is deprecated"),
            (FutureWarning, r"`torch\.jit\.script` is deprecated"),
            (DeprecationWarning, r"`torch\.jit\.script` is deprecated"),
        ):
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def _language(lang_code: str) -> str:
    code = lang_code.strip().lower()
    code = _ALIASES.get(code, code)
    if code not in LANGUAGES:
        known = ", ".join(f"{key} ({name})" for key, name in LANGUAGES.items())
        raise TextError(f"The language {lang_code!r} is unknown; Kokoro speaks {known}.")
    return code


def _quoted(text: str) -> str:
    shown = 40
    return repr(text if len(text) <= shown else text[:shown] + "…")


def _break_endless(text: str) -> str:
    """Spaces into what has none for more than 50 characters, at hyphens or slashes if possible.

    For espeak cuts words off at some 160 bytes or sounds (letters without a vowel are spelled),
    numbers from 10^306 are beyond misaki, and its time grows with the cube of the parts of a word:
    minutes for a few hundred joined by hyphens.
    """
    broken = _ENDLESS.sub(lambda m: " ".join(re.findall(r".{20,49}[-/_]|.{1,50}", m[0])), text)
    return _SPELLED.sub(r"\g<0> ", broken)


def _split(phonemes: str) -> list[str]:
    """Cuts what is too long for one chunk, losing nothing but the spaces at the cuts.

    Cuts after the last sentence end in the second half of what fits, else after a colon, else after
    a comma (Kokoro's order), else at a space, else between two sounds. The second half only, so
    that no piece is much shorter than it must be: the shortest chunks sound worst.
    """
    pieces = []
    rest = phonemes.strip()
    while len(rest) > MAX_PHONEMES:
        for marks in ("!.?…", ":;", ",—", " "):
            cut = max(rest.rfind(mark, MAX_PHONEMES // 2, MAX_PHONEMES) for mark in marks) + 1
            if cut:
                break
        else:
            cut = MAX_PHONEMES
            # A stress mark stays with the sound behind it, a length mark with the one before it.
            while cut > 1 and (rest[cut - 1] in "ˈˌ" or rest[cut] in "ːʰʲ\u0303\u0329"):
                cut -= 1
        pieces.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [piece for piece in [*pieces, rest] if piece]


def _foreign_pipeline(kokoro: ModuleType, lang_code: str) -> Any:
    try:
        return kokoro.KPipeline(lang_code, repo_id="hexgrad/Kokoro-82M", model=False)
    except ImportError as error:
        if lang_code not in _EXTRAS:
            raise
        raise TextError(
            f"{LANGUAGES[lang_code]} (language {lang_code}) needs packages that are not installed "
            f'({error}): pip install "misaki[{_EXTRAS[lang_code]}]".'
        ) from error
    except (RuntimeError, OSError) as error:
        raise TextError(
            f"The phonemizer for {LANGUAGES[lang_code]} (language {lang_code}) cannot be started: "
            f"{error}."
        ) from error


_SPACY_MODEL = "en_core_web_sm"


def _english_engine(british: bool) -> tuple[Any, str]:
    """The English engine of misaki, and its name.

    misaki uses spaCy to cut the text into tokens and to tag them. With spaCy's model installed it
    is misaki as Kokoro runs it; without, the same with spaCy's rule-based tokenizer and the tags of
    `tag_paragraph`.
    """
    import spacy
    from misaki import en, espeak

    try:
        fallback = espeak.EspeakFallback(british=british)
    except (RuntimeError, OSError) as error:
        # Kokoro would go on and leave out every word that its dictionary lacks.
        raise TextError(
            f"espeak-ng, which speaks the words that the dictionary lacks, cannot be started "
            f"({error}); reinstall espeakng-loader and phonemizer-fork."
        ) from error
    if spacy.util.is_package(_SPACY_MODEL):
        try:
            engine = en.G2P(trf=False, british=british, fallback=fallback, unk="")
        except (OSError, ValueError) as error:
            raise TextError(
                f"spaCy's {_SPACY_MODEL} is installed but cannot be loaded ({error}); "
                "reinstall it to match spaCy, or remove it."
            ) from error
        return engine, f"misaki {_SPACY_MODEL}"

    tokenize = spacy.blank("en").tokenizer

    def tag(text: str) -> Any:
        document = tokenize(text)
        tags = tag_paragraph([(token.text, token.whitespace_) for token in document])
        for token, name in zip(document, tags, strict=True):
            token.tag_ = "ADD" if token.like_url or token.like_email else name
        return document

    # The constructor downloads the model where it is missing; what else it does is this.
    engine = en.G2P.__new__(en.G2P)
    engine.version = None
    engine.british = british
    engine.nlp = tag
    engine.lexicon = en.Lexicon(british)
    engine.fallback = fallback
    engine.unk = ""
    return engine, "misaki offline"
