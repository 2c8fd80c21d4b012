"""Synonyms, and compound names that are not property and thing.

Short on purpose: what else is the same for a data set, its author says in the review file.
"""

from __future__ import annotations

_SAME = """
bicycle: bike, pushbike
motorcycle: motorbike
airplane: plane, aeroplane, aircraft, jetliner, air plane
television: tv, telly, television set, tv set
cell phone: cellphone, mobile phone, smartphone, mobile, smart phone
sofa: couch
child: kid
man: guy, gentleman
woman: lady
gray: grey
t-shirt: tshirt, tee shirt, t shirt, tee
refrigerator: fridge
donut: doughnut
car: automobile, auto
truck: lorry
trash can: garbage can, dustbin, rubbish bin
blond: blonde
yogurt: yoghurt
pajamas: pyjamas
bathroom: restroom
colorful: colourful, multicolored, multi-colored
police officer: policeman, policewoman, cop
firefighter: fireman
mom: mum
"""
SYNONYMS = {
    same: name
    for name, others in (line.split(": ") for line in _SAME.strip().splitlines())
    for same in others.split(", ")
}
"""From a name to the one that is used instead."""

FIXED = frozenset(
    {
        "hot dog",
        "hot dogs",
        "french fries",
        "polar bear",
        "polar bears",
        "high chair",
        "wild flower",
        "wild flowers",
        "green beans",
        "sweet potato",
        "blue jeans",
        "electric guitar",
        "stuffed animal",
        "stuffed animals",
        "fried rice",
        "scrambled eggs",
        "mashed potatoes",
        "solar panel",
        "solar panels",
        "parking lot",
    }
)
"""Two words that name one thing although the first looks like a modifier."""

HYPHENATED = (
    "stainless steel",
    "double decker",
    "flat screen",
    "half eaten",
    "high speed",
    "long sleeve",
    "open air",
    "close up",
)
"""Two words that are one; written with a hyphen in a tag."""
