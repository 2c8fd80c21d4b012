"""The names of renditions."""

from itertools import product

import pytest

from workers.rendition import Rendition

BUCKETS = ("p", "p-web")
KEYS = ["".join(each) for length in range(1, 6) for each in product("ax./", repeat=length)]
FITTING = (
    "{bucket}-web/{key}",
    "{bucket}-web/{key}.x",
    "{bucket}-web/{stem}.x",
    "{bucket}-web/{key}{extension}",
    "{bucket}-web/{extension}{key}",
    "{bucket}-web/{stem}/{extension}",
    "{bucket}-web/{extension}a{stem}",
    "{bucket}/{stem}.a.x",
    "{bucket}/x/{key}",
    "{bucket}/{bucket}.{key}",
)


@pytest.mark.parametrize("template", FITTING)
def test_a_key_is_a_renditions_where_the_template_makes_it_of_some_other(template: str) -> None:
    rendition = Rendition.of(template, BUCKETS if "-web" in template else BUCKETS[:1])
    origins = {}
    for key in KEYS:
        stem, _, extension = key.rpartition(".")
        if not stem or stem.endswith("/") or not extension or "/" in extension:
            stem, extension = key, ""
        place = template.format(bucket="p", key=key, stem=stem, extension=extension).partition("/")
        origins[place[0], place[2]] = key
        assert rendition.place("p", key) in ((place[0], place[2]), None)
    for key in [key for key in KEYS if len(key) < 5]:  # a longer one may be of a key that is not listed
        for bucket in BUCKETS:
            assert rendition.makes(bucket, key) == ((bucket, key) in origins), (bucket, key)
            assert bucket == "p-web" or (rendition.place(bucket, key) is None) == rendition.makes(bucket, key)
    assert rendition.place("p-web", "a") is None
    assert rendition.place("elsewhere", "a") is None


@pytest.mark.parametrize(
    "template",
    [
        *("{bucket}-web", "{bucket}-web/a.jpg", "{bucket}-web/{bucket}"),  # the same for all
        *("{bucket}-web/{name}", "{bucket}-web/{key", "{bucket}-web/{}{key}", "{bucket}-web/{key!r}"),
        *("/{key}", "{key}", "{stem}/{key}", "{bucket}-web/{key}{stem}", "{bucket}-web/{key}/{extension}/{extension}"),
        *("{bucket}-wbe/{key}", "elsewhere/{key}"),  # buckets that events may not name
        *("{bucket}/{key}", "{bucket}/{stem}.jpg", "{bucket}/{stem}", "{bucket}/{key}{extension}", "p/{stem}.jpg"),
    ],
)
def test_a_template_that_names_no_other_object_for_each_is_refused(template: str) -> None:
    buckets = ("p",) if template == "p/{stem}.jpg" else BUCKETS
    with pytest.raises(ValueError, match=r"^(must|does|has|gives|puts) "):
        Rendition.of(template, buckets)


def test_one_bucket_may_hold_the_renditions_of_all_others() -> None:
    rendition = Rendition.of("web/{bucket}/{key}", ("web", "a", "b"))
    assert rendition.place("b", "k") == ("web", "b/k")
    assert [rendition.makes("web", key) for key in ("a/k", "b/k", "c/k")] == [True, True, False]
    assert rendition.place("web", "c/k") is None, "it is no original"


@pytest.mark.parametrize("template", [*FITTING, "{bucket}-web/{stem}{extension}"])
@pytest.mark.parametrize("key", ["a" * 1024, "." * 1024, "a." * 512, "/" * 1024, "a/." * 341, ".a" * 512])
@pytest.mark.timeout(2)
def test_the_worst_key_takes_no_time(template: str, key: str) -> None:
    rendition = Rendition.of(template, BUCKETS)
    for _ in range(20):
        rendition.makes("p-web", key)
