"""The page in a real browser, as people use it: mouse, keyboard alone, dark, narrow, hostile text, servers down."""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from index.tests.browsing import (
    BUCKET,
    PATIENCE_MS,
    TOKEN,
    SmallWorker,
    StoredPhotograph,
    chromium,
    copy_rows,
    outcome,
    scenes,
    served,
)
from index.tests.support import Sign, results, settings_of, with_tables, written
from tagstream_index.database import Connection
from tagstream_index.page import correcting, pictures, server
from tagstream_index.page.asked import PAGE
from tagstream_index.page.changes import Changes
from tagstream_index.page.correcting import Corrector
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.photos import photographs
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.support.kinds import given_kinds
from tests.support.proxy import FaultProxy
from workers.backends.kafka import ensure_topics
from workers.backends.s3.store import MinioObjectStore
from workers.retag.changes import Changed, ChangesWriter, LabelNumbers
from workers.settings import InputTopic, SecretUrl

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SHOTS = Path(__file__).resolve().parents[3] / "build" / "screenshots"
"""CI keeps them."""
MANY = 10_000
MONTHS = ["November 2026", "May 2026", "August 2024"]
HOSTILE = "<img src=x onerror=document.title='hurt'><script>document.title='hurt'</script>\u202e\"'&"


@dataclass
class Album:
    settings: IndexSettings
    tables: Connection
    store: MinioObjectStore
    scenes: list[StoredPhotograph]
    folder: Path
    browser: Browser


@pytest.fixture(scope="module")
def world(postgresql: PostgreSQL, s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Album]:
    folder = tmp_path_factory.mktemp("browser")
    with ExitStack() as cleanup:
        browser = cleanup.enter_context(chromium(folder))
        store = MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, s3.region)
        cleanup.enter_context(closing(store))
        store.make_bucket(BUCKET)
        settings = settings_of(
            postgresql,
            "browser",
            buckets=(BUCKET,),
            s3_endpoint=s3.endpoint_url,
            s3_region=s3.region,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
        )
        tables = cleanup.enter_context(closing(with_tables(settings)))
        found = scenes(photographs(None), datetime(2026, 11, 28, 9, 41, tzinfo=UTC))
        for each in found:
            store.put(BUCKET, each.key, each.body)
        written(tables, *(each.said for each in found))
        tables.execute(
            "insert into progress (topic, partition, topic_id, next_offset, record_at) values ('t', 0, 't', 1, now())"
        )
        yield Album(settings, tables, store, found, folder, browser)


@pytest.fixture(scope="module")
def site(world: Album) -> Iterator[str]:
    with served(world.settings) as address:
        yield address


Open = Callable[..., Page]


@pytest.fixture
def opened(world: Album) -> Iterator[Open]:
    """Opens pages; any error in a page's script or of its policy fails the test."""
    wrong: list[str] = []
    contexts = []

    def open_page(address: str, width: int = 1280, height: int = 800, **others: Any) -> Page:
        context = world.browser.new_context(viewport={"width": width, "height": height}, **others)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def ready(page: Page) -> None:
    page.wait_for_function(
        """() => [...document.querySelectorAll('main img')]
        .filter(i => i.checkVisibility() && i.getBoundingClientRect().top < innerHeight)
        .every(i => i.complete && i.naturalWidth > 1 && i.previousElementSibling?.tagName !== 'CANVAS')"""
    )


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def shown_well(page: Page, name: str) -> None:
    """The page is accessible and fits into its window, and a picture of it is kept."""
    ready(page)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
    accessible(page)
    fits(page)


def subjects_of(page: Page) -> list[str]:
    return [str(key) for key in page.locator("#pages .cell").evaluate_all("all => all.map(c => c.dataset.subject)")]


def test_a_person_searches_filters_opens_a_picture_and_returns(site: str, opened: Open, world: Album) -> None:
    page = opened(site)
    expect(page.locator("h1")).to_have_text("10 pictures")
    expect(page.locator("#sifted li").first).to_contain_text("garage")
    assert page.locator(".month h2").all_text_contents() == MONTHS
    shown_well(page, "grid")
    page.locator("#q").fill("red motorcycle")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("2 pictures")
    page.get_by_role("link", name="wheel 2").click()
    expect(page.locator("#q")).to_have_value("red motorcycle tag:wheel")
    page.get_by_role("link", name="Best first").click()
    assert "sort=best" in page.url
    page.locator("#pages .cell").nth(1).click()
    expect(page.locator("h1")).to_have_text("a red motorcycle in a garage")
    shown_well(page, "one")
    expect(page.get_by_role("link", name="Picture after")).to_have_count(0)
    page.get_by_title("All pictures of this day").click()
    expect(page.locator("h1")).to_have_text("1 picture")
    page.go_back()
    page.get_by_role("link", name="Picture before").click()
    expect(page.get_by_role("link", name="Picture after")).to_have_count(1)
    page.get_by_role("link", name="Result").click()
    expect(page.locator("#q")).to_have_value("red motorcycle tag:wheel")
    page.locator(".chip.on").click()
    expect(page.locator("#q")).to_have_value("red motorcycle")
    page.goto(f"{site}/?q=tag:cta")
    page.get_by_role("link", name="cat", exact=True).click()
    expect(page.locator("h1")).to_have_text("1 picture")


def test_the_keyboard_alone_is_enough(site: str, opened: Open) -> None:
    page = opened(site)
    ready(page)
    press = page.keyboard.press
    press("/")
    page.keyboard.type("person")
    press("Enter")
    page.wait_for_url("**/?q=person")
    press("/")
    press("Escape")
    press("ArrowRight")
    first, second = subjects_of(page)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.dataset.subject"))

    assert focused() == first
    press("ArrowRight")
    assert focused() == second
    press("Enter")
    page.wait_for_url("**/picture?*")
    press("ArrowLeft")
    page.wait_for_function("s => document.querySelector('main')?.dataset.subject === s", arg=first)
    press("Escape")
    page.wait_for_url("**/?q=person*")
    press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.locator("#keys").evaluate("d => d.scrollTop") == 0, "help begins at its first line"
    accessible(page)
    press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.goto(site)
    ready(page)
    press("ArrowDown")
    top = page.evaluate("document.activeElement.getBoundingClientRect().top")
    press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY")
    assert below > top
    press("ArrowUp")
    assert focused() == subjects_of(page)[0]


@pytest.fixture
def sign(world: Album) -> Iterator[None]:
    """A sign whose file lies on its side."""
    image = Image.new("L", (1200, 900), 160)
    image.paste(40, (300, 150, 900, 250))
    image.getexif()[0x0112] = 6
    image.save(turned := io.BytesIO(), "JPEG", exif=image.getexif())
    key, body, corners = "sign.jpg", turned.getvalue(), [[300, 150], [900, 150], [900, 250], [300, 250]]
    said = outcome(key, body, [("sign", 0.9)], "", datetime(2026, 1, 1, tzinfo=UTC)).with_facts(orientation=6)
    world.store.put(BUCKET, key, body)
    with given_kinds(Sign):
        text = "Emergency exit\nKeep the door closed at all times, and never lock it"
        written(world.tables, said.but(results=results(sign={"text": text, "corners": corners})))
        yield
    world.tables.execute("delete from image where key = 'sign.jpg'")


@pytest.mark.parametrize("width", [1280, 390])
def test_shapes_lie_on_the_picture_at_any_size_and_the_line_that_fits_on_its_thumbnail(
    site: str, opened: Open, sign: None, width: int
) -> None:
    page = opened(f"{site}/?q=sign:door", width)
    expect(page.locator(".cell .line")).to_have_text("Keep the door closed at all times, and never lock it")
    shown_well(page, f"line-{width}")
    page.locator("#pages .cell").first.click()
    shown_well(page, f"shapes-{width}")

    def place() -> list[float]:
        """The middle of the first shape in parts of the picture."""
        found: list[float] = page.evaluate("""() => {
            const box = (each) => document.querySelector(each).getBoundingClientRect();
            const shape = box("circle"), picture = box(".shot img");
            return [(shape.left + shape.width / 2 - picture.left) / picture.width,
                (shape.top + shape.height / 2 - picture.top) / picture.height];
        }""")
        return found

    assert place() == pytest.approx([750 / 900, 300 / 1200], abs=1e-3)
    page.keyboard.press("z")
    expect(page.locator(".zoomed")).to_be_visible()
    assert place() == pytest.approx([750 / 900, 300 / 1200], abs=1e-3)
    page.keyboard.press("z")
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement")
    assert place() == pytest.approx([750 / 900, 300 / 1200], abs=1e-3)


@pytest.fixture
def poster(world: Album) -> Iterator[None]:
    """A picture larger than any screen."""
    Image.linear_gradient("L").resize((2400, 1800)).save(large := io.BytesIO(), "JPEG")
    key, body = "poster.jpg", large.getvalue()
    world.store.put(BUCKET, key, body)
    written(world.tables, outcome(key, body, [("poster", 0.9)], "", datetime(2026, 1, 1, tzinfo=UTC)))
    yield
    world.tables.execute("delete from image where key = 'poster.jpg'")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_picture_is_zoomed_dragged_and_shown_over_the_whole_screen(
    site: str, opened: Open, poster: None, width: int
) -> None:
    page = opened(f"{site}/?q=poster", width)
    page.locator("#pages .cell").first.click()
    ready(page)
    view, large = page.locator(".view"), page.locator(".large")

    def shown() -> float:
        return float(large.locator("img").evaluate("i => i.getBoundingClientRect().width"))

    def place() -> list[float]:
        return [float(each) for each in large.evaluate("l => [l.scrollLeft, l.scrollTop]")]

    fitted = shown()
    assert fitted < 2400
    for begin, end in (("z", "Escape"), ("+", "z")):
        page.keyboard.press(begin)
        assert shown() == 2400
        expect(page.get_by_role("button", name="100 %")).to_have_attribute("aria-pressed", "true")
        page.wait_for_function("() => document.querySelector('.large img').src.includes('size=large')")
        page.keyboard.press(end)
        assert shown() == fitted
    large.click()
    shown_well(page, f"zoomed-{width}")
    before = place()
    box = large.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 130)
    page.mouse.up()
    assert place() == [before[0] + 40, before[1] + 20]
    assert shown() == 2400, "the end of a drag is no click"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("x => document.querySelector('.large').scrollLeft > x", arg=before[0] + 41)
    fits(page)
    page.get_by_role("button", name="100 %").click()
    assert shown() == fitted
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement === document.querySelector('.view')")
    assert view.evaluate("v => v.getBoundingClientRect().height === innerHeight")
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("() => document.fullscreenElement === null")


def test_names_of_tags_are_completed_as_they_are_typed(site: str, opened: Open) -> None:
    page = opened(site)
    for typed, value, label in (
        ("whisk", "whiskers", "1"),
        ("red moto", "red motorcycle", "2"),
        ("red -tag:dahlia|moto", "red -tag:dahlia|motorcycle", "2"),
    ):
        page.locator("#q").fill("")
        page.locator("#q").press_sequentially(typed)
        page.wait_for_function("v => document.querySelector('#known option')?.value === v", arg=value)
        assert page.locator("#known option").first.evaluate("option => option.label") == label
    page = opened(site, java_script_enabled=False)
    assert page.locator("#known option").first.get_attribute("value") == "garage"


def test_an_original_is_downloaded_and_a_link_copied(opened: Open, world: Album) -> None:
    scene = world.scenes[3]
    through = {"index_store_url": world.settings.s3_endpoint}
    with served(world.settings.model_copy(update=through)) as address:
        page = opened(f"{address}/?q=coffee", permissions=["clipboard-read", "clipboard-write"])
        page.locator("#pages .cell").first.click()
        with page.expect_download() as got:
            page.get_by_role("link", name="Download original").click()
        assert (got.value.suggested_filename, got.value.path().read_bytes()) == ("coffee.png", scene.body)
        page.get_by_role("button", name="Copy link").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        page.goto(page.evaluate("navigator.clipboard.readText()"))
        expect(page.locator("h1")).to_have_text("a cup of coffee on a wooden table")
        page.get_by_text("Details", exact=True).click()
        accessible(page)


@pytest.mark.parametrize(("name", "width"), [("dark", 1280), ("narrow", 390)])
def test_dark_and_narrow_pages_hold_the_same(site: str, opened: Open, name: str, width: int) -> None:
    page = opened(site, width, 844 if width < 400 else 800, color_scheme="dark")
    for place in ("", "-one"):
        if place:
            page.locator("#pages .cell").first.click()
        shown_well(page, f"{name}{place}")
        assert int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")) < 128


def test_without_a_script_everything_is_a_link_or_a_form(site: str, opened: Open) -> None:
    page = opened(site, java_script_enabled=False)
    assert page.locator(".month h2").all_text_contents() == MONTHS
    ready(page)
    expect(page.locator("canvas")).to_have_count(0)
    page.get_by_role("link", name="Show filters").click()
    expect(page.locator("h1")).to_have_text("10 pictures")
    page.get_by_role("link", name="May 2026 1").click()
    expect(page.locator(".month h2")).to_have_text(["May 2026"])
    page.go_back()
    page.get_by_role("link", name="garage 2").click()
    page.locator("#pages .cell").first.click()
    expect(page.locator(".view button:visible, .does button:visible")).to_have_count(0)
    page.get_by_text("Details", exact=True).click()
    expect(page.get_by_text("Where the time went")).to_be_visible()
    larger = page.request.get(f"{site}{page.locator('.large').get_attribute('href')}")
    assert (larger.status, larger.headers["content-type"]) == (200, "image/jpeg")
    page.get_by_role("link", name="Result").click()
    expect(page.locator("#pages .cell")).to_have_count(2)


@pytest.mark.parametrize("script", [True, False])
def test_tags_open_into_narrower_ones_and_a_box_filters_them(
    site: str, opened: Open, world: Album, script: bool
) -> None:
    wider = "insert into wider values ('cat', '{animal}', true), ('person', '{animal}', true)"
    world.tables.execute(wider)
    page = opened(f"{site}/?counts=1", java_script_enabled=script)
    tags = page.locator("#sifted")
    expect(tags.get_by_role("link", name="cat 1")).to_have_count(0)
    page.get_by_role("link", name="animal 3", expanded=False).click()
    expect(page.get_by_role("link", name="animal 3", expanded=True)).to_be_visible()
    expect(tags.get_by_role("link", name="person 2")).to_be_visible()
    expect(page.locator("#pages .cell")).to_have_count(3)
    if script:
        shown_well(page, "facets")
    page.get_by_role("searchbox", name="Filter tags").fill("RA")
    if not script:
        page.keyboard.press("Enter")
    expect(tags.get_by_role("link")).to_have_text(["camera1", "grass1"])
    page.get_by_role("link", name="grass 1").click()
    expect(page.locator("#q")).to_have_value("tag:animal tag:grass")
    world.tables.execute("delete from wider")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_hash_stands_in_for_a_picture_until_it_comes(
    opened: Open, world: Album, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch, motion: str
) -> None:
    monkeypatch.setattr(pictures, "_PATIENCE", {"get_timeout_s": 120.0})  # a slow store has not failed
    with closing(FaultProxy(lambda: int(s3.endpoint_url.rpartition(":")[2]))) as objects:
        through = {"s3_endpoint": f"http://127.0.0.1:{objects.port}"}
        with served(world.settings.model_copy(update=through)) as address:
            objects.freeze()
            page = opened(address, reduced_motion=motion)
            expect(page.locator("#pages canvas")).to_have_count(10)
            page.screenshot(path=SHOTS / "hashes.png")
            accessible(page)
            opacity, fades_s = page.locator("#pages img").first.evaluate(
                "i => [getComputedStyle(i).opacity, parseFloat(getComputedStyle(i).transitionDuration)]"
            )
            assert (opacity, fades_s > 0) == ("0", motion != "reduce")
            for each in world.scenes:
                cell = page.locator(f'.cell[data-subject="{each.said.subject}"] canvas')
                painted = np.array(cell.evaluate("c => [...c.getContext('2d').getImageData(0, 0, 32, 32).data]"))
                with Image.open(io.BytesIO(each.body)) as image:
                    small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX).resize((4, 4)))
                means = painted.reshape(4, 8, 4, 8, 4).mean((1, 3))
                assert np.abs(means[..., :3] - small).mean() < 25, each.key
            objects.heal()
            ready(page)
            expect(page.locator("#pages canvas")).to_have_count(0)
            expect(page.locator("#pages img").first).to_have_css("opacity", "1")


def test_any_bytes_are_a_hash_or_none(site: str, opened: Open) -> None:
    page = opened(site)
    hashes = page.evaluate("""() => {
        const drawn = document.createElement("canvas").getContext("2d");
        const lengths = [];
        for (let length = 0; length < 40; length++) {
            for (let number = 0; number < 40; number++) {
                const any = (place) => (place * 89 + number * 137 + length * number) % 256;
                const filled = (_, place) => number < 2 ? 255 * number : any(place);
                const found = terms(Uint8Array.from({ length }, filled));
                if (found) { paint(drawn, found); lengths.push(length); }
            }
        }
        return lengths;
    }""")
    assert min(hashes) >= 16
    assert hashes.count(39) == 40


def test_copies_lead_to_their_list_and_back(opened: Open, site: str, world: Album) -> None:
    scene = world.scenes[0]
    with Image.open(io.BytesIO(scene.body)) as image:
        image.resize((image.width // 2, image.height // 2)).save(smaller := io.BytesIO(), "JPEG", quality=50)
    for key, body in (("copies/equal.jpg", scene.body), ("copies/smaller.jpg", smaller.getvalue())):
        world.store.put(BUCKET, key, body)
        written(world.tables, outcome(key, body, [("temple", 0.9)], "", datetime(2026, 10, 1, tzinfo=UTC)))
    try:
        for width in (1280, 390):
            page = opened(f"{site}/?q=temple", width)
            expect(page.get_by_role("link", name="3 copies")).to_have_count(3)
            shown_well(page, f"copies-{width}")
            page.locator(".tile > .by").first.focus()
            page.keyboard.press("Enter")
            page.wait_for_url("**#copies")
            rows = page.locator(".copies li")
            expect(rows).to_have_count(3)
            expect(rows.filter(has_text="smaller.jpg")).to_contain_text("look")
            expect(rows.filter(has_text="equal.jpg")).to_contain_text("same file")
            expect(rows.filter(has_text="largest")).not_to_contain_text("smaller.jpg")
            shown_well(page, f"copies-list-{width}")
            page.keyboard.press("Escape")
            page.wait_for_function("s => document.activeElement?.dataset.subject === s", arg=scene.said.subject)
    finally:
        world.tables.execute("delete from image where key like 'copies/%'")


def test_hostile_keys_and_captions_are_text(site: str, opened: Open, world: Album) -> None:
    scene = world.scenes[0]
    key = f"{HOSTILE}//?#%2e.jpg"
    world.store.put(BUCKET, key, scene.body)
    written(world.tables, outcome(key, scene.body, [(HOSTILE, 0.9)], HOSTILE, datetime(2026, 11, 29, tzinfo=UTC)))
    try:
        page = opened(site)
        ready(page)
        page.locator("#pages .cell").first.focus()
        expect(page.locator("#pages .cell").first).to_contain_text("<script>document.title='hurt'</script>\ufffd")
        page.keyboard.press("Enter")
        ready(page)
        assert page.locator("main").get_attribute("data-subject") == f"{BUCKET}/{key}"
        expect(page.locator("h1")).to_contain_text("<img src=x onerror=")
        page.goto(f"{site}/?q=%3Cscript%3Ealert(1)%3C/script%3E")
        assert page.title() != "hurt"
        accessible(page)
    finally:
        world.tables.execute("delete from image where caption like '<img%'")


def test_states_without_pictures(site: str, opened: Open, world: Album, postgresql: PostgreSQL) -> None:
    page = opened(f"{site}/?q=tag:cat score>0.99")
    expect(page.get_by_role("link", name="score > 0.99")).to_be_visible()
    accessible(page)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "empty.png")
    for address, status in (("/picture?of=photos/none", 410), ("/login", 200), ("/nowhere", 404)):
        answer = page.goto(f"{site}{address}")
        assert answer is not None
        assert answer.status == status
        accessible(page)
    empty = settings_of(postgresql, "browser_empty", buckets=(BUCKET,))
    with closing(with_tables(empty)), served(empty) as other:
        page.goto(other)
        expect(page.locator("code")).to_contain_text("tagstream index run")
        accessible(page)


def test_database_and_store_go_down_and_come_back(
    opened: Open, world: Album, postgresql: PostgreSQL, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_AGAIN_S", 60)  # no reload while accessibility is checked
    # An object that rests for longer than the store would hide that the store is away.
    monkeypatch.setattr(pictures, "_STORE_REST_S", 0.5)
    monkeypatch.setattr(pictures, "_REST_S", {"service": 0.5, "too-slow": 60.0})
    port = int(postgresql.dsn.rpartition(":")[2].partition("/")[0])
    with (
        closing(FaultProxy(lambda: port)) as database,
        closing(FaultProxy(lambda: int(s3.endpoint_url.rpartition(":")[2]))) as objects,
    ):
        through = {
            "index_dsn": SecretUrl(postgresql.dsn.replace(f":{port}/", f":{database.port}/")),
            "s3_endpoint": f"http://127.0.0.1:{objects.port}",
        }
        with served(world.settings.model_copy(update=through)) as address:
            objects.refuse()
            page = opened(address)
            expect(page.locator("#away")).to_be_visible()
            page.screenshot(path=SHOTS / "store-down.png")
            accessible(page)
            objects.heal()
            ready(page)
            expect(page.locator("#away")).to_be_hidden()
            database.refuse()
            page.goto(f"{address}/?q=cat")
            expect(page.locator("h1")).to_have_text("The index does not answer")
            page.screenshot(path=SHOTS / "database-down.png")
            accessible(page)
            monkeypatch.setattr(server, "_AGAIN_S", 1)
            page.reload()
            expect(page.locator("h1")).to_have_text("The index does not answer")
            database.heal()
            expect(page.locator("h1")).to_have_text("1 picture")
            expect(page.locator("#q")).to_have_value("cat")


@pytest.fixture(scope="module")
def corrected(world: Album, kafka: ApacheKafka) -> Iterator[str]:
    """A site whose corrections a small worker answers."""
    ensure_topics(kafka.servers, {f"browser.{name}": (1, {}) for name in ("in", "out", "corrections")})
    settings = world.settings.model_copy(
        update={
            "kafka_servers": (kafka.servers,),
            "input_topics": (InputTopic("browser.in"),),
            "output_topic": "browser.out",
            "corrections_topic": "browser.corrections",
            "index_page_token": SecretUrl(TOKEN),
        }
    )
    assert correcting.missing(settings) == []
    worker = SmallWorker(settings, world.tables, world.scenes)
    worker.start()
    with served(settings, Corrector(settings)) as address:
        yield address
    worker.end()


def logged_in(page: Page) -> None:
    page.get_by_role("link", name="Log in", exact=True).first.click()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    page.wait_for_load_state()  # keys before the script's start are no one's


def test_a_correction_waits_for_its_outcome(opened: Open, world: Album, corrected: str) -> None:
    page = opened(f"{corrected}/picture?of={world.scenes[3].said.subject}")
    expect(page.get_by_role("button", name="Add")).to_have_count(0)
    page.locator("#tags").get_by_role("link", name="Log in").click()
    page.get_by_label("Token").fill("a guess")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the token.")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_label("A tag to add").fill("ristretto")
    page.keyboard.press("Enter")
    expect(page.locator("#new")).to_be_focused()
    accessible(page)
    page.get_by_role("button", name="Add “ristretto” as a new tag").press("Enter")
    expect(page.locator(".wait")).to_have_text("pending")
    accessible(page)
    expect(page.locator(".who")).to_have_text("by a person", timeout=30_000)
    expect(page.locator(".wait")).to_have_count(0)
    page.get_by_role("button", name="Remove the tag spoon").click()
    expect(page.locator("s")).to_have_text("spoon", timeout=30_000)
    page.reload()
    expect(page.locator(".past li").first).to_contain_text("a person removed “spoon”")
    shown_well(page, "correction")


def test_five_pictures_get_a_tag_at_once(opened: Open, corrected: str) -> None:
    page = opened(corrected)
    logged_in(page)
    bar, boxes = page.locator("#chosen"), page.locator(".tile > input")
    expect(bar).to_be_hidden()
    page.locator(".tile").first.hover()
    boxes.first.click()
    expect(bar.locator("output")).to_have_text("1 selected")
    boxes.nth(3).click(modifiers=["Shift"])
    expect(bar.locator("output")).to_have_text("4 selected")
    page.locator(".tile .cell").nth(5).click()
    expect(bar.locator("output")).to_have_text("5 selected")
    assert "/picture" not in page.url, "while something is selected, a click selects"
    shown_well(page, "selection")
    page.get_by_label("Tag for all of them").fill("holiday")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Add “holiday” to 5 pictures?")
    shown_well(page, "question")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("5 done", timeout=30_000)
    accessible(page)
    page.get_by_role("link", name="Show “holiday”").click()
    expect(page.locator(".tile")).to_have_count(5)
    page.go_back()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("h1")).to_have_text("Remove “holiday” from 5 pictures?")


def test_keys_select_and_all_is_all_of_the_answer(opened: Open, corrected: str) -> None:
    page = opened(corrected, 390, 844)
    logged_in(page)
    bar, output = page.locator("#chosen"), page.locator("#chosen output")
    for key in ("ArrowRight", "x", "ArrowRight", "ArrowRight", "Shift+X"):
        page.keyboard.press(key)
    expect(output).to_have_text("3 selected")
    page.keyboard.press("x")
    expect(output).to_have_text("2 selected")
    shown_well(page, "selection-narrow")
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    page.get_by_label("Select all").check()
    expect(output).to_have_text("All of these pictures")
    expect(page.locator(".tile > input:checked")).to_have_count(10)
    page.get_by_label("Tag for all of them").fill("everything")
    page.get_by_role("button", name="Add tag").click()
    expect(page.locator("h1")).to_have_text("Add “everything” to 10 pictures?")
    assert page.locator("[name=of]").count() == 0, "the search goes, not its pictures"
    page.get_by_role("link", name="Cancel").click()
    page.get_by_label("Select all").check()
    page.locator(".tile > input").first.uncheck()
    expect(output).to_have_text("9 selected")
    with page.expect_download() as told:
        page.get_by_role("button", name="List as JSON").click()
    assert told.value.suggested_filename == "pictures.json"
    assert len(orjson.loads(told.value.path().read_bytes())) == 9


@pytest.fixture
def plan(world: Album, tmp_path: Path) -> Iterator[Changes]:
    """The changes of the photographs by a lower threshold."""
    more = {"china": ["sky", "boat"], "flower": ["petal"], "astronaut": ["smile", "sky"], "rocket": ["sky"]}
    path = tmp_path / "changes"
    with ChangesWriter() as writer:
        for each in world.scenes:
            names = [tag["name"] for tag in each.said.fields["tags"]]
            gained = more.get(Path(each.key).stem, ["indoors"])
            lost = names[-1:] if len(names) > 3 else []
            scores = {tag["name"]: tag["score"] for tag in each.said.fields["tags"]}
            numbers = {name: LabelNumbers(score, score, 0.4, 0.45) for name, score in scores.items()}
            numbers |= dict.fromkeys(gained, LabelNumbers(0.14, 0.14, 0.4, 0.12))
            after = [*names[: len(names) - len(lost)], *gained]
            writer.take(Changed.between(each.said.subject, names, after, numbers.get))
        writer.take(Changed.between(f"{BUCKET}/removed.jpg", ["dog"], ["cat"]))
        writer.write(path, before="images.enriched", after="today's settings", images=2_400, unknown=12)
    with Changes(path, tmp_path / "choices") as made:
        made.load()
        yield made


@pytest.mark.parametrize(("name", "width", "dark"), [("changes", 1280, False), ("changes-narrow", 390, True)])
def test_the_gallery_of_changes(opened: Open, world: Album, plan: Changes, name: str, width: int, dark: bool) -> None:
    with served(world.settings, changes=plan) as address:
        page = opened(address, width, 844 if dark else 800, color_scheme="dark" if dark else "light")
        page.get_by_role("link", name="Changes").click()
        expect(page.locator("h1")).to_have_text("11 pictures would change")
        page.keyboard.press("a")
        shown_well(page, name)
        if dark:
            page.locator("nav summary").click()
        page.locator("nav").get_by_role("link", name="sky").click()
        expect(page.locator("h1")).to_have_text("3 pictures would change")
        page.get_by_role("link", name="Lost", exact=True).click()
        expect(page.locator(".end")).to_contain_text("No picture loses")
        accessible(page)
        page.go_back()
        subject = page.locator(".cell").first.get_attribute("data-subject")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_url("**/picture?*")
        page.keyboard.press("Escape")
        page.wait_for_function("s => document.activeElement?.dataset.subject === s", arg=subject)
        assert "/changes?label=sky" in page.url


def test_changes_are_judged_by_key_in_place(opened: Open, world: Album, plan: Changes) -> None:
    with served(world.settings, changes=plan) as address:
        page = opened(f"{address}/login?back=/changes")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("11 pictures would change")
        expect(page.locator(".card")).to_have_count(11)
        heights = page.evaluate("[...document.querySelectorAll('.card')].map(c => c.offsetHeight)")
        assert min(heights) < 100 < max(heights), "a card is as high as it needs"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("a")
        page.keyboard.press("r")
        told = page.locator("#told")
        expect(told).to_contain_text("1 accepted, 1 rejected, 9 undecided; precision 50.0%")
        first, second = page.locator(".card").nth(0), page.locator(".card").nth(1)
        expect(first.get_by_role("radio", name="Accept")).to_be_checked()
        expect(second.get_by_role("radio", name="Reject")).to_be_checked()
        second.get_by_role("radio", name="Reject").focus()
        page.keyboard.press("a")
        expect(told).to_contain_text("2 accepted, 0 rejected")
        assert plan.said() is not None
        page.route("**/changes", lambda route: route.abort())
        page.keyboard.press("r")
        expect(told).to_contain_text("Not saved")
        third = page.locator(".card").nth(2).get_by_role("radio", name="Reject")
        expect(third).not_to_be_checked()
        page.unroute("**/changes")
        third.check()
        expect(told).to_contain_text("2 accepted, 1 rejected")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        first.locator("summary").click()
        larger = first.locator(".enlarge img")
        expect(larger).to_be_visible()
        page.wait_for_function("i => i.naturalWidth > 500", arg=larger.element_handle())
        assert [url for url in asked if "/image?" not in url] == [], "a larger picture loads no page"
        shown_well(page, "changes-judged")
        page.set_viewport_size({"width": 390, "height": 844})
        shown_well(page, "changes-judged-narrow")
        page.reload()
        expect(first.get_by_role("radio", name="Accept")).to_be_checked()


@pytest.mark.timeout(300)
def test_scrolling_through_ten_thousand_and_back_to_the_same_place(
    site: str, opened: Open, world: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PAGE", 500)  # a test has less patience than a reader
    before = world.tables.execute("select count(*) from image").fetchone()
    assert before is not None
    copy_rows(world.tables, MANY)
    page = opened(site)
    page.set_default_timeout(60_000)
    page.evaluate("""() => {  // this is about the result: pictures would take nine tenths of the time
        const parse = DOMParser.prototype.parseFromString;
        DOMParser.prototype.parseFromString = function (text, kind) {
            return parse.call(this, text.replaceAll(/<img src="[^"]*"/g, "<img"), kind);
        };
    }""")
    expect(page.locator("h1")).to_have_text("5,000+ pictures")
    page.evaluate("""async () => {
        for (let link; link = document.querySelector(".more"); ) {
            link.scrollIntoView();
            while (link.isConnected) await new Promise((done) => setTimeout(done, 10));
        }
    }""")
    expect(page.locator(".end")).to_have_text("That is all.")
    keys = subjects_of(page)
    assert len(keys) == len(set(keys)) == MANY + before[0]
    assert page.locator(".month h2").all_text_contents() == [*MONTHS[:2], "May 2025", MONTHS[2]]
    deep = page.locator("#pages .cell").nth(11 * PAGE + 40)
    deep.scroll_into_view_if_needed()
    subject, top = deep.get_attribute("data-subject"), deep.evaluate("c => c.getBoundingClientRect().top")
    deep.click()
    page.wait_for_url("**/picture?*")
    page.keyboard.press("Escape")
    page.wait_for_url("**/?after=*")
    page.wait_for_function("s => document.activeElement?.dataset.subject === s", arg=subject)
    assert abs(page.evaluate("document.activeElement.getBoundingClientRect().top") - top) < 300
    expect(page.get_by_role("link", name="Newer pictures")).to_be_visible()
