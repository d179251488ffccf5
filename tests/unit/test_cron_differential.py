"""The next slots of 5,000 random expressions in 12 zones, against two other programs: what differs is explained, one by one.

The slower one is asked for each expression in four of the zones; in all of them, and for twice as many, where `INGESTD_LONG_TESTS=1`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from ingestd.schedule.cron import CronRule, read_expression
from tests.support import LONG
from tests.unit.cron_peers import (
    CRONITER,
    CRONSIM,
    Answer,
    Croniter,
    Difference,
    ask_cronsim,
    goes_in_circles,
    mixes_weekdays,
    spelled_out,
    wants_both_days,
)
from tests.unit.cron_truth import MINUTE, ByHand, changes_between, random_expression

EXPRESSIONS = 10_000 if LONG else 5_000
STARTS = 2 if LONG else 1
SLOTS = 4 if LONG else 2
CRONITER_ZONES = 1 if LONG else 3  # one in so many: it takes four times as long as the other, and is asked for one slot less
SEED = 41 if LONG else 4
RANGE_OF_ONE = "reads a range of one, or a step behind it, as one to the end of the field or the whole of it"
CIRCLES = "goes in circles at a fold that is not at a full hour"
MIXED = "refuses a list of plain and n-th weekdays"
NO_DATE = "ANDs the day fields where one is the n-th or last weekday of a month, and finds no day"
# So many that each jump has its share: both peers leave the day that Apia skipped minute by minute, which takes them long.
DAYS = 1500
# Where to look for jumps of the clock, from which day on.
ZONES = {
    "UTC": "2026-01-01",
    "Africa/Casablanca": "2026-01-01",  # an hour back for Ramadan, and forth again
    "America/New_York": "2026-01-01",
    "America/Sao_Paulo": "2018-01-01",  # at midnight
    "America/St_Johns": "2010-01-01",  # a minute past midnight
    "Asia/Gaza": "2025-01-01",
    "Asia/Kathmandu": "1985-12-01",  # by a quarter of an hour, once
    "Australia/Lord_Howe": "2026-01-01",  # by half an hour
    "Europe/London": "2026-01-01",
    "Europe/Skopje": "2026-01-01",
    "Pacific/Apia": "2011-08-01",  # without 30 December 2011
    "Pacific/Chatham": "2026-01-01",  # at a quarter to three
}


@cache
def readers() -> list[tuple[str, str, ByHand, Croniter]]:
    """Random expressions that are valid, always the same, with our reading, one by hand, and croniter's."""
    dice = random.Random(SEED)
    found: list[tuple[str, str, ByHand, Croniter]] = []
    while len(found) < EXPRESSIONS:
        text = random_expression(dice)
        try:
            expression = read_expression(text)
        except ValueError as error:
            if "never fires" not in str(error) and "bad day-of-month" not in str(error):
                raise
            continue
        found.append((text, expression, ByHand(text), Croniter(text)))
    return found


def starts(zone: ZoneInfo, dice: random.Random) -> Iterator[datetime]:
    """Moments to ask from: four in five around a jump of the clock, the others anywhere."""
    begin = datetime.fromisoformat(ZONES[zone.key]).replace(tzinfo=UTC)
    changes = changes_between(zone, begin, begin + timedelta(days=DAYS))
    while True:
        if changes and dice.random() < 0.8:
            yield dice.choice(changes).at + MINUTE * dice.randint(-300, 100) + timedelta(seconds=dice.choice((0, 0, 30)))
        else:
            yield begin + MINUTE * dice.randint(0, DAYS * 24 * 60)


def differences(hand: ByHand, zone: ZoneInfo, start: datetime, ours: list[datetime], answer: Answer) -> list[Difference]:
    """The moments that only one has, as far as both have looked."""
    assert ours == sorted(set(ours)), f'"{" ".join(hand.texts)}" {zone} from {start}: {ours}'
    theirs = dict(zip(answer.moments, answer.times, strict=True))
    if ours == list(theirs):
        return []
    end = min(ours[-1], max(theirs, default=start))
    apart = sorted(moment for moment in set(ours) ^ theirs.keys() if moment <= end)
    later = {moment: next((theirs[time] for time in sorted(theirs) if time > moment), None) for moment in apart}
    return [Difference(hand, zone, start, moment, moment in ours, theirs.get(moment), later[moment]) for moment in apart]


def explain(it: Difference, ways: dict[str, Callable[[Difference], bool]]) -> str:
    """The one way in which the peer is known to differ here; none is a failure, and so is ours being wrong."""
    assert (it.moment > it.start and it.hand.at(it.zone, it.moment)) == it.ours, f"ours is wrong: {told(it)}"
    names = [name for name, holds in ways.items() if holds(it)]
    assert names, f"not explained: {told(it)}"
    return names[0]


def told(it: Difference) -> str:
    """A difference for a person."""
    whose = "only ours" if it.ours else "only the peer's"
    return f'"{" ".join(it.hand.texts)}" {it.zone.key} from {it.start.astimezone(it.zone)}: {it.moment.astimezone(it.zone)} is {whose}'


@pytest.mark.parametrize("name", ZONES)
def test_every_difference_from_cronsim_and_croniter_is_explained(name: str) -> None:
    zone = ZoneInfo(name)
    begin = starts(zone, random.Random(SEED))
    seen: Counter[str] = Counter()
    turn = list(ZONES).index(name)
    for number, (text, expression, hand, reader) in enumerate(readers()):
        rule = CronRule(expression, zone)
        for start in islice(begin, STARTS):
            ours = list(islice(rule.after(start), SLOTS))
            seen.update(f"cronsim {way}" for way in beside_cronsim(text, hand, zone, start, ours))
            if (number + turn) % CRONITER_ZONES == 0:
                seen.update(f"croniter {way}" for way in beside_croniter(text, hand, reader, zone, start, ours))
    for way, times in seen.most_common():
        print(f"{name}: {times} x {way}")  # noqa: T201 - for whoever runs this with -s


def beside_cronsim(text: str, hand: ByHand, zone: ZoneInfo, start: datetime, ours: list[datetime]) -> Iterator[str]:
    """How cronsim answers otherwise."""
    answer = ask_cronsim(text, zone, start, SLOTS)
    found = differences(hand, zone, start, ours, answer)
    if (found or answer.gave_up) and text != spelled_out(text):
        yield RANGE_OF_ONE
        answer = ask_cronsim(spelled_out(text), zone, start, SLOTS)
        found = differences(hand, zone, start, ours, answer)
    for it in found:
        yield explain(it, CRONSIM)
    if answer.gave_up:
        due = next(slot for slot in ours if slot not in answer.moments)
        assert goes_in_circles(hand, zone, due), f'cronsim gives up "{text}" in {zone} from {start}'
        yield CIRCLES


def beside_croniter(text: str, hand: ByHand, reader: Croniter, zone: ZoneInfo, start: datetime, ours: list[datetime]) -> Iterator[str]:
    """How croniter answers otherwise."""
    if reader.refusal:
        assert mixes_weekdays(hand), f'croniter refuses "{text}": {reader.refusal}'
        yield MIXED
        return
    answer = reader.ask(zone, start, SLOTS - 1)
    found = differences(hand, zone, start, ours, answer)
    if (found or answer.gave_up) and text != spelled_out(text):
        yield RANGE_OF_ONE
        answer = Croniter(spelled_out(text)).ask(zone, start, SLOTS - 1)
        found = differences(hand, zone, start, ours, answer)
    for it in found:
        yield explain(it, CRONITER)
    if answer.gave_up:
        assert wants_both_days(hand) or mixes_weekdays(hand), f'croniter finds no slot of "{text}" in {zone} from {start}: {answer.gave_up}'
        yield NO_DATE


EXAMPLES = [
    (
        "cronsim",
        "answers times of day that are over, from the second pass of a fold",
        "0-28 1 * * * | Europe/London | 2026-10-25T01:24+00:00",
    ),
    ("cronsim", "walks in hours over a jump that is not by whole hours", "* 4 * * * | Australia/Lord_Howe | 2026-10-04T02:41+11:00"),
    ("cronsim", "answers a midnight that does not exist", "*/30 0 4 * * | America/Sao_Paulo | 2018-11-03T12:00-03:00"),
    ("cronsim", "goes back to the first pass of a fold", "* * * * */4 | America/St_Johns | 2010-11-06T23:07:30-03:30"),
    ("cronsim", "loses the hour behind a midnight that does not exist", "*/5 1 4 * 7 | America/Sao_Paulo | 2018-11-03T22:24-03:00"),
    ("croniter", "ANDs the day fields where one is the n-th or last weekday of a month", "2 0 22 * 4L | UTC | 2026-02-21T06:07+00:00"),
    ("croniter", "takes a weekday beside its n-th for the n-th alone", "3 0 * * 2,2#2 | Europe/London | 2027-01-27T23:38+00:00"),
    ("croniter", "takes a field of all 24 hours for a star", "0 0-23 * * * | America/St_Johns | 2010-03-13T21:21-03:30"),
    ("croniter", "moves what follows real time behind a gap", "*/30 2 * * * | Europe/Skopje | 2026-03-28T12:00+01:00"),
    ("croniter", "runs a time of day in both passes of a fold", "30 2 * * * | Europe/Skopje | 2026-10-24T12:00+02:00"),
    ("croniter", "loses the second pass of a fold that is not by whole hours", "*/49 * * * 6 | America/St_Johns | 2010-11-06T23:10-02:30"),
    (
        "croniter",
        "overlooks the second pass of a fold, where the next slot is in another summer",
        "*/32 1 * 10 * | Europe/London | 2027-10-30T23:30+01:00",
    ),
]


@pytest.mark.parametrize(("peer", "way", "asked"), EXAMPLES)
def test_each_way_has_its_example(peer: str, way: str, asked: str) -> None:
    text, name, since = asked.split(" | ")
    zone, start = ZoneInfo(name), datetime.fromisoformat(since)
    ours = list(islice(CronRule(text, zone).after(start), 10))
    answer = ask_cronsim(text, zone, start, 10) if peer == "cronsim" else Croniter(text).ask(zone, start, 10)
    found = differences(ByHand(text), zone, start, ours, answer)
    assert way in {explain(it, CRONSIM if peer == "cronsim" else CRONITER) for it in found}


def test_no_way_is_without_an_example() -> None:
    shown = {(peer, way) for peer, way, _ in EXAMPLES}
    assert shown == {*(("cronsim", way) for way in CRONSIM), *(("croniter", way) for way in CRONITER)}


def test_cronsim_goes_in_circles_where_we_do_not() -> None:
    start = datetime.fromisoformat("2010-11-06T20:33-02:30")
    zone = ZoneInfo("America/St_Johns")
    assert ask_cronsim("30-50 */15 * * *", zone, start, 1) == Answer(gave_up="circles")
    slot = CronRule("30-50 */15 * * *", zone).next_after(start)
    assert slot == datetime.fromisoformat("2010-11-07T00:30-03:30")
