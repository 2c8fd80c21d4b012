"""Which search runs, waits, gives way or is refused."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tagstream_index.page.pool import AT_ONCE, OF_READER, WAITING, Busy, Turns


class Searches:
    def __init__(self) -> None:
        self.turns = Turns()
        self.running: dict[str, asyncio.Event] = {}
        self.said: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, name: str, who: str = "", what: str = "/") -> None:
        self._tasks.append(asyncio.create_task(self._search(name, who or name, what)))
        await self.settle()

    async def end(self, name: str) -> None:
        self.running.pop(name).set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _search(self, name: str, who: str, what: str) -> None:
        try:
            async with self.turns.turn(who, what):
                self.running[name] = asyncio.Event()
                await self.running[name].wait()
        except Busy as error:
            self.said[name] = str(error)


def ran(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


def test_a_reader_has_one_search_at_a_time_and_a_newer_one_takes_the_place_of_one_that_waits() -> None:
    async def scene() -> None:
        searches = Searches()
        for name in ("first", "second", "third"):
            await searches.begin(name, "reader")
        await searches.begin("counts", "reader", "/facets")
        await searches.begin("other")
        assert [*searches.running] == ["first", "other"]
        assert [*searches.said] == ["second"]
        await searches.end("first")
        assert [*searches.running] == ["other", "third"], "it has the place of the second"
        await searches.end("third")
        assert [*searches.running] == ["other", "counts"]

    ran(scene())


def test_few_run_some_wait_in_their_order_and_more_are_refused() -> None:
    async def scene() -> None:
        searches = Searches()
        names = [str(number) for number in range(AT_ONCE + WAITING + 1)]
        for name in names:
            await searches.begin(name)
        assert [*searches.running] == names[:AT_ONCE]
        assert [*searches.said] == names[-1:]
        for number in range(WAITING):
            await searches.end(names[number])
        assert [*searches.running] == names[WAITING : WAITING + AT_ONCE]
        for name in names[WAITING : WAITING + AT_ONCE]:
            await searches.end(name)
        await searches.begin("later")
        assert [*searches.running] == ["later"]
        for number in range(WAITING):
            await searches.begin(f"list {number}", "later", f"/many {number}")
        assert len(searches.said) == 1 + WAITING - OF_READER, "the places of others"

    ran(scene())
