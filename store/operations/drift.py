"""Monitoring: counts of each day, the acceptance window they are held against, and alarms.

`reconcile` calls `step`. What a day holds is counted anew while it may still change; a day that is over is
watched once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Date, cast, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.accounts.accounts import write_audit
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.session import session_scope
from store.base.tables import Site
from store.bundles.bundle_tables import Promotion
from store.operations import drift_statistics as rules
from store.operations.drift_statistics import (
    BINS,
    DISTANCE_BINS,
    FARTHEST_OCTAVE,
    HIGHEST,
    LOWEST,
    NEAREST_OCTAVE,
    RECENT_DAYS,
    Counts,
    Part,
    Watch,
)
from store.operations.drift_tables import Device, DriftAlarm, DriftBaseline, DriftDay
from store.outgoing import notices
from vocabulary.anatomy import part_words as region_words

#: Days that may still change: images end today, and a transaction of yesterday may commit.
OPEN_DAYS = 2


def step() -> None:
    """Count the last days, and watch those that are over."""
    with session_scope() as session:
        wait_for_lock(session, AdvisoryLock.MONITORING)
        today = session.scalars(select(cast(func.timezone("UTC", func.now()), Date))).one()
        count_days(session, today - timedelta(days=OPEN_DAYS - 1))
        for site in session.scalars(select(Site).where(Site.default_bundle.is_not(None))):
            watch(session, site.id, site.default_bundle or "", today)


# counting

#: What ended since a day, but for research and copies; bins are those of `drift_statistics.Counts`.
_COUNTED = """
    SELECT i.site_id, b.bundle, (i.finished_at AT TIME ZONE 'UTC')::date AS day,
           coalesce(i.region, '') AS region, coalesce(i.device_id::text, '') AS device,
           i.status = 'rejected' AS rejected, i.triage,
           CASE WHEN i.triage <> 'not_assessable'
                THEN width_bucket(f.logit, :lowest, :highest, :bins) END AS bin,
           CASE WHEN f.distance > 0 AND f.distance < 'Infinity'
                THEN width_bucket(log(f.distance::numeric) / log(2.0), :nearest, :farthest, :distance_bins)
                END AS distance_bin,
           count(*) AS n
    FROM images i JOIN batches b ON b.id = i.batch_id LEFT JOIN findings f ON f.id = i.finding_id
    WHERE i.finished_at >= CAST(:since AS date)::timestamp AT TIME ZONE 'UTC' AND b.run_id IS NULL
          AND i.status IN ('done', 'rejected') AND i.reason IS DISTINCT FROM 'duplicate_in_study'
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"""


def count_days(session: Session, since: date) -> None:
    """Count anew what ended since a day (UTC); a day may lose what was erased."""
    found: dict[tuple[Any, ...], Counts] = {}
    given = {
        **{"since": since, "lowest": LOWEST, "highest": HIGHEST, "bins": BINS},
        **{"nearest": NEAREST_OCTAVE, "farthest": FARTHEST_OCTAVE, "distance_bins": DISTANCE_BINS},
    }
    for row in session.execute(text(_COUNTED), given):
        counts = found.setdefault((row.site_id, row.bundle, row.day, row.region, row.device), Counts())
        counts.n += row.n
        if row.rejected:
            counts.rejected += row.n
        elif row.triage in rules.RATES:
            setattr(counts, row.triage, getattr(counts, row.triage) + row.n)
        if row.bin is not None:
            counts.logits[row.bin] += row.n
        if row.distance_bin is not None:
            counts.distances[row.distance_bin] += row.n
    session.execute(delete(DriftDay).where(DriftDay.day >= since))
    keys = ("site_id", "bundle", "day", "region", "device")
    rows = [
        {**dict(zip(keys, key, strict=True)), **{k: v for k, v in asdict(counts).items() if k != "devices"}}
        for key, counts in found.items()
    ]
    for start in range(0, len(rows), 1000):
        session.execute(insert(DriftDay).values(rows[start : start + 1000]))


#: Of `days_of`: what came of all images.
ALL = ""


def days_of(session: Session, site_id: uuid.UUID, bundle: str, since: date) -> dict[str, dict[date, Counts]]:
    """Return what came of each day since one: of `ALL` images, of each region and of each device.

    Regions and devices have their `part_of` as key. Of days without images there is nothing.
    """
    query = select(DriftDay).where(
        DriftDay.site_id == site_id, DriftDay.bundle == bundle, DriftDay.day >= since
    )
    found: dict[str, dict[date, Counts]] = {ALL: {}}
    for row in session.scalars(query.order_by(DriftDay.day)):
        counts = _counts(row)
        names = [ALL]
        if row.region:
            names.append(part_of("region", row.region))
        if row.device:
            names.append(part_of("device", row.device))
        for name in names:
            found.setdefault(name, {}).setdefault(row.day, Counts()).add(counts)
    return found


def part_of(kind: str, name: str) -> str:
    """Return what a region or a device is called in `DriftAlarm.part` and `DriftBaseline.parts`."""
    return f"{kind} {name}"


def _counts(row: DriftDay) -> Counts:
    devices = {row.device: row.n} if row.device else {}
    found = Counts(
        row.n, row.positive, row.doubt, row.not_assessable, row.rejected, list(row.logits), devices
    )
    if row.distances:
        found.distances = list(row.distances)
    return found


# watching


def latest_baseline(session: Session, site_id: uuid.UUID) -> DriftBaseline | None:
    """Return the acceptance window that counts at a site."""
    query = select(DriftBaseline).where(DriftBaseline.site_id == site_id)
    return session.scalars(query.order_by(DriftBaseline.created_at.desc()).limit(1)).first()


def _current(session: Session, site_id: uuid.UUID, bundle: str, today: date) -> DriftBaseline:
    """Return the window of the bundle that serves, a new one since it was promoted last."""
    promoted = session.scalar(select(func.max(Promotion.at)).where(Promotion.site_id == site_id))
    found = latest_baseline(session, site_id)
    if found is not None and found.bundle == bundle and (promoted is None or found.created_at >= promoted):
        return found
    # images that a bundle read before the service watched it are as good as any
    first = session.scalar(
        select(func.min(DriftDay.day)).where(DriftDay.site_id == site_id, DriftDay.bundle == bundle)
    )
    begin = promoted.date() if promoted is not None else (first or today)
    return _open(session, site_id, bundle, begin)


def _open(session: Session, site_id: uuid.UUID, bundle: str, begin: date) -> DriftBaseline:
    made = DriftBaseline(
        site_id=site_id,
        bundle=bundle,
        started_on=begin,
        counts={},
        sums={},
        rests={},
        created_at=func.clock_timestamp(),
    )
    session.add(made)
    session.flush()
    session.refresh(made)
    return made


def restart(session: Session, site_id: uuid.UUID, *, by: uuid.UUID | None = None) -> None:
    """Take what comes from tomorrow on as the acceptance window: a person knows why it is another."""
    bundle = session.get_one(Site, site_id).default_bundle
    if bundle is not None:
        tomorrow = session.scalars(select(cast(func.timezone("UTC", func.now()), Date) + 1)).one()
        made = _open(session, site_id, bundle, tomorrow)
        write_audit(session, site_id, by, "monitoring_restarted", made.id)


def watch(session: Session, site_id: uuid.UUID, bundle: str, today: date) -> list[DriftAlarm]:
    """Take in the days before today that were not watched yet; return the alarms that they raise."""
    baseline = _current(session, site_id, bundle, today)
    since = baseline.started_on
    if baseline.watched_to is not None:
        since = max(since, baseline.watched_to - timedelta(days=RECENT_DAYS))
    days = days_of(session, site_id, bundle, since)
    if baseline.frozen_on is None and not _freeze(baseline, days[ALL], today):
        return []
    assert baseline.frozen_on is not None
    state = Watch(Counts(**baseline.counts), dict(baseline.sums), dict(baseline.rests))
    parts = parts_of(baseline)
    by_part = {name: of_part for name, of_part in days.items() if name != ALL}
    raised: list[DriftAlarm] = []
    day = baseline.started_on if baseline.watched_to is None else baseline.watched_to + timedelta(days=1)
    while day < today:
        found = rules.advance_parts(parts, by_part, day)
        if day > baseline.frozen_on:
            recent = _recent(days[ALL], day, baseline.frozen_on)
            found += [(ALL, alarm) for alarm in state.advance(days[ALL].get(day, Counts()), recent)]
        for part, alarm in found:
            raised.append(
                DriftAlarm(
                    site_id=site_id,
                    baseline_id=baseline.id,
                    bundle=bundle,
                    day=day,
                    signal=alarm.signal,
                    part=part,
                    value=alarm.value,
                    limit=alarm.limit,
                )
            )
        baseline.watched_to = day
        day += timedelta(days=1)
    baseline.sums, baseline.rests = state.sums, state.rests
    baseline.parts = {name: _written(part) for name, part in parts.items()}
    session.add_all(raised)
    session.flush()
    if raised:
        words = part_words(session, site_id)
        told = {f"{a.signal} ({words(a.part)})" if a.part else a.signal for a in raised}
        notices.monitoring_alarm(session, site_id, bundle, sorted(told))
    return raised


def _recent(days: Mapping[date, Counts], day: date, frozen_on: date) -> Counts:
    near = (day - timedelta(days=n) for n in range(RECENT_DAYS))
    return rules.total(days[each] for each in near if each in days and each > frozen_on)


def parts_of(baseline: DriftBaseline) -> dict[str, Part]:
    """Return the windows of regions and devices, and their sums."""
    found = {}
    for name, kept in baseline.parts.items():
        frozen_on = date.fromisoformat(kept["frozen_on"]) if kept["frozen_on"] else None
        found[name] = Part(**{**kept, "counts": Counts(**kept["counts"]), "frozen_on": frozen_on})
    return found


def _written(part: Part) -> dict[str, Any]:
    return {**asdict(part), "frozen_on": part.frozen_on and part.frozen_on.isoformat()}


def part_words(session: Session, site_id: uuid.UUID) -> Callable[[str], str]:
    """Return what says which region or device a part is."""
    names = _device_names(session, site_id)

    def words(part: str) -> str:
        kind, _, name = part.partition(" ")
        return f"{kind} {names.get(name, name) if kind == 'device' else region_words(name)}"

    return words


def _freeze(baseline: DriftBaseline, days: dict[date, Counts], today: date) -> bool:
    """Close an acceptance window that has enough; days without images count for none."""
    taken: list[Counts] = []
    for day, counts in days.items():
        if day >= today:
            return False
        taken.append(counts)
        summed = rules.total(taken)
        if len(taken) >= rules.WINDOW_DAYS and summed.scored >= rules.WINDOW_IMAGES:
            baseline.frozen_on, baseline.counts = day, asdict(summed)
            return True
    return False


@dataclass(frozen=True)
class Watched:
    """A day as the page shows it.

    Attributes
    ----------
    sums
        Signal -> sum after it; empty while the acceptance window is open.
    shift
        PSI of the last days; None where they have too few scores.
    """

    day: date
    counts: Counts
    sums: dict[str, float]
    shift: float | None


def watched_days(session: Session, baseline: DriftBaseline, days: int = 60) -> list[Watched]:
    """Return the last days of a bundle at a site, with the sums as `watch` had them."""
    found = days_of(session, baseline.site_id, baseline.bundle, baseline.started_on)[ALL]
    if not found:
        return []
    state = Watch(Counts(**baseline.counts)) if baseline.frozen_on is not None else None
    out: list[Watched] = []
    day, last = baseline.started_on, max(found)
    while day <= last:
        counts, shift, sums = found.get(day, Counts()), None, {}
        if state is not None and baseline.frozen_on is not None and day > baseline.frozen_on:
            recent = _recent(found, day, baseline.frozen_on)
            state.advance(counts, recent)
            sums = dict(state.sums)
            if recent.scored >= rules.PSI_IMAGES:
                shift = rules.psi(state.baseline.logits, recent.logits)
        out.append(Watched(day, counts, sums, shift))
        day += timedelta(days=1)
    return out[-days:]


@dataclass(frozen=True)
class PartShown:
    """A region or device as the page shows it.

    Attributes
    ----------
    counts
        Of the last days.
    part
        Its window and its sums; None where nothing was watched yet.
    """

    name: str
    counts: Counts
    part: Part | None


def by_device(session: Session, baseline: DriftBaseline, since: date) -> list[PartShown]:
    """Return what came of the images of each device since a day, the busiest first; its name in words."""
    names = _device_names(session, baseline.site_id)
    return _by(session, baseline, since, "device", lambda key: names.get(key, "not stated"))


def by_region(session: Session, baseline: DriftBaseline, since: date) -> list[PartShown]:
    """Return what came of the images of each region since a day, the busiest first."""
    return _by(session, baseline, since, "region", lambda key: key or "not told")


def _device_names(session: Session, site_id: uuid.UUID) -> dict[str, str]:
    return {
        str(each.id): " ".join(
            filter(None, (each.manufacturer, each.model, each.station and each.station[:8]))
        )
        for each in session.scalars(select(Device).where(Device.site_id == site_id))
    }


def _by(
    session: Session, baseline: DriftBaseline, since: date, kind: str, name: Callable[[str], str]
) -> list[PartShown]:
    query = select(DriftDay).where(
        DriftDay.site_id == baseline.site_id, DriftDay.bundle == baseline.bundle, DriftDay.day >= since
    )
    found: dict[str, Counts] = {}
    for row in session.scalars(query):
        found.setdefault(getattr(row, kind), Counts()).add(_counts(row))
    parts = parts_of(baseline)
    shown = [
        PartShown(name(key), counts, parts.get(part_of(kind, key)) if key else None)
        for key, counts in found.items()
    ]
    return sorted(shown, key=lambda each: -each.counts.n)


def alarms(session: Session, site_id: uuid.UUID, limit: int = 50) -> list[DriftAlarm]:
    """Return a site's alarms, the newest first."""
    query = select(DriftAlarm).where(DriftAlarm.site_id == site_id)
    order = (DriftAlarm.day.desc(), DriftAlarm.created_at.desc(), DriftAlarm.signal)
    return list(session.scalars(query.order_by(*order).limit(limit)))


# devices


def register_devices(session: Session, site_id: uuid.UUID, found: Sequence[tuple[str, str, str]]) -> None:
    """Make the rows of devices (manufacturer, model, station) that are not there yet."""
    rows = [
        {"id": uuid.uuid4(), "site_id": site_id, "manufacturer": maker, "model": model, "station": station}
        for maker, model, station in sorted(set(found))
    ]
    if rows:
        session.execute(insert(Device).values(rows).on_conflict_do_nothing())


def device_ids(session: Session, site_id: uuid.UUID) -> dict[tuple[str, str, str], uuid.UUID]:
    """Return the site's devices."""
    query = select(Device).where(Device.site_id == site_id)
    return {(each.manufacturer, each.model, each.station): each.id for each in session.scalars(query)}


# what a page shows beside


@dataclass(frozen=True)
class Week:
    """Of a week: answers of readers that agree with the AI and that do not, and how long deliveries took.

    Attributes
    ----------
    begins
        Its Monday.
    median_seconds
        From the finding to the archive's commitment; None where nothing was delivered.
    """

    begins: date
    agree: int
    disagree: int
    delivered: int
    median_seconds: float | None


_WEEKS = """
    WITH weeks AS (SELECT generate_series(date_trunc('week', now()) - make_interval(weeks => :n - 1),
                                          date_trunc('week', now()), '1 week') AS week),
    said AS (SELECT date_trunc('week', created_at) AS week,
                    count(*) FILTER (WHERE answer || ' ' || triage IN ('present positive', 'absent negative'))
                        AS agree,
                    count(*) FILTER (WHERE answer || ' ' || triage IN ('present negative', 'absent positive'))
                        AS disagree
             FROM reviews WHERE site_id = :site AND bundle = :bundle GROUP BY 1),
    sent AS (SELECT date_trunc('week', d.committed_at) AS week, count(*) AS n,
                    percentile_cont(0.5) WITHIN GROUP (
                        ORDER BY extract(epoch FROM d.committed_at - f.created_at)) AS median
             FROM deliveries d JOIN study_findings f ON f.id = d.study_finding_id
             WHERE d.site_id = :site AND f.bundle = :bundle AND d.committed_at IS NOT NULL GROUP BY 1)
    SELECT weeks.week::date, coalesce(agree, 0), coalesce(disagree, 0), coalesce(sent.n, 0), median
    FROM weeks LEFT JOIN said USING (week) LEFT JOIN sent USING (week) ORDER BY 1"""


def weeks(session: Session, site_id: uuid.UUID, bundle: str, n: int = 12) -> list[Week]:
    """Return the last weeks."""
    rows = session.execute(text(_WEEKS), {"site": site_id, "bundle": bundle, "n": n})
    return [
        Week(begins, agree, disagree, delivered, None if median is None else float(median))
        for begins, agree, disagree, delivered, median in rows
    ]
