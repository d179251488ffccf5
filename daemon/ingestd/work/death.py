"""Judges from outside whether a node is dead, and never by what was seen before an outage of the one who judges.

A look is worth something only if it follows the last one closely: whoever was stopped, cut off, or waited for a server that was
busy starting has not seen others being silent, he has not looked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

LOOKS = 3
# A rescuer looks once a second; one that has not for so long begins anew.
LONGEST_GAP_S = 5.0
# After an outage living nodes have that long to take their locks again.
SETTLES_S = 30.0
# A heartbeat must have stood still before our own eyes for that long: a row can look old because everybody was away.
WATCHED_S = 30.0
# Behind a pooler no session tells of life: beats come every 2 s, and silence of 30 s is death.
SILENT_S = 30.0


@dataclass
class Seen:
    """What was seen of one node.

    Args:
        beat: its last heartbeat, by the database's clock.
        beat_since: when that beat was seen first, by our clock, in seconds.
        free: looks in a row at which its lock was free.
    """

    beat: datetime
    beat_since: float
    free: int = 0


class DeathWatch:
    """Remembers what one rescuer has seen of its peers.

    Args:
        stall_limit_s: a process that lives, and has not beaten for so long, is as good as dead; in seconds.
    """

    def __init__(self, stall_limit_s: float) -> None:
        self._stall_limit_s = stall_limit_s
        self._seen: dict[UUID, Seen] = {}
        self._session = 0
        self._looked_at = 0.0
        self._broke_at = -SETTLES_S

    def look(self, now: float, session: int, beats: dict[UUID, datetime]) -> None:
        """Begin a look.

        Args:
            now: our clock, in seconds.
            session: of our own heartbeat; another one than last time means that the server was away for us too.
            beats: every peer's last heartbeat.
        """
        if session != self._session or now - self._looked_at > LONGEST_GAP_S:
            self._seen.clear()
            if self._session and session != self._session:
                self._broke_at = now
        self._session, self._looked_at = session, now
        for node in self._seen.keys() - beats.keys():
            del self._seen[node]
        for node, beat in beats.items():
            seen = self._seen.setdefault(node, Seen(beat, now))
            if seen.beat != beat:
                seen.beat, seen.beat_since = beat, now

    def lock_seen(self, node: UUID, *, free: bool) -> bool:
        """Note whether a node's session lock was free; returns whether that is its death.

        It is after enough looks in a row, unless our own session broke a moment ago: a server that has crashed and recovered counts
        as up all the time, and others may need longer than we did to take their locks again.
        """
        seen = self._seen[node]
        seen.free = seen.free + 1 if free else 0
        return seen.free >= LOOKS and self._looked_at - self._broke_at >= SETTLES_S

    def is_silent(self, node: UUID, silent_s: float, *, lives_elsewhere_by_heartbeat: bool) -> bool:
        """Whether a node's heartbeat has stood still for too long, by the database's clock and before our own eyes.

        Args:
            silent_s: age of its heartbeat by the database's clock, in seconds.
            lives_elsewhere_by_heartbeat: nothing but the heartbeat can tell of its life.
        """
        limit = SILENT_S if lives_elsewhere_by_heartbeat else self._stall_limit_s
        watched = self._looked_at - self._seen[node].beat_since
        return silent_s > limit and watched >= min(limit, WATCHED_S)
