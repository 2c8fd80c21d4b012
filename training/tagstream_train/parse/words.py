"""English closed-class words, and forms of nouns and verbs.

Open classes (most nouns, verbs and adjectives) are not listed here: the parsers learn them from the captions.
"""

from __future__ import annotations

import re
from functools import lru_cache


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = word_set(
    "a an the this that these those some any each every another no both all many several few most much more less "
    "my your his her its our their one two three four five six seven eight nine ten eleven twelve dozen dozens "
    "hundred hundreds thousand thousands half 's"
)
"""First words of noun phrases, with numbers and possessives."""
NUMBERS = word_set("one two three four five six seven eight nine ten eleven twelve")
PLURAL_DETERMINERS = NUMBERS - {"one"} | word_set("both all many several few these those some most")
PREPOSITIONS = word_set(
    "of in on at by for with without from to into onto upon over under above below beneath beside besides between "
    "among behind before after along alongside across around round through throughout against toward towards near "
    "inside outside within off up down out past about during as like than via per amid underneath atop beyond "
    "next close away together ahead apart"
)
"""And the particles of verbs (pick *up*), which end a noun phrase just as well."""
CONJUNCTIONS = word_set("and or but while when where who which that whose because if so & nor then whereas whom")
PRONOUNS = word_set(
    "i you he she it we they me him us them himself herself itself themselves someone something others there here"
)
AUXILIARIES = word_set(
    "be is are was were been being am has have had having do does did doing can could will would should may might "
    "must seem seems appear appears looks get gets getting got"
)
ADVERBS = word_set(
    "very quite too also just still not only even almost nearly again together always never often now today too "
    "upside sideways forward backwards backward indoors outdoors downhill uphill overhead nearby "
    "half-way halfway else tonight yesterday tomorrow lol omg dis"
)

LIGHT_VERBS = word_set("be have do get make show feature include contain seem appear depict consist go let isolate")
"""Verbs without a visible meaning."""
UNSEEN_ADJECTIVES = word_set(
    "other same several many different various own such few next more most much certain whole entire single extra "
    "front full left right able ready main else least last first second third good best nice great vector rear safe"
)
OF_WHAT = word_set(
    "group groups bunch bunches pair pairs set sets lot lots kind kinds type types sort variety couple couples number "
    "piece pieces slice slices row rows flock herd pack pile stack collection series part parts bit line flight "
    "loaf assortment amount"
)
"""Nouns that count or measure when *of* follows: a group *of people* is people."""
PHOTO_WORDS = word_set(
    "photo photos photograph photographs picture pictures image images view close-up closeup shot scene selection "
    "front side sides top middle back bottom center centre background foreground left right distance end corner edge "
    "way upside half portrait rendering throwback year size piece mile cm mm inch"
)
"""Nouns for the photograph or a place in it, rather than its contents."""

MATERIALS = word_set(
    "wood brick stone marble gold silver brass bronze copper leather glass plastic paper metal steel iron concrete "
    "cotton wool silk denim velvet cardboard bamboo granite ceramic clay rubber"
)
"""Nouns for the material of the next noun."""
COMPOUND_GERUNDS = word_set(
    "cutting dining living parking swimming sewing washing vending rolling frying mixing shopping racing "
    "watering reading rocking serving waiting dressing chopping baking boxing ironing "
    "changing measuring"
)
"""Forms in -ing which name the use of the noun after them: a cutting board does not cut."""
ING_NOUNS = word_set(
    "building ceiling painting wedding morning evening clothing string ring wing king spring thing railing awning "
    "icing topping earring pudding dumpling duckling sibling lightning sling drawing frosting stocking meeting "
    "everything something nothing anything bring sing swing cling fling housing carving offspring filling"
)
"""Nouns that end like the present participle of a verb."""
LY_OTHERS = word_set(
    "family butterfly jelly lily belly fly assembly holly trolley ally bully supply dragonfly ugly friendly lovely "
    "curly woolly elderly early hilly chilly wobbly bubbly lonely silly july italy monopoly"
)
"""Words in -ly that are no adverbs."""
PLURAL_ONLY = word_set(
    "scissors jeans pants shorts trousers headphones earphones binoculars goggles pajamas pyjamas tongs stairs "
    "sunglasses glasses overalls clothes chopsticks leggings tights fries woods pliers tweezers headquarters "
    "downstairs upstairs christmas tennis lens canvas atlas news species series mathematics gymnastics athletics "
    "iris trellis molasses swimming-trunks always this"
)
"""Words in -s that are no plurals, or have no singular of the same meaning."""

_IRREGULAR_PLURALS = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "leaves": "leaf", "knives": "knife", "wolves": "wolf",
    "shelves": "shelf", "loaves": "loaf", "halves": "half", "calves": "calf", "scarves": "scarf", "hooves": "hoof",
    "lives": "life", "wives": "wife", "thieves": "thief", "elves": "elf", "cacti": "cactus", "buses": "bus",
    "lenses": "lens", "gases": "gas", "octopuses": "octopus", "movies": "movie", "cookies": "cookie",
    "ties": "tie", "pies": "pie", "brownies": "brownie", "hoodies": "hoodie", "selfies": "selfie",
    "zombies": "zombie", "smoothies": "smoothie", "rookies": "rookie", "toes": "toe", "headaches": "headache",
    "axes": "axe", "dice": "die", "fungi": "fungus", "businessmen": "businessman", "policemen": "policeman",
    "firemen": "fireman", "fishermen": "fisherman", "snowmen": "snowman", "grandchildren": "grandchild",
    "viruses": "virus",
}  # fmt: skip
_IRREGULAR_VERBS = {
    "worn": "wear", "wore": "wear", "seen": "see", "saw": "see", "held": "hold", "stood": "stand", "sat": "sit",
    "lain": "lie", "laid": "lay", "driven": "drive", "drove": "drive", "taken": "take", "took": "take",
    "eaten": "eat", "ate": "eat", "ridden": "ride", "rode": "ride", "thrown": "throw", "threw": "throw",
    "flown": "fly", "flew": "fly", "drawn": "draw", "drew": "draw", "shown": "show", "made": "make",
    "built": "build", "hung": "hang", "caught": "catch", "swung": "swing", "swum": "swim", "swam": "swim",
    "run": "run", "ran": "run", "slept": "sleep", "spread": "spread", "stole": "steal", "cut": "cut", "put": "put",
    "hit": "hit", "stuck": "stick", "bent": "bend", "blown": "blow", "blew": "blow", "fell": "fall",
    "fallen": "fall", "grown": "grow", "grew": "grow", "kept": "keep", "led": "lead", "lit": "light",
    "met": "meet", "sold": "sell", "sewn": "sew", "shot": "shoot", "spun": "spin", "split": "split",
    "stolen": "steal", "swept": "sweep", "taught": "teach", "torn": "tear", "tied": "tie", "tying": "tie",
    "lying": "lie", "dying": "die", "lies": "lie", "dies": "die", "ties": "tie", "woven": "weave",
    "written": "write", "wrote": "write", "brought": "bring", "bought": "buy", "fed": "feed", "fought": "fight",
    "given": "give", "gave": "give", "gone": "go", "went": "go", "knelt": "kneel", "dug": "dig", "wound": "wind",
    "shaken": "shake", "shook": "shake", "frozen": "freeze", "hidden": "hide", "hid": "hide", "slid": "slide",
    "skis": "ski", "skied": "ski", "tasting": "taste", "tasted": "taste", "pasting": "paste", "pasted": "paste",
    "wasting": "waste", "lounging": "lounge", "lounged": "lounge", "changing": "change", "changed": "change",
    "arranging": "arrange", "arranged": "arrange", "plunging": "plunge", "plunged": "plunge", "bathing": "bathe",
    "bathed": "bathe", "breathing": "breathe", "exploring": "explore", "explored": "explore",
}  # fmt: skip

_MUTE_E = re.compile(
    r"(?:[vucz]|[^aeioulrw]l|[aeiounrp]s|[dr]g)$"  # leave, dance, juggle, raise, charge
    r"|^[^aeiou]*[aeiouy][^aeiouwxy]$"  # one short syllable without a doubled last letter: ride, skate
    r"|[^aeiou](?:at|id|ir|ur|is|as|ud|ut|in|ar|ak|il)$"  # decorate, capture, exercise, recline
)
"""Stems with a final e in the base form."""
_DOUBLED = re.compile(r"([bdgkmnprt])\1$")


@lru_cache(100_000)
def singular(noun: str) -> str:
    """The singular of a noun, or the word itself."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if not noun.endswith("s") or noun in PLURAL_ONLY or len(noun) < 4 or noun.endswith(("ss", "us", "sis")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zzes", "toes", "goes", "roes")):
        return noun[:-2]
    return noun[:-1]


@lru_cache(100_000)
def is_plural(noun: str) -> bool:
    return singular(noun) != noun


@lru_cache(100_000)
def base_forms(form: str) -> tuple[str, ...]:
    """Possible base verbs of a word, likeliest first."""
    if form in _IRREGULAR_VERBS:
        return (_IRREGULAR_VERBS[form],)
    if form.endswith("ing") and len(form) > 4:
        return _of_stem(form[:-3])
    if form.endswith("ied") and len(form) > 4:
        return (form[:-3] + "y",)
    if form.endswith("ed") and len(form) > 3 and not form.endswith("eed"):
        return _of_stem(form[:-2])
    if form.endswith("s") and len(form) > 3 and not form.endswith(("ss", "us", "is")):
        return _of_third_person(form)
    return ()


def _of_stem(stem: str) -> tuple[str, ...]:
    if not any(vowel in stem for vowel in "aeiouy"):
        return ()
    if _DOUBLED.search(stem):
        return stem[:-1], stem
    return (stem + "e", stem) if _MUTE_E.search(stem) else (stem, stem + "e")


def _of_third_person(form: str) -> tuple[str, ...]:
    if form.endswith("ies"):
        return (form[:-3] + "y",)
    if form.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
        return form[:-2], form[:-1]
    return (form[:-1],)


def is_participle(word: str) -> bool:
    """Whether a word looks like a present or past participle."""
    return word not in ING_NOUNS and bool(base_forms(word)) and not word.endswith("s")
