"""Part-of-speech tags for English by rules: what misaki asks of them, and no more.

misaki's dictionary says 790 of its 90,000 words differently by their class ("a record", "to
record"). Kokoro asks spaCy's `en_core_web_sm` for the class, which has to be downloaded; these
rules stand in where it is not installed. On 150 hand-labelled words, before any rule was fitted to
them, they were right as often as spaCy's model (142 against 141); the labels are in
tests/data/pronunciations.json.

Knows English words and the tags of the Penn Treebank; knows nothing of phonemes.
"""

import unicodedata
from collections.abc import Callable, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _tagged(tag: str, text: str) -> dict[str, str]:
    return dict.fromkeys(text.split(), tag)


# Closed word classes, with the tags of the Penn Treebank that misaki expects. "'s", "that", "used",
# "a", "in" and words in capitals depend on their place and have rules of their own.
_CLOSED: dict[str, str] = {
    **_tagged("DT", "the a an this these those every each either neither another no any some all"),
    **_tagged("DT", "both many few several such what"),
    **_tagged("PRP", "i you he she it we they me him us them"),
    **_tagged("PRP$", "my your his her its our their whose thy"),
    **_tagged("NN", "everyone everybody someone somebody anyone anybody nobody nothing everything"),
    **_tagged("NN", "something anything none %"),
    **_tagged("TO", "to na ta"),
    **_tagged("MD", "can could will would shall should may might must cannot ca wo sha 'll 'd"),
    **_tagged("VBZ", "is has does"),
    **_tagged("VBP", "am are have do 'm 're 've ai"),
    **_tagged("VBD", "was were had did"),
    **_tagged("VB", "be"),
    **_tagged("VBN", "been done"),
    **_tagged("VBG", "being having doing"),
    **_tagged("CC", "and or but nor &"),
    **_tagged("WP", "who whom"),
    **_tagged("WDT", "which"),
    **_tagged("WRB", "when where why how whenever wherever"),
    **_tagged("EX", "there"),
    **_tagged("UH", "oh yes please hm hmm mm ah hey hello hi ok okay"),
    **_tagged("RB", "not n't never always often usually also just only still even then now here"),
    **_tagged("RB", "too very so quite rather almost already again ever soon twice today much"),
    **_tagged("RB", "yesterday tomorrow tonight perhaps maybe away back together apart else most"),
    **_tagged("RB", "instead however therefore thus sometimes seldom well more less least pretty"),
    **_tagged("RB", "hardly"),
    **_tagged("IN", "of in on at by for with from about into onto over under through during off"),
    **_tagged("IN", "after before between against per via upon within among across around behind"),
    **_tagged("IN", "near toward towards since until till than as like beside besides beyond up"),
    **_tagged(
        "IN", "down out outside inside if because while although though whether unless along"
    ),
    **_tagged("IN", "without despite above below beneath except vs vs. versus @"),
    **_tagged("CD", "zero one two three four five six seven eight nine ten eleven twelve thirteen"),
    **_tagged("CD", "fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty"),
    **_tagged("CD", "fifty sixty seventy eighty ninety hundred thousand million billion trillion"),
    **_tagged("CD", "dozen"),
    **_tagged("SYM", "+"),
}
# Common verbs with an irregular past: the tense of "read" and the finite verb of a clause hang on
# them. Those whose past equals the present, and "read" and "wound" themselves, are left out.
_PAST = _words(
    "said went made took came saw got gave found thought told became left felt brought began kept "
    "held wrote stood heard meant met ran paid sat spoke led grew lost fell sent built understood "
    "drew broke spent rose drove bought wore chose ate knew won taught caught fought sold sang "
    "threw flew shook slept swam hid rode woke forgot hung struck laid stuck drank blew bit dug "
    "fed fled lit rang sank shot swept swore tore wept lay shone stole died lied tied owed"
)
_BASE = _words(
    "ask be become begin believe bring buy call come consider continue create eat expect fall feel "
    "find follow forget get give go grow happen hear help hold hope include keep know lead learn "
    "leave let like look lose love make mean meet move need offer pay play provide put reach "
    "remain remember run say see seem sell send serve show sit speak spend stand start stay stop "
    "take talk tell think try turn understand wait walk want watch win work write"
)
# Those of which the form with s is hardly ever a noun.
_PURE_VERBS = _words(
    "ask become begin believe bring buy come consider continue create eat expect feel follow "
    "forget get give go grow happen hear include keep know learn leave let lose make mean meet "
    "provide put remain remember say see seem send serve sit speak spend take tell think "
    "understand want write allow contain require describe exist enable cause carry seek prefer "
    "teach wear"
)
# Verbs before a clause with "that", and words that open one together with it ("so that").
_REPORTING = _words(
    "say said think thought know knew believe hope feel felt hear heard learn see saw show shown "
    "mean meant find found tell told imagine suggest claim explain realize realise notice remember "
    "forget forgot ensure suppose wish agree admit argue decide discover fear guess insist mention "
    "prove promise report understand understood warn wonder assume establish indicate state note "
    "require demonstrate conclude confirm declare observe recognize recognise check write wrote "
    "answer reply replied fact so such now given provided is was be"
)
_COPULAS = _words(
    "be am is are was were been being 'm 're become becomes became seem seems seemed feel feels "
    "felt look looks looked remain remains remained stay stays stayed keep keeps kept stand stands "
    "stood come comes came sound sounds sounded get gets got draw draws drew sit sits sat"
)
_BE = _words("be am is are was were been being 'm 're")
_HAVE = _words("have has had having 've")
_DO = _words("do does did")
# What takes a bare infinitive behind an object.
_CAUSATIVE = _words("make makes made help helps helped")
_DEGREE = _words("very so too quite rather more most less least pretty as how extremely")
# A preposition "to" before a noun, not an infinitive: "due to excess", "from desert to desert".
_BEFORE_NOUN_TO = _words(
    "due according thanks owing prior contrary close similar opposed access addition relation "
    "respect response reaction lead leads led leading next return returned subject"
)
# Adjectives among the words that are said differently as verb or noun. Where a noun can stand after
# a copula but an adjective of the same spelling is far more common, the adjective is assumed.
_ADJECTIVES = _words(
    "absent abstract aggregate alternate animate approximate appropriate arithmetic articulate "
    "associate attenuate bass close closer compact converse coordinate covert crooked degenerate "
    "deliberate delegate desolate diffuse dogged duplicate elaborate expatriate federate frequent "
    "graduate illegitimate imprecise incarnate incorporate initiate inside intimate "
    "invalid jagged learned legitimate live minute moderate nearby nominate obverse overall "
    "overweight pasty perfect precipitate present prostrate ragged replicate separate subject "
    "subordinate ultralight underground unlearned upset"
)
_COMMON_ADJECTIVES = _words(
    "bad best better big black blue clear cold common dark deep different early easy first free "
    "full good great green half happy hard heavy high hot human kind large last late little local "
    "long low main modern new next nice old open other own past poor public quick quiet real red "
    "recent rich right same second several sharp short simple single slow small social sour "
    "southern special strange strong sweet tall third true warm wet white whole wide wild wrong "
    "young northern eastern western loud soft thick thin fresh dry empty fair fast fine firm"
)
_ADJECTIVE_ENDINGS = ("ous", "ful", "ive", "able", "ible", "ical", "less", "ish", "ese")
# Singular in form or meaning though they end in s: no plural subject, no verb's s.
_NOT_PLURAL = _words(
    "this his its us yes is was has does as plus thus news perhaps always sometimes sports sales "
    "arms gas bus towards besides across unless less"
)
# Plural subjects that do not end in s.
_PLURAL = _words(
    "people children men women police fish sheep mice feet teeth geese those these both many few "
    "all most some"
)
_SMALL_THINGS = _words(
    "detail details amount amounts quantity quantities particle particles difference differences "
    "change changes fraction portion trace traces crack cracks scale creature creatures inspection "
    "examination hole holes insect insects organism organisms fragment fragments dose doses"
)
_BASS_PARTS = _words(
    "guitar guitars player players line lines drum drums clef voice voices note notes singer "
    "singers solo solos part parts section string strings"
)
_LETTERED = _words(
    "vitamin plan grade hepatitis type group class section exhibit appendix point team side level "
    "part letter option unit building gate platform category schedule division model"
)
_NUMBERED = _words("war part chapter volume act scene book phase type class title stage")
_PARTICLES = _words("up down around round through along into onto its back off about")
_SAME_PAST = _words("read reread wound")
_CLOSE_NOUN = (["DT"], ["PRP$"], ["IN"])
_CAPITAL_NAMES = _words("us it who ca wo sha na ta ai mm vs")
_CLAUSE_OPENERS = _words(
    "that if because while although though whether unless as since before after until than"
)
_INTRANSITIVE = _words("lives closes increases decreases progresses conflicts rebels")
_TOOLS = _words(
    "tool tools method methods device devices technique techniques term terms word words process "
    "system systems equipment material materials software data approach technology machine "
    "machines money language formula code chemical"
)
_NOW = _words(
    "every always usually often daily sometimes never each now whenever regularly nowadays rarely "
    "seldom if whether while"
)
_THEN = _words("yesterday ago last earlier previously was were had did once")
_BRACKETS = {**dict.fromkeys("([{", "-LRB-"), **dict.fromkeys(")]}", "-RRB-")}
_OBJECTS = _words("me you him it us them myself yourself himself herself itself")
_BOUNDARIES = frozenset({".", ":", ",", "-LRB-", "-RRB-"})
_FINITE = frozenset({"VBD", "VBZ", "VBP", "MD"})


def tag_paragraph(tokens: Sequence[tuple[str, str]]) -> list[str]:
    """One tag for each token (its text and the whitespace that follows), sentence by sentence."""
    tags: list[str] = []
    sentence: list[tuple[str, str]] = []
    for token in tokens:
        sentence.append(token)
        if all(c in ".!?" for c in token[0]):
            tags += _Tagger(sentence).tags()
            sentence = []
    return tags + _Tagger(sentence).tags()


class _Tagger:
    """Part-of-speech tags of one sentence, by rules: what misaki asks of them and no more.

    790 of the 90,000 words of misaki's dictionary are said differently by their class ("a record",
    "to record"); "a", "in", "that", "used", "I", abbreviations in capitals, currency and
    punctuation depend on it too. A tag is chosen from left to right, from the tags so far and from
    what the next words can be. Where nothing decides, "FW" lets misaki take a word's default.

    The words of a sentence are named by their place in it. `left` is the place of the word that
    governs another one from the left, adverbs and quotes left out, or -1.
    """

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        """Takes spaCy's tokens, each with the whitespace that follows it."""
        self._raw = [text for text, _ in tokens]
        self._low = [text.lower() for text in self._raw]
        self._spaced = [bool(space) for _, space in tokens]
        self._tags: list[str] = []
        letters = [text for text in self._raw if len(text) > 1 and text.isalpha()]
        shouted = sum(text.isupper() for text in letters)
        # Where all is in capitals they say nothing about a word.
        self._shouting = shouted > 2 and shouted * 2 > len(letters)

    def tags(self) -> list[str]:
        """One tag a token."""
        for i in range(len(self._raw)):
            self._tags.append(self._tag(i))
        return self._tags

    def _tag(self, i: int) -> str:
        word = self._low[i]
        if not any(c.isalpha() for c in word):
            return self._symbol(i)
        if word[0].isdigit():
            return "CD"
        rule = _RULES.get(word)
        if rule is not None:
            return rule(self, i)
        if self._raw[i].isupper() and len(word) > 1 and not self._shouting:
            tag = self._capitals(i)
            if tag:
                return tag
        return _CLOSED.get(word) or self._open(i)

    # Where a word stands.

    def _word(self, i: int) -> str:
        return self._low[i] if 0 <= i < len(self._low) else ""

    def _skip_quotes(self, i: int, step: int) -> int:
        while 0 <= i < len(self._raw) and self._raw[i] in "\"“”'":
            i += step
        return i

    def _left(self, i: int) -> tuple[int, bool]:
        """The nearest token to the left that is no adverb or quote; and whether a degree was."""
        degree = False
        i = self._skip_quotes(i - 1, -1)
        while i >= 0 and self._tags[i] == "RB" and not self._word(i).endswith("n't"):
            degree |= self._word(i) in _DEGREE
            i = self._skip_quotes(i - 1, -1)
        return i, degree or (i >= 0 and self._word(i) in ("as", "how"))

    def _ahead(self, i: int) -> tuple[str, str]:
        """The next word and its tag, as far as the word alone tells ("" for an open class)."""
        i = self._skip_quotes(i + 1, 1)
        word = self._word(i)
        if not word:
            return "", "."
        if not any(c.isalnum() for c in word):
            return word, self._symbol(i, ahead=True)
        if word[0].isdigit():
            return word, "CD"
        if word in _PAST:
            return word, "VBD"
        return word, _CLOSED.get(word, "RB" if word.endswith("ly") else "")

    def _is_start(self, i: int) -> bool:
        return i < 0 or self._tags[i] in _BOUNDARIES or self._tags[i] == "NFP"

    def _finite_before(self, i: int) -> bool:
        """Whether the clause has its verb already."""
        for j in range(i - 1, -1, -1):
            tag = self._tags[j]
            if tag in _FINITE:
                return True
            if tag in _BOUNDARIES or tag in ("CC", "WP", "WDT", "WRB"):
                return False
            if self._low[j] in _CLAUSE_OPENERS:
                return False
        return False

    def _finite_after(self, i: int, reach: int = 8) -> bool:
        """Whether the clause gets its verb within the next words."""
        for j in range(i + 1, min(i + reach, len(self._low))):
            word = self._low[j]
            tag = _CLOSED.get(word, "")
            if tag in _FINITE or (_is_past(word) and self._low[j - 1] != "-"):
                return True
            if tag in ("CC", "WP", "WDT", "WRB") or not any(c.isalnum() for c in word):
                return False
            if word == "what":
                return False
        return False

    def _object_follows(self, i: int) -> bool:
        """Whether a noun phrase starts right behind: what a verb has there and a noun has not."""
        word, tag = self._ahead(i)
        if tag == "RB":
            word, tag = self._ahead(i + 1)
        return (tag == "DT" and word != "what") or tag == "PRP$" or word in _OBJECTS

    def _noun_follows(self, i: int) -> bool:
        """Whether a word of an open class follows, or one more adjective: "a close friend"."""
        word, tag = self._ahead(i)
        return tag == "" and not (word in _BASE and word not in ("look", "call", "help"))

    # Signs, numbers and capitals.

    def _symbol(self, i: int, ahead: bool = False) -> str:
        text = self._raw[i]
        before = i > 0 and not self._spaced[i - 1]
        after = i + 1 < len(self._raw) and not self._spaced[i]
        if any(c.isdigit() or c.isnumeric() for c in text):
            return "CD"
        if text in ("$", "£", "€"):
            return "$"
        if text in _CLOSED:
            return _CLOSED[text]
        if text in _BRACKETS:
            return _BRACKETS[text]
        if text in "“„«”»":
            return "``" if text in "“„«" else "''"
        if text in ('"', "'"):
            return "''" if ahead else self._quote(i, before, after)
        if text == ",":
            return ","
        if text == "-":
            if after:  # "well-known", "-5"
                return "HYPH"
            return "HYPH" if before else ":" if i else "NFP"  # "pre- and", " - ", "- item"
        if all(c in ".!?" for c in text) and text != "...":
            return "."
        if all(c in ".:;…—–" for c in text):
            return ":"
        if text == "#":
            return "#"
        # Signs with a name are read ("=", "°"); marks of layout ("*", "_", "~") are not, unless
        # they hold words together ("and/or"): without them those would run into one.
        named = unicodedata.category(text[0]) in ("Sm", "Sc", "So") and text[0] not in "~|^<>"
        return "SYM" if named or text == "/" or (before and after) else "NFP"

    def _quote(self, i: int, before: bool, after: bool) -> str:
        text = self._raw[i]
        if text == '"':
            opens = after and not (before and self._tags[i - 1] not in (":", "-LRB-", "``"))
            return "``" if opens else "''"
        # A single quote opens only where another one closes; else it is an apostrophe, silent.
        if after and not before:
            closing = (
                self._raw[j] == "'" and not self._spaced[j - 1]
                for j in range(i + 2, len(self._raw))
            )
            return "``" if any(closing) else "POS"
        opened = sum(
            {"``": 1, "''": -1}.get(tag, 0)
            for tag, mark in zip(self._tags, self._raw, strict=False)
            if mark == "'"
        )
        return "''" if opened > 0 else "POS"

    def _capitals(self, i: int) -> str:
        word = self._low[i]
        if word == "am":  # "9 AM", otherwise the verb
            return "NN" if i and self._tags[i - 1] == "CD" else "VBP"
        # misaki spells these out as nouns, which is what capitals mean for them.
        if word in _CLOSED and word not in _CAPITAL_NAMES:
            return ""
        # Endings of inflection speak for a word that is stressed, not spelled.
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
            return "NNS"
        return "" if len(word) > 5 and word.endswith(("ed", "ing", "ly")) else "NNP"

    # Words with a rule of their own.

    def _article(self, i: int) -> str:
        """The article "a", or the letter."""
        word, tag = self._ahead(i)
        before = self._word(i - 1)
        ends = tag in _BOUNDARIES and tag != "-LRB-"
        if ends or tag in ("VBZ", "CC", "MD") or word in ("was", "had", "did"):
            return "NN"
        lettered = before in ("the", "an", "letter", "vitamin", "hepatitis", "option")
        mid = i > 0 and not self._is_start(self._skip_quotes(i - 1, -1))
        capital = self._raw[i] == "A" and mid and not self._shouting
        # In a title the word behind has a capital too: "The Tale of A Hero".
        title = capital and self._raw[i + 1 : i + 2] and self._raw[i + 1][:1].isupper()
        lettered |= capital and before in _LETTERED
        return "NN" if lettered or (capital and not title) else "DT"

    def _i(self, i: int) -> str:
        if self._word(i + 1) in ("/", "-") and not self._spaced[i]:
            return "NN"
        return "CD" if self._word(i - 1) in _NUMBERED and self._raw[i] == "I" else "PRP"

    def _clitic_s(self, i: int) -> str:
        """The "'s" of "it's", of "let's" or of a possessive."""
        before = self._word(i - 1)
        if before == "let":
            return "PRP"
        _, tag = self._ahead(i)
        pronoun = _CLOSED.get(before) in ("PRP", "EX", "WP", "WRB") or before in ("that", "here")
        return "VBZ" if pronoun or tag in ("DT", "RB", "VBN", "VBG", "IN", "PRP$") else "POS"

    def _in(self, i: int) -> str:
        """A preposition; or, where another one follows, a stressed particle: "moved in with"."""
        word, tag = self._ahead(i)
        particle = tag in ("IN", "CC", "TO") and word not in ("between", "like", "about", "as")
        return "RP" if particle else "IN"

    def _that(self, i: int) -> str:
        """A stressed "that" points (DT); an unstressed one opens a clause (IN)."""
        word, tag = self._ahead(i)
        before = self._word(self._skip_quotes(i - 1, -1))
        start = self._is_start(self._skip_quotes(i - 1, -1)) and before not in _BRACKETS
        if tag in _BOUNDARIES or tag == "CC":
            return "DT"
        if start:  # "That is why", "That man"; ", that" may open a clause
            comma = i > 0 and self._tags[i - 1] == ","
            return "IN" if comma and tag in ("PRP", "DT", "PRP$", "EX") else "DT"
        if before == "that" or before in ("do", "does", "did", "doing", "done", "like", "than"):
            return "DT"
        if tag in ("PRP", "EX", "DT", "PRP$", "CD", "WRB"):  # "that he", "that the", "that one day"
            return "DT" if word == "one" and not self._reports(before) else "IN"
        if self._reports(before):
            # "I think that is so", "I know that man."; but "I know that men die".
            last = self._ahead(self._skip_quotes(i + 1, 1))[1] in _BOUNDARIES
            return "DT" if tag in _FINITE or (tag == "" and last) else "IN"
        left = self._tags[self._skip_quotes(i - 1, -1)]
        if tag == "":  # a noun: "in that case", "then that day", "take that road"
            return "DT" if left in ("IN", "TO", "CC", "WRB", "RB") or left[:2] == "VB" else "IN"
        if left[:2] == "VB":  # "use that to specify"
            return "DT" if tag in ("TO", "IN") else "IN"
        return "DT" if left in ("IN", "TO", "CC", "RB") and before != "all" else "IN"

    def _reports(self, word: str) -> bool:
        """Whether a word, in any form, can have a clause with "that" behind it."""
        stems = (word, word.removesuffix("s"), word.removesuffix("d"), word.removesuffix("ed"))
        ing = word.removesuffix("ing")
        return not _REPORTING.isdisjoint((*stems, ing, ing + "e"))

    def _used(self, i: int) -> str:
        """The "used to" of habit is unvoiced: VBD "he used to walk", JJ "she is used to it"."""
        left, _ = self._left(i)
        before = self._word(left)
        word, tag = self._ahead(i + 1)  # behind "to"
        if self._word(i + 1) != "to":
            return "VBN" if before in _BE | _HAVE else "VBD"
        if before in ("get", "gets", "got", "getting", "become", "became", "grown", "grew"):
            return "JJ"
        if before in _BE or self._tags[left : left + 1] == ["VBZ"]:
            accustomed = tag in ("DT", "PRP", "PRP$") or word.endswith("ing")
            return "JJ" if accustomed else "VBN"
        # "a tool used to cut": a participle where the clause has its verb, or a thing is used.
        noun = left >= 0 and self._tags[left].startswith("NN")
        if noun and (before in _TOOLS or self._finite_before(left)):
            return "VBN"
        return "VBN" if before in _HAVE else "VBD"

    def _minute(self, i: int) -> str:
        word, _ = self._ahead(i)
        _, degree = self._left(i)
        return "JJ" if word in _SMALL_THINGS or degree else "NN"

    def _bass(self, i: int) -> str:
        """The dictionary has the instrument's vowel under ADJ, the fish's as the default."""
        word, _ = self._ahead(i)
        return "JJ" if word in _BASS_PARTS or self._word(i - 1) in ("double", "the") else "NN"

    def _overall(self, i: int) -> str:
        """An adverb at either end of a clause ("Overall, ..."), else an adjective."""
        return "RB" if self._ahead(i)[1] in _BOUNDARIES else "JJ"

    def _inside(self, i: int) -> str:
        """An adjective only inside a noun phrase: "an inside job"."""
        before = self._tags[i - 1] if i else ""
        return "JJ" if before in ("DT", "PRP$") and self._noun_follows(i) else "IN"

    def _nearby(self, i: int) -> str:
        return "JJ" if self._noun_follows(i) else "RB"

    def _content(self, i: int) -> str:
        """What one is ("content with it") or what one has; before a noun the latter too."""
        left, _ = self._left(i)
        if left >= 0 and self._tags[left] == "PRP" and self._word(left - 1) in _BE:
            left -= 1  # "Are you content?"
        fond = self._word(left) in _COPULAS or self._ahead(i)[0] in ("with", "to")
        determined = left >= 0 and self._tags[left] in ("DT", "PRP$", "POS")
        return "JJ" if fond and not determined else "NN"

    def _learned(self, i: int) -> str:
        """Two syllables in "a learned man"; one as a past tense."""
        article = i > 0 and (
            self._tags[i - 1] in ("DT", "PRP$") or (i > 1 and self._tags[i - 2] == "DT")
        )
        return "JJ" if article and self._noun_follows(i) else "VBD"

    # All other words.

    def _open(self, i: int) -> str:
        word = self._low[i]
        left, degree = self._left(i)
        if word.endswith("ly") and len(word) > 4:
            return "RB"
        if word in ("crooked", "jagged", "ragged", "dogged"):
            return "VBN" if self._ahead(i)[0] == "by" or self._object_follows(i) else "JJ"
        if word.endswith("ing") and len(word) > 4:
            if word == "upsetting" or (left >= 0 and self._tags[left] in ("DT", "PRP$", "JJ")):
                return "JJ" if self._noun_follows(i) or word == "upsetting" else "NN"
            return "VBG"
        if _is_past(word):
            participle = self._word(left) in _BE | _HAVE
            return "VBN" if participle else "VBD"
        if word in _COMMON_ADJECTIVES and word not in _ADJECTIVES:
            return "JJ"
        if word.endswith(_ADJECTIVE_ENDINGS) and len(word) > 5:
            return "JJ"
        s_form = word.endswith("s") and not word.endswith(("ss", "us", "is"))
        s_form = s_form and word not in _NOT_PLURAL
        tag = self._s_form(i, left) if s_form else self._base_form(i, left, degree)
        if word == "close" and tag == "NN" and self._tags[left : left + 1] not in _CLOSE_NOUN:
            return "JJ"  # "walk close behind"; the noun is "the close", "at close"
        return self._tense(i, left, tag) if word in _SAME_PAST else tag

    def _s_form(self, i: int, left: int) -> str:
        """A plural noun (NNS) or a verb with the s of the third person (VBZ)."""
        word = self._low[i]
        next_word, next_tag = self._ahead(i)
        if self._is_start(left):
            return "VBZ" if left >= 0 and self._object_follows(i) else "NNS"
        before, tag = self._word(left), self._tags[left]
        # Subjects in the singular; "this" and "that" cannot go with a plural.
        if word == "consists" or before in ("he", "she", "it", "who", "which", "this", "that"):
            return "VBZ"
        if before.endswith(("body", "one", "thing")) and before in _CLOSED and tag == "NN":
            return "VBZ"
        if tag == "JJ" and self._object_follows(i) and not self._finite_before(i):
            return "VBZ"  # a noun that looks like an adjective
        if next_word == "of" or tag in ("DT", "PRP$", "POS", "CD", "IN", "TO", "JJ", "MD", "HYPH"):
            return "NNS"
        if tag == "CC":
            # "opens it and bursts into": a second verb; "letters and records": a second noun.
            plural = left > 0 and self._tags[left - 1] == "NNS"
            verb = any(t == "VBZ" for t in self._tags) and (
                self._object_follows(i) or next_tag == "IN"
            )
            return "VBZ" if verb and not plural else "NNS"
        if not tag.startswith("NN") or self._finite_before(i):
            return "NNS"
        if self._object_follows(i) or word.removesuffix("s") in _PURE_VERBS:
            return "VBZ"
        # The noun to the left is an object itself ("describe software projects"), the next word is
        # the verb ("student groups use this"), or nothing is left to be the verb's object.
        compound = left > 0 and self._tags[left - 1].startswith("VB")
        verb_next = next_tag in _FINITE or (next_tag == "" and self._object_follows(i + 1))
        ends = (next_tag in _BOUNDARIES or next_tag == "CC") and word not in _INTRANSITIVE
        return "NNS" if compound or verb_next or ends or self._finite_after(i) else "VBZ"

    def _base_form(self, i: int, left: int, degree: bool) -> str:
        """A noun, an adjective or a verb without an ending, by what governs it from the left."""
        word = self._low[i]
        next_word, next_tag = self._ahead(i)
        adjective = word in _ADJECTIVES
        # "at the close", "a close friend".
        noun = "JJ" if adjective and (degree or self._noun_follows(i)) else "NN"
        if next_tag == "HYPH":
            return "JJ" if adjective else "VB" if word == "read" else "NN"
        if degree and adjective:
            return "JJ"
        if self._is_start(left):
            return self._at_start(i, noun)
        before, tag = self._word(left), self._tags[left]
        if word == "use" and next_tag == "" and tag not in ("DT", "PRP$", "POS", "IN", "HYPH"):
            return "VB"  # its noun is hardly ever before another one but in "the use case"
        if tag == "CD" and self._object_follows(i):
            return "VBP"
        left2, _ = self._left(left)
        before2 = self._word(left2)
        inverted = before2 in _BE | _HAVE | _DO or (left2 >= 0 and self._tags[left2] == "MD")
        if tag == "PRP" and inverted:  # "Did you record", "Have you read", "Are you content"
            before, tag = before2, self._tags[left2]
        if before in _DO or tag == "MD" or before in ("n't", "please", "let"):
            return "VB"
        if tag == "TO":
            return noun if before2 in _BEFORE_NOUN_TO or self._range_to(left) else "VB"
        if before in _COPULAS or (before == "'s" and tag == "VBZ"):
            if word in _SAME_PAST:
                return "VBN"
            return "JJ" if adjective else "NN"
        if before in _HAVE:
            return "VBN" if word in _SAME_PAST else noun
        if tag == "PRP":
            return self._after_pronoun(i, before, before2, noun)
        if tag in ("WP", "WDT") or (before == "that" and tag == "IN" and noun != "JJ"):
            # "those who live", "things that use"; but "that" also opens "that content is king".
            if before == "that" and not (self._tags[left - 1] == "NNS" or self._object_follows(i)):
                return noun
            return "VBP"
        if before in ("these", "those", "many", "few", "both", "all") and word not in _PLURAL:
            return "VBP" if self._object_follows(i) or word == "live" else noun
        if before == "her" and self._object_follows(i):  # "saw her present the prize"
            return "VB"
        if tag in ("DT", "PRP$", "POS", "CD", "IN", "JJ", "HYPH", "SYM", "WRB"):
            return noun
        if tag == "CC":
            return self._after_conjunction(i, left, noun)
        if before in ("help", "helps", "helped", "go", "dare"):
            return "VB"
        if tag.startswith("VB"):  # "make use of", "played live", "standing close"
            return "JJ" if adjective and next_word != "of" else noun
        return self._after_noun(i, left, noun, next_word, next_tag)

    def _at_start(self, i: int, noun: str) -> str:
        """An imperative where an object follows ("Close the door"), else the start of a phrase."""
        word = self._low[i]
        next_word, next_tag = self._ahead(i)
        if self._object_follows(i):
            return "VB"
        if next_tag in _BOUNDARIES:
            return "FW"
        if next_word == "of" or next_tag in _FINITE:
            return "NN"
        if word in ("use", "read", "excuse", "produce", "refuse") and next_tag in ("", "CD", "IN"):
            return "VB" if next_tag != "IN" or word == "read" else "NN"
        return "JJ" if word in _ADJECTIVES else noun

    def _range_to(self, to: int) -> bool:
        """Whether "to" ends a range: "from desert to desert"."""
        return "from" in self._low[max(0, to - 4) : to]

    def _after_pronoun(self, i: int, before: str, before2: str, noun: str) -> str:
        word = self._low[i]
        if before in ("i", "we", "they"):
            return "VBP"
        if before in ("he", "she"):
            return "VBD" if word in _SAME_PAST else "VB"
        # "you", "it" and the object forms: a subject only where no verb or preposition governs it.
        if before2 in ("let", "lets"):
            return "VB"
        if before2 in _CAUSATIVE:  # "made him present it", but "made it perfect"
            return "JJ" if word in _ADJECTIVES and not self._object_follows(i) else "VB"
        if before in ("me", "him", "us", "them"):
            return "JJ" if word in _ADJECTIVES else noun
        governed = _CLOSED.get(before2) == "IN" and before2 not in _CLAUSE_OPENERS | {"as", "like"}
        if governed or before2 in _PAST or before2 in _BASE:
            return "JJ" if word in _ADJECTIVES else noun
        return "VBP" if before == "you" else "VBD"

    def _after_conjunction(self, i: int, left: int, noun: str) -> str:
        """The second of two: a verb where an object follows, else what the first one is."""
        first = self._tags[left - 1] if left else ""
        if self._object_follows(i):
            # "to open and read it": what governs the first verb governs the second.
            for tag in reversed(self._tags[:left]):
                if tag in ("TO", "MD"):
                    return "VB"
                if tag.startswith("VB"):
                    return tag
            return "VB"
        if first.startswith("VB") and first != "VBG":
            return first
        return noun

    def _after_noun(self, i: int, left: int, noun: str, next_word: str, next_tag: str) -> str:
        """The verb of a plural subject ("the shops close early"), or one more noun."""
        word, before = self._low[i], self._word(left)
        if word in _SAME_PAST:
            if self._object_follows(i) or next_word in _PARTICLES or next_tag == "IN":
                return "VBD"
            return "NN" if self._finite_before(i) else "VBD"
        if word in ("close", "present", "subject") and next_word == "to":
            return "JJ"
        plural = before in _PLURAL or (
            before.endswith("s")
            and not before.endswith(("ss", "us", "'s"))
            and before not in _NOT_PLURAL
        )
        asked = self._question_before(left)
        if asked and next_tag != "VBD":  # "Did the band record ..."
            return "VB"
        if not plural or self._finite_before(i) or next_tag in ("VBD", "VBZ", "VBP", "MD"):
            return noun
        return "VBP"

    def _question_before(self, left: int) -> bool:
        """Whether the clause opens with do or a modal before its subject and has no verb yet."""
        start = left
        while start >= 0 and self._tags[start] not in _BOUNDARIES and self._tags[start] != "CC":
            start -= 1
        head = start + 1
        if head <= left and self._tags[head] in ("WRB", "WP", "WDT"):
            head += 1
        if not (head < left and (self._word(head) in _DO or self._tags[head] == "MD")):
            return False
        return not any(tag.startswith("VB") for tag in self._tags[head + 1 : left + 1])

    def _tense(self, i: int, left: int, tag: str) -> str:
        """Present and past of "read" and "wound" are spelled alike: look for signs of the time."""
        word = self._low[i]
        if tag != "VBP":
            return tag
        if word == "wound":
            return "VBD"
        # The clause first: "I read that last year, but I rarely read novels".
        first = max((j for j in range(i) if self._tags[j] in (*_BOUNDARIES, "CC")), default=-1) + 1
        ends = (j for j in range(i + 1, len(self._low)) if self._low[j] in (",", ";", ".", "and"))
        for part in (range(first, next(ends, len(self._low))), range(len(self._low))):
            words = {self._low[j] for j in part}
            if words & _THEN:
                return "VBD"
            past = any(_is_past(self._low[j]) for j in part if j != i)
            if words & _NOW:
                return "VB"
            if past:
                return "VBD"
        if self._word(left) == "you":
            return "VB"
        return "VBD" if self._object_follows(i) or self._word(i + 1) == "that" else "VB"


def _is_past(word: str) -> bool:
    """Whether a word looks like a past tense: "went", "walked"; not "need", "bed"."""
    regular = word.endswith("ed") and not word.endswith("eed") and len(word) > 4
    return word in _PAST or (regular and word != "hundred")


_RULES: dict[str, Callable[[_Tagger, int], str]] = {
    "a": _Tagger._article,
    "i": _Tagger._i,
    "'s": _Tagger._clitic_s,
    "in": _Tagger._in,
    "that": _Tagger._that,
    "used": _Tagger._used,
    "minute": _Tagger._minute,
    "bass": _Tagger._bass,
    "overall": _Tagger._overall,
    "underground": _Tagger._overall,
    "uphill": _Tagger._overall,
    "inside": _Tagger._inside,
    "nearby": _Tagger._nearby,
    "learned": _Tagger._learned,
    "content": _Tagger._content,
    "contents": lambda tagger, i: "NNS",
}
