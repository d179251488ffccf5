"""Two other programs that read cron expressions, asked the same, and every way in which they are known to answer otherwise.

A way is a function that must hold for one differing moment: that the moment is there in one answer and not in the other.
What none of them holds for is not explained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter
from cronsim import CronSim

from tests.unit.cron_truth import MINUTE, ByHand, Change, change_at, changes_between, number, wall_at

HOUR = timedelta(hours=1)
# It goes by days without counting; within a day it takes some hundred steps at most.
STEPS = 2_000


@dataclass
class Answer:
    """What a peer said.

    Args:
        times: in the zone, as it gave them.
        gave_up: why there are no more of them.
    """

    times: list[datetime] = field(default_factory=list)
    gave_up: str = ""

    @property
    def moments(self) -> list[datetime]:
        """The same in UTC."""
        return [time.astimezone(UTC) for time in self.times]


@dataclass(frozen=True)
class Difference:
    """One moment that only one of two answers has.

    Args:
        ours: it is in ours; else in the peer's.
        said: how the peer wrote it.
        then: the peer's first time behind it.
    """

    hand: ByHand
    zone: ZoneInfo
    start: datetime
    moment: datetime
    ours: bool
    said: datetime | None
    then: datetime | None

    def changes(self, hours: float) -> list[Change]:
        """Jumps of the clock up to so many hours before the moment."""
        return changes_between(self.zone, self.moment - HOUR * hours, self.moment + MINUTE)

    def gaps(self) -> list[Change]:
        """The jump forward that the moment is the end of, if it is one."""
        change = change_at(self.zone, self.moment)
        return [change] if change is not None and change.gap else []


class Impatient(CronSim):  # type: ignore[misc]
    """Gives up where cronsim goes round in circles."""

    steps = 0

    def tick(self, seconds: int = 1) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise TimeoutError
        super().tick(seconds)


def ask_cronsim(expression: str, zone: ZoneInfo, start: datetime, count: int) -> Answer:
    """Its next times."""
    answer = Answer()
    try:
        answer.times += islice(Impatient(expression, start.astimezone(zone)), count)
    except TimeoutError:
        answer.gave_up = "circles"
    return answer


class Croniter:
    """croniter, in its own spelling, told to AND the two day fields where one starts with a star."""

    def __init__(self, expression: str) -> None:
        self.refusal = ""
        texts = expression.split()
        texts[4] = re.sub(r"(\d)L", r"L\1", texts[4])
        try:
            self.reader = croniter(" ".join(texts), datetime(2026, 1, 1, tzinfo=UTC), implement_cron_bug=True)
        except CroniterError as error:
            self.refusal = str(error)

    def ask(self, zone: ZoneInfo, start: datetime, count: int) -> Answer:
        """Its next times."""
        answer = Answer()
        try:
            answer.times.append(self.reader.get_next(datetime, start_time=start.astimezone(zone)))
            answer.times += [self.reader.get_next(datetime) for _ in range(count - 1)]
        except CroniterBadDateError:
            answer.gave_up = "no date"
        except AssertionError:
            answer.gave_up = "assertion"
        return answer


def spelled_out(expression: str) -> str:
    """The same with `5` for `5-5` and `5-5/3`, which both peers read otherwise than crontab(5)."""
    return " ".join(",".join(_one(term) for term in text.split(",")) for text in expression.split())


def _one(term: str) -> str:
    low, dash, high = term.partition("/")[0].partition("-")
    return low if dash and number(low) == number(high) else term


# --- cronsim


def starts_in_the_past(it: Difference) -> bool:
    """It reads the second pass of a fold as the first, and answers times of day that are over."""
    return not it.ours and it.hand.time_of_day and it.moment <= it.start and it.start.astimezone(it.zone).fold == 1


def walks_in_hours(it: Difference) -> bool:
    """Behind a jump that is not by whole hours at a whole hour its steps of one hour end between the hours until midnight."""
    odd = [change for change in it.changes(25) if not change.whole_hours]
    return it.ours and not it.hand.time_of_day and bool(odd)


def answers_a_midnight_that_does_not_exist(it: Difference) -> bool:
    """It goes to the next day by its midnight, which the clock jumps over."""
    return it.said is not None and not it.hand.time_of_day and _missing(it.said, it.zone) and it.said.hour == 0


def goes_back_to_the_first_pass(it: Difference) -> bool:
    """Within a fold it goes back to the full hour before, or on to a midnight, of the first pass, which is over."""
    wall = it.start.astimezone(it.zone)
    folded = wall.replace(fold=0).utcoffset() != wall.replace(fold=1).utcoffset()
    return not it.ours and not it.hand.time_of_day and it.moment <= it.start and folded


def loses_the_hour_behind_such_a_midnight(it: Difference) -> bool:
    """It goes on from there by an hour, past what the clock shows right behind the jump."""
    midnights = [change for change in it.changes(1) if change.gap and change.before.time() == time()]
    return it.ours and not it.hand.time_of_day and bool(midnights)


def goes_in_circles(hand: ByHand, zone: ZoneInfo, due: datetime) -> bool:
    """It never ends: the full hour it goes back to, in a fold that is not at a full hour, is in the pass before, again and again."""
    folds = [change for change in changes_between(zone, due - HOUR * 26, due + HOUR * 26) if not change.gap]
    return not hand.time_of_day and any(not change.whole_hours for change in folds)


CRONSIM: dict[str, Callable[[Difference], bool]] = {
    "answers times of day that are over, from the second pass of a fold": starts_in_the_past,
    "walks in hours over a jump that is not by whole hours": walks_in_hours,
    "answers a midnight that does not exist": answers_a_midnight_that_does_not_exist,
    "goes back to the first pass of a fold": goes_back_to_the_first_pass,
    "loses the hour behind a midnight that does not exist": loses_the_hour_behind_such_a_midnight,
}


# --- croniter


def moves_real_time_behind_a_gap(it: Difference) -> bool:
    """In a gap it treats whatever names hours as a time of day, also where a step or star in the minutes says otherwise."""
    return not it.ours and not it.hand.time_of_day and any(it.hand.matches(wall) for gap in it.gaps() for wall in swallowed(gap))


def repeats_a_time_of_day(it: Difference) -> bool:
    """In a fold it runs times of day in both passes."""
    return not it.ours and it.hand.time_of_day and it.moment.astimezone(it.zone).fold == 1


def wants_both_days(hand: ByHand) -> bool:
    """With the n-th or last weekday of a month it ANDs the two day fields, where neither starts with a star."""
    return not hand.both and any(sign in hand.texts[4] for sign in "#L")


def misses_one_of_two_days(it: Difference) -> bool:
    """The day is one by only one of the two fields."""
    walls = [wall_at(it.zone, it.moment), *(wall for gap in it.gaps() for wall in swallowed(gap))]
    apart = any(it.hand.matches(wall) and it.hand.by_day(wall) != it.hand.by_weekday(wall) for wall in walls)
    return it.ours and wants_both_days(it.hand) and apart


def loses_a_second_pass(it: Difference) -> bool:
    """It looks back by the size of the jump, finds a time before the fold, which is over, and takes the second pass for over too."""
    odd = [change for change in it.changes(1.1) if not change.gap and not change.whole_hours]
    return it.ours and not it.hand.time_of_day and it.moment.astimezone(it.zone).fold == 1 and bool(odd)


def overlooks_a_second_pass(it: Difference) -> bool:
    """It knows of a jump by the offset of its next candidate, and that of a summer to come is as it was before the fold."""
    folds = [change for change in it.changes(1.1) if not change.gap]
    before = [(change.at - MINUTE).astimezone(it.zone).utcoffset() for change in folds]
    second = it.moment.astimezone(it.zone).fold == 1
    return it.ours and not it.hand.time_of_day and second and it.then is not None and it.then.utcoffset() in before


def mixes_weekdays(hand: ByHand) -> bool:
    """It refuses a list of weekdays of which only some are the n-th or last of a month."""
    terms = hand.texts[4].split(",")
    special = [term for term in terms if "#" in term or term.endswith("L")]
    return 0 < len(special) < len(terms)


def takes_the_nth_alone(it: Difference) -> bool:
    """Of a weekday and the n-th of the same it knows only the n-th."""
    return it.ours and mixes_weekdays(it.hand)


def takes_every_hour_for_a_star(it: Difference) -> bool:
    """An hour field that names all 24 is a star to it, so that nothing is moved behind a gap."""
    return it.ours and it.hand.time_of_day and len(it.hand.hours) == 24 and bool(it.gaps())


CRONITER: dict[str, Callable[[Difference], bool]] = {
    "ANDs the day fields where one is the n-th or last weekday of a month": misses_one_of_two_days,
    "takes a weekday beside its n-th for the n-th alone": takes_the_nth_alone,
    "takes a field of all 24 hours for a star": takes_every_hour_for_a_star,
    "moves what follows real time behind a gap": moves_real_time_behind_a_gap,
    "runs a time of day in both passes of a fold": repeats_a_time_of_day,
    "loses the second pass of a fold that is not by whole hours": loses_a_second_pass,
    "overlooks the second pass of a fold, where the next slot is in another summer": overlooks_a_second_pass,
}


def swallowed(gap: Change) -> Iterator[datetime]:
    """The wall clock times that a gap has none of."""
    wall = gap.before
    while wall < gap.behind:
        yield wall
        wall += MINUTE


def _missing(said: datetime, zone: ZoneInfo) -> bool:
    return wall_at(zone, said.astimezone(UTC)) != said.replace(tzinfo=None)
