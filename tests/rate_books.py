"""gateway.buy_calls once more, in Python and as plainly as can be: every call is an entry.

The windows of its report are not rounded to slots, so it may grant a little more than the database
does; tests say by how much.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.model import RateGrant, RateOrder, RateTerms

QUIET_SECONDS = 10.0
NEVER = float("-inf")


@dataclass
class Share:
    number: int = 0
    calls: int = 0
    until: float = NEVER
    exclusive: bool = False
    asked_at: float = NEVER
    waits_from: float | None = None


@dataclass
class Books:
    """The books of one vendor; ``clock`` is the database's."""

    next_from: float = NEVER
    used: list[tuple[float, int]] = field(default_factory=list)
    shares: dict[str, Share] = field(default_factory=dict)

    def buy(self, node: str, *, terms: RateTerms, order: RateOrder, now: float) -> RateGrant | None:
        own = self.shares.setdefault(node, Share())
        if own.number >= order.number:
            return None
        own.number = order.number
        self.used += [(now - age, calls) for age, calls in order.used]
        others = [share for name, share in self.shares.items() if name != node]
        short = max((period for period in terms.periods_seconds if period < 60), default=0.0)
        rivals = any(
            share.asked_at > now - QUIET_SECONDS or share.until + short * 1.05 > now
            for share in others
        )
        taken = any(share.exclusive and share.until > now for share in others)
        own.calls = min(own.calls, order.kept)
        if order.wants:
            own.asked_at = now
        if own.exclusive and rivals and not order.releases:
            return _grant(until=own.until - now, exclusive=True, contended=True)
        alone = terms.exclusive_seconds > 0 and not rivals and not order.releases
        pace = 0.0 if alone else terms.pace_seconds
        queued = any(
            share.asked_at > now - 6.0
            and share.waits_from is not None
            and (own.waits_from is None or share.waits_from < own.waits_from)
            for share in others
        )
        ahead = now + terms.ahead_seconds * (0.5 if queued else 1.0)
        start = now if alone else max(now, self.next_from)
        bearing: list[tuple[int, float]] = []  # how many more there are to sell before it is out
        most = order.wanted
        for count, period in zip(terms.counts, terms.periods_seconds, strict=True):
            if alone and period < 60:
                continue
            most = min(most, count)
            span = period + min(period * 0.05, 0.25)
            charges = [(until + span, calls) for until, calls in self.used]
            charges += [
                (share.until + span, count if share.exclusive and period < 60 else share.calls)
                for share in others
            ]
            charges.append((own.until + span, own.calls))
            spare = count
            for out_at, calls in sorted(charges, reverse=True):
                if out_at > now and calls:
                    spare -= calls
                    bearing.append((spare, out_at))
        room = min(
            [most] + [spare for spare, out_at in bearing if out_at - max(spare, 0) * pace > ahead]
        )
        first = max([start] + [out_at for spare, out_at in bearing if spare < 1])
        start = max(
            [start] + [out_at - max(spare, 0) * pace for spare, out_at in bearing if spare < room]
        )
        if start > ahead or room < 0:
            room = 0
        if alone:
            own.until = now + terms.exclusive_seconds
        elif room:
            until = start + (room - 1) * terms.pace_seconds + terms.valid_seconds
            own.until = max(until, own.until) if own.calls else until
            self.next_from = start + room * terms.pace_seconds
        own.until = now if own.until == NEVER else own.until
        own.calls += room
        own.exclusive = alone
        if room or not order.wants:
            own.waits_from = None
        elif order.wanted and own.waits_from is None:
            own.waits_from = now
        return RateGrant(
            granted=room,
            from_seconds=start - now,
            until_seconds=own.until - now,
            exclusive=alone,
            contended=rivals,
            retry_seconds=0.1 if taken else max(0.0, first - ahead),
        )


def _grant(*, until: float, exclusive: bool, contended: bool) -> RateGrant:
    return RateGrant(
        granted=0,
        from_seconds=0.0,
        until_seconds=until,
        exclusive=exclusive,
        contended=contended,
        retry_seconds=0.0,
    )
