//! The time of a job with the idle time cut out.
//!
//! Runs of a job may lie days apart. The level axis of the charts counts seconds of work: spans of batches are joined,
//! and what lies between those that are far apart takes no room.

use chrono::{DateTime, Timelike, Utc};

use super::number;

type Time = DateTime<Utc>;

/// Idle time that is short beside the work, or in itself, is left in.
const SHORT_IDLE_SECONDS: f64 = 60.0;
const SHORT_IDLE_SHARE: f64 = 0.03;

/// Steps of a clock and a calendar, in seconds.
const CLOCK: [i64; 17] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200];
const DAY: i64 = 86_400;

/// The time of a job with the idle time cut out.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    parts: Vec<TimelinePart>,
    busy_seconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct TimelinePart {
    from: Time,
    to: Time,
    /// Where the part begins, in seconds of work.
    place: f64,
}

impl Timeline {
    /// The timeline of spans of work; none without any.
    pub(super) fn of(spans: impl IntoIterator<Item = (Time, Time)>) -> Option<Timeline> {
        let mut spans: Vec<(Time, Time)> = spans.into_iter().map(|(from, to)| (from, to.max(from))).collect();
        spans.sort_unstable();
        let touching = joined(&spans, 0.0);
        let busy_seconds = touching.iter().map(|(from, to)| seconds(*from, *to)).sum::<f64>();
        let short = (busy_seconds * SHORT_IDLE_SHARE).max(SHORT_IDLE_SECONDS);
        let mut place = 0.0;
        let mut parts = Vec::new();
        for (from, to) in joined(&touching, short) {
            parts.push(TimelinePart { from, to, place });
            place += seconds(from, to);
        }
        (!parts.is_empty()).then_some(Timeline { parts, busy_seconds })
    }

    /// Seconds in which something was done.
    pub(super) fn busy_seconds(&self) -> f64 {
        self.busy_seconds
    }

    /// Length of the axis in seconds; never zero.
    pub(super) fn length(&self) -> f64 {
        self.parts.last().map_or(0.0, |part| part.place + seconds(part.from, part.to)).max(0.001)
    }

    /// When the work began, and when it ended.
    pub(super) fn ends(&self) -> Option<(Time, Time)> {
        Some((self.parts.first()?.from, self.parts.last()?.to))
    }

    /// Where a time stands, in seconds of work; time that is cut out stands where the work goes on.
    pub(super) fn place(&self, time: Time) -> f64 {
        let after = self.parts.partition_point(|part| part.from <= time);
        let Some(part) = after.checked_sub(1).and_then(|index| self.parts.get(index)) else {
            return 0.0;
        };
        part.place + seconds(part.from, time.min(part.to))
    }

    /// The time that stands at a place.
    pub(super) fn at(&self, place: f64) -> Time {
        let after = self.parts.partition_point(|part| part.place <= place);
        let Some(part) = after.checked_sub(1).and_then(|index| self.parts.get(index)) else {
            return self.parts.first().map_or(DateTime::UNIX_EPOCH, |part| part.from);
        };
        #[expect(clippy::cast_possible_truncation, reason = "a float that is too large becomes the largest")]
        let millis = ((place - part.place) * 1e3).round() as i64;
        part.from.checked_add_signed(chrono::TimeDelta::milliseconds(millis)).unwrap_or(part.to).min(part.to)
    }

    /// Where idle time is cut out.
    pub(super) fn cuts(&self) -> impl Iterator<Item = f64> {
        self.parts.iter().skip(1).map(|part| part.place)
    }

    /// What is written below the axis, and where.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match self.parts[..] {
            [part] => clock_ticks(part).unwrap_or_else(|| self.even_ticks()),
            _ => self.even_ticks(),
        }
    }

    /// Places at even distances, moved to where a part begins if that is near.
    fn even_ticks(&self) -> Vec<(f64, String)> {
        let Some((first, last)) = self.ends() else {
            return Vec::new();
        };
        let is_one_day = first.date_naive() == last.date_naive();
        let (number, form) = match (last - first).num_days() {
            _ if (last - first).num_seconds() < 60 => (3, "%H:%M:%S"),
            _ if is_one_day => (4, "%H:%M"),
            ..90 => (3, "%-d %b %H:%M"),
            _ => (4, "%-d %b %y"),
        };
        let length = self.length();
        let near = |place: f64| {
            let starts = self.parts.iter().map(|part| part.place);
            let nearest = starts.min_by(|a, b| (a - place).abs().total_cmp(&(b - place).abs()));
            nearest.filter(|start| (start - place).abs() < length * 0.07).unwrap_or(place)
        };
        let places = (0..number).map(|index| near(length * (f64::from(index) + 0.5) / f64::from(number)));
        places.map(|place| (place, self.at(place).format(form).to_string())).collect()
    }
}

/// Round times of the clock or the calendar; none where the part is too short for two of them.
fn clock_ticks(part: TimelinePart) -> Option<Vec<(f64, String)>> {
    let length = seconds(part.from, part.to);
    let step = CLOCK.into_iter().find(|step| number::float(step.unsigned_abs()) * 5.0 >= length);
    // Beyond half a day, whole days: as many as it takes for five steps at most.
    let step = step.unwrap_or_else(|| ((part.to - part.from).num_days() / 5 + 1) * DAY);
    let first = part.from.timestamp().div_euclid(step).checked_add(1)?.checked_mul(step)?;
    let times = (0..6).map_while(|index| DateTime::from_timestamp(first + index * step, 0));
    let ticks = times.take_while(|time| *time <= part.to).map(|time| {
        let form = match step {
            ..60 => "%H:%M:%S",
            DAY.. => "%-d %b",
            _ if time.num_seconds_from_midnight() == 0 => "%-d %b",
            _ => "%H:%M",
        };
        (part.place + seconds(part.from, time), time.format(form).to_string())
    });
    Some(ticks.collect::<Vec<_>>()).filter(|ticks| ticks.len() > 1)
}

/// Joins spans between which no more than `idle` seconds lie. They are in the order of their beginnings.
fn joined(spans: &[(Time, Time)], idle: f64) -> Vec<(Time, Time)> {
    let mut joined: Vec<(Time, Time)> = Vec::new();
    for (from, to) in spans.iter().copied() {
        match joined.last_mut() {
            Some(last) if seconds(last.1, from) <= idle => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// From one time to another, in seconds.
fn seconds(from: Time, to: Time) -> f64 {
    let millis = (to - from).num_milliseconds();
    number::float(millis.unsigned_abs()) / 1e3 * if millis < 0 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Time {
        DateTime::from_timestamp(1_770_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn idle_time_takes_no_room() {
        let timeline =
            Timeline::of([(time(90_000), time(90_050)), (time(0), time(60)), (time(40), time(100))]).unwrap();
        assert_eq!((timeline.length(), timeline.busy_seconds()), (150.0, 150.0));
        assert_eq!(timeline.cuts().collect::<Vec<_>>(), [100.0]);
        let places = [-5, 0, 60, 5_000, 90_000, 90_010, 99_999].map(|at| timeline.place(time(at)));
        assert_eq!(places, [0.0, 0.0, 60.0, 100.0, 100.0, 110.0, 150.0]);
        assert_eq!([-1.0, 60.0, 110.0].map(|place| timeline.at(place)), [time(0), time(60), time(90_010)]);
    }

    #[test]
    fn ticks_stand_within_the_axis_and_in_order() {
        for length in [0, 1, 4, 59, 600, 4_000, 90_000, 3_000_000, 900_000_000] {
            for second in [0, length * 2 + 100_000] {
                let spans = [(time(0), time(length)), (time(second), time(second + length / 2))];
                let timeline = Timeline::of(spans).unwrap();
                let ticks = timeline.ticks();
                assert!((2..=6).contains(&ticks.len()), "{length}: {ticks:?}");
                assert!(ticks.is_sorted_by(|a, b| a.0 <= b.0), "{length}: {ticks:?}");
                assert!(ticks.iter().all(|(place, _)| (0.0..=timeline.length()).contains(place)));
            }
        }
        assert!(Timeline::of([]).is_none());
    }

    #[test]
    fn a_batch_that_ends_before_it_begins_takes_no_time() {
        let timeline = Timeline::of([(time(10), time(5))]).unwrap();
        assert_eq!((timeline.busy_seconds(), timeline.place(time(10))), (0.0, 0.0));
        assert!(timeline.length() > 0.0);
    }
}
