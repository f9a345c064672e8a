//! The time axis of the page, and the equal buckets that charts count in.
//!
//! Runs of a job may lie days apart. The axis counts seconds of work: the spans of batches are joined, and idle time
//! between spans that are far apart takes no room. A batch has one sum for its whole span, so that sum is spread evenly
//! over the buckets that the span covers. There are never more buckets than batches, nor more than a chart has room
//! for.

use chrono::{DateTime, Timelike, Utc};

use super::format;
use crate::metrics::MetricsRow;

type Time = DateTime<Utc>;

/// Idle time up to this many seconds, or up to this share of the busy time, is not cut out.
const SHORT_IDLE_SECONDS: f64 = 60.0;
const SHORT_IDLE_SHARE: f64 = 0.03;

/// Distances between ticks on a clock, in seconds. Beyond them ticks are whole days apart.
const CLOCK: [i64; 17] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200];
const DAY: i64 = 86_400;

/// The time of a job with idle time cut out.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    parts: Vec<TimelinePart>,
    busy_seconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct TimelinePart {
    from: Time,
    to: Time,
    /// Start of the part on the axis, in seconds of work.
    place: f64,
}

impl Timeline {
    /// Returns the timeline of spans of work, or `None` without any.
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

    /// Returns the number of seconds in which work was done.
    pub(super) fn busy_seconds(&self) -> f64 {
        self.busy_seconds
    }

    /// Returns the length of the axis in seconds; never zero.
    pub(super) fn length(&self) -> f64 {
        self.parts.last().map_or(0.0, |part| part.place + seconds(part.from, part.to)).max(0.001)
    }

    /// Returns when the work began and when it ended.
    pub(super) fn ends(&self) -> Option<(Time, Time)> {
        Some((self.parts.first()?.from, self.parts.last()?.to))
    }

    /// Returns the place of a time on the axis, in seconds of work. Time that is cut out has the place where the work
    /// goes on.
    pub(super) fn place(&self, time: Time) -> f64 {
        let after = self.parts.partition_point(|part| part.from <= time);
        let Some(part) = after.checked_sub(1).and_then(|index| self.parts.get(index)) else {
            return 0.0;
        };
        part.place + seconds(part.from, time.min(part.to))
    }

    /// Returns the time at a place on the axis.
    pub(super) fn at(&self, place: f64) -> Time {
        let after = self.parts.partition_point(|part| part.place <= place);
        let Some(part) = after.checked_sub(1).and_then(|index| self.parts.get(index)) else {
            return self.parts.first().map_or(DateTime::UNIX_EPOCH, |part| part.from);
        };
        #[expect(clippy::cast_possible_truncation, reason = "a float that is too large becomes the largest")]
        let millis = ((place - part.place) * 1e3).round() as i64;
        part.from.checked_add_signed(chrono::TimeDelta::milliseconds(millis)).unwrap_or(part.to).min(part.to)
    }

    /// Returns the places where idle time is cut out.
    pub(super) fn cuts(&self) -> impl Iterator<Item = f64> {
        self.parts.iter().skip(1).map(|part| part.place)
    }

    /// Returns the labels below the axis, with their places.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match self.parts[..] {
            [part] => clock_ticks(part).unwrap_or_else(|| self.even_ticks()),
            _ => self.even_ticks(),
        }
    }

    /// Returns ticks at even distances, moved to the start of a part if one is near.
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

/// Returns ticks at round times of the clock or the calendar, or `None` if the part is too short for two of them.
fn clock_ticks(part: TimelinePart) -> Option<Vec<(f64, String)>> {
    let length = seconds(part.from, part.to);
    let step = CLOCK.into_iter().find(|step| format::float(step.unsigned_abs()) * 5.0 >= length);
    // Beyond half a day the step is whole days, so many that there are five steps at most.
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

/// Joins spans with at most `idle` seconds between them. The spans are ordered by start.
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

/// Returns the seconds from one time to another; negative if the second is earlier.
fn seconds(from: Time, to: Time) -> f64 {
    let millis = (to - from).num_milliseconds();
    format::float(millis.unsigned_abs()) / 1e3 * if millis < 0 { -1.0 } else { 1.0 }
}

const MAX_BUCKETS: usize = 120;

/// Equal parts of a timeline.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    timeline: Timeline,
    number: usize,
}

impl Buckets {
    /// Divides a timeline into one bucket per batch, `MAX_BUCKETS` at most.
    pub(super) fn new(timeline: Timeline, batches: usize) -> Self {
        Buckets { timeline, number: batches.clamp(1, MAX_BUCKETS) }
    }

    /// Returns the timeline that the buckets divide.
    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Returns the number of buckets, at least 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Returns the length of each bucket in seconds; never zero.
    pub(super) fn seconds(&self) -> f64 {
        self.timeline.length() / format::float_of(self.number)
    }

    /// Returns the buckets that a span covers, each with the share of the span in it. The shares add up to 1.
    pub(super) fn shares(
        &self,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
    ) -> impl Iterator<Item = (usize, f64)> {
        let begin = self.timeline.place(from) / self.seconds();
        let end = (self.timeline.place(to.max(from)) / self.seconds()).max(begin);
        let last = self.number - 1;
        let (first, final_) = (bucket_index(begin, last), bucket_index(end, last));
        (first..=final_).filter_map(move |bucket| {
            // A single bucket takes the whole, so that rounding and spans of no length lose nothing.
            if first == final_ {
                return Some((bucket, 1.0));
            }
            let (low, high) = (format::float_of(bucket), format::float_of(bucket + 1));
            let share = (end.min(high) - begin.max(low)) / (end - begin);
            (share > 0.0).then_some((bucket, share))
        })
    }

    /// Returns the sum in each bucket of amounts that are spread over their spans.
    pub(super) fn sums(
        &self,
        amounts: impl IntoIterator<Item = ((DateTime<Utc>, DateTime<Utc>), f64)>,
    ) -> Vec<f64> {
        let mut sums = vec![0.0; self.number];
        for (span, amount) in amounts.into_iter().filter(|(_, amount)| *amount > 0.0) {
            for (bucket, share) in self.shares(span) {
                if let Some(sum) = sums.get_mut(bucket) {
                    *sum += share * amount;
                }
            }
        }
        sums
    }

    /// Returns the sum in each bucket of one figure of rows of metrics.
    pub(super) fn sums_of<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a MetricsRow>,
        figure: impl Fn(&MetricsRow) -> u64,
    ) -> Vec<f64> {
        self.sums(rows.into_iter().map(|row| (bucket_span(row), format::float(figure(row)))))
    }
}

/// Returns the start and the end of the batch of a row of metrics.
pub(super) fn bucket_span(row: &MetricsRow) -> (DateTime<Utc>, DateTime<Utc>) {
    (row.started_at, row.committed_at)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the last bucket bounds it")]
fn bucket_index(place: f64, last: usize) -> usize {
    (place as usize).min(last)
}

/// Returns the median of the finite values, or `None` without any.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Returns the highest of the finite values, or 0 without any.
pub(super) fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max)
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

    #[test]
    fn nothing_is_lost_between_buckets() {
        let spans = [(0, 10), (3, 97), (97, 97), (50, 100), (100, 100), (0, 100)];
        let spans = spans.map(|(from, to)| (time(from), time(to)));
        let buckets = Buckets::new(Timeline::of(spans).unwrap(), 7);
        for span in spans {
            let sum = buckets.shares(span).map(|(_, share)| share).sum::<f64>();
            assert!((sum - 1.0).abs() < 1e-9, "{span:?}: {sum}");
        }
    }

    #[test]
    fn one_batch_of_no_length_is_one_bucket() {
        let span = (time(0), time(0));
        let buckets = Buckets::new(Timeline::of([span]).unwrap(), 1);
        assert_eq!(buckets.sums([(span, 5.0)]), [5.0]);
        assert_eq!(Buckets::new(Timeline::of([span]).unwrap(), 20_000).number(), 120);
    }
}
