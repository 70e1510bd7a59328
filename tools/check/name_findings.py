"""Put what names say into words: which are wrong, and what the others tell."""

import numpy as np

from tools.check.findings import ERROR, FACT, OK, WARNING, Finding, plural
from tools.check.names import CONTRADICTION_M, NameFacts

NAME_FORMAT = (
    "@UTM_east@UTM_north@zone@letter@latitude@longitude@pano_id@tile@heading@pitch@roll@height"
    "@timestamp@note@.jpg"
)


def judge_names(facts: NameFacts, num_images: int, needs_headings: bool) -> list[Finding]:
    """Say which names are wrong and what the others tell.

    Args:
        facts: What the names say.
        num_images: How many images there are.
        needs_headings: Whether the images are to be trained on.
    """
    findings = [
        _judge_missing_positions(facts, num_images),
        _judge_impossible(facts),
        *_judge_zones(facts, needs_headings),
        _judge_contradictions(facts),
        *_judge_headings(facts, num_images, needs_headings),
        _judge_same_names(facts),
        _judge_years(facts),
    ]
    return [finding for finding in findings if finding is not None]


def _judge_missing_positions(facts: NameFacts, num_images: int) -> Finding:
    missing = facts.no_position
    if not missing.num:
        return Finding(OK, "positions", "in every name")
    return Finding(
        ERROR,
        "positions",
        f"{missing.num:,} of {plural(num_images, 'name')} have no UTM position (fields 1 and 2):",
        (*missing.examples, "Expected:", NAME_FORMAT),
        f"give {plural(missing.num, 'image')} a name with a position: python -m tools.convert "
        "makes names from GPS",
    )


def _judge_impossible(facts: NameFacts) -> Finding | None:
    if facts.are_degrees:
        return Finding(
            ERROR,
            "positions",
            "UTM east and north (fields 1 and 2) look like latitude and longitude in degrees",
            remedy="put UTM metres into fields 1 and 2: python -m tools.convert computes them",
        )
    if not facts.impossible.num:
        return None
    return Finding(
        WARNING,
        "positions",
        f"{plural(facts.impossible.num, 'name')} with UTM coordinates of no place on Earth "
        "(usual for sets without GPS, whose positions are invented):",
        facts.impossible.examples,
    )


def _judge_zones(facts: NameFacts, for_training: bool) -> list[Finding]:
    findings = [
        Finding(
            FACT,
            "area" if facts.zones[0] is zone else "",
            f"{zone.name}: {plural(zone.num_images, 'image')} at {plural(zone.num_places, 'place')}"
            f", {_format_metres(zone.extent_m[0])} east-west x "
            f"{_format_metres(zone.extent_m[1])} north-south",
        )
        for zone in facts.zones
    ]
    if len(facts.known_zones) > 1:
        names = ", ".join(zone.name for zone in facts.known_zones)
        if for_training:
            text = f"several ({names}): their coordinates cannot be compared as they are"
            remedy = f"keep to one UTM zone ({names}), or project all positions into one"
            findings.append(Finding(ERROR, "UTM zones", text, remedy=remedy))
        else:
            text = f"several ({names}): neighbouring ones are projected to one for evaluation"
            findings.append(Finding(WARNING, "UTM zones", text))
    return findings


def _judge_contradictions(facts: NameFacts) -> Finding | None:
    if not facts.num_with_degrees:
        return None
    contradicting = facts.contradicting
    if not contradicting.num:
        text = f"agree with UTM in {plural(facts.num_with_degrees, 'name')}, to "
        return Finding(OK, "lat, lon", f"{text}{facts.contradiction_m:.1f} m")
    farthest = ""  # latitude 95 is nowhere
    if facts.contradiction_m > CONTRADICTION_M:
        farthest = f", at most {_format_metres(facts.contradiction_m)}"
    return Finding(
        WARNING,
        "lat, lon",
        f"more than {CONTRADICTION_M:g} m from the UTM position in {contradicting.num:,} of "
        f"{plural(facts.num_with_degrees, 'name')}{farthest}:",
        contradicting.examples,
        f"make UTM and latitude, longitude agree in {plural(contradicting.num, 'name')}; "
        "recalls are measured by UTM",
    )


def _judge_headings(facts: NameFacts, num_images: int, needs_headings: bool) -> list[Finding]:
    if facts.no_position.num == num_images:
        return []  # said already
    findings = []
    num_missing = facts.no_heading.num + facts.bad_heading.num
    level = ERROR if needs_headings else FACT
    advice = f"write degrees into field 9 of {num_missing:,} names: training needs headings"
    remedy = advice if needs_headings else ""
    for cases, what in ((facts.no_heading, "is empty"), (facts.bad_heading, "is not a number")):
        if cases.num:
            text = f"field 9 {what} in {cases.num:,} of {plural(num_images, 'name')}"
            text += ":" if needs_headings else "; only training needs it"
            examples = cases.examples if needs_headings else ()
            findings.append(Finding(level, "headings", text, examples, remedy))
    headings_deg = facts.heading_deg[np.isfinite(facts.heading_deg)]
    if len(headings_deg) > 1 and not headings_deg.any():
        text = f"all {len(headings_deg):,} are 0: classes will not tell directions apart"
        level = WARNING if needs_headings else FACT
        findings.append(Finding(level, "headings", text))
    elif not findings:
        lowest, highest = headings_deg.min(), headings_deg.max()
        text = f"in every name, {lowest:g} to {highest:g} degrees"
        findings.append(Finding(OK, "headings", text))
    if facts.odd_heading.num:
        findings.append(
            Finding(
                WARNING,
                "headings",
                f"{plural(facts.odd_heading.num, 'heading')} outside 0 to 360 degrees; they are "
                "taken around the circle (370 is 10):",
                facts.odd_heading.examples,
            )
        )
    return findings


def _judge_same_names(facts: NameFacts) -> Finding | None:
    num = facts.same_name.num
    if not num:
        return None
    return Finding(
        WARNING,
        "duplicates",
        f"{plural(num, 'image')} with the name of an image in another sub-folder:",
        facts.same_name.examples,
        f"remove {plural(num, 'image')} of a repeated name, or rename them",
    )


def _judge_years(facts: NameFacts) -> Finding | None:
    bad = facts.bad_timestamps
    if bad.num:
        text = f"field 13 does not begin with a year (YYYYMM...) in {plural(bad.num, 'name')}:"
        return Finding(WARNING, "timestamps", text, bad.examples)
    if not facts.years:
        return None
    by_year = ", ".join(f"{year}: {count:,}" for year, count in sorted(facts.years.items()))
    return Finding(FACT, "years", by_year)


def _format_metres(distance_m: float) -> str:
    return f"{distance_m:,.0f} m" if distance_m < 10_000 else f"{distance_m / 1000:,.1f} km"
