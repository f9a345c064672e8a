//! Equal parts of the time of work, into which batches are spread.
//!
//! A batch tells sums of its whole span, so its sums are spread evenly over the buckets that it lies in. There are
//! never more buckets than batches, nor more than a chart has room for.

use chrono::{DateTime, Utc};

use super::data::MetricsRow;
use super::number;
use super::timeline::Timeline;

const MOST: usize = 120;

/// Equal parts of the time of work.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    timeline: Timeline,
    number: usize,
}

impl Buckets {
    /// Buckets for so many batches.
    pub(super) fn new(timeline: Timeline, batches: usize) -> Self {
        Buckets { timeline, number: batches.clamp(1, MOST) }
    }

    /// The time that they divide.
    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// How many there are: one or more.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Length of each in seconds; never zero.
    pub(super) fn seconds(&self) -> f64 {
        self.timeline.length() / number::float_of(self.number)
    }

    /// The buckets that a span lies in, each with the share of the span that lies there. The shares add up to 1.
    pub(super) fn shares(
        &self,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
    ) -> impl Iterator<Item = (usize, f64)> {
        let begin = self.timeline.place(from) / self.seconds();
        let end = (self.timeline.place(to.max(from)) / self.seconds()).max(begin);
        let last = self.number - 1;
        let (first, final_) = (index(begin, last), index(end, last));
        (first..=final_).filter_map(move |bucket| {
            // Rounding, and spans of no length, must not lose anything: a single bucket takes the whole.
            if first == final_ {
                return Some((bucket, 1.0));
            }
            let (low, high) = (number::float_of(bucket), number::float_of(bucket + 1));
            let share = (end.min(high) - begin.max(low)) / (end - begin);
            (share > 0.0).then_some((bucket, share))
        })
    }

    /// What lies in each bucket of sums over spans.
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

    /// The same, of one figure of rows of metrics.
    pub(super) fn sums_of<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a MetricsRow>,
        figure: impl Fn(&MetricsRow) -> u64,
    ) -> Vec<f64> {
        self.sums(rows.into_iter().map(|row| (span(row), number::float(figure(row)))))
    }
}

/// When the batch of a row of metrics was worked on.
pub(super) fn span(row: &MetricsRow) -> (DateTime<Utc>, DateTime<Utc>) {
    (row.started_at, row.committed_at)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the last bucket bounds it")]
fn index(place: f64, last: usize) -> usize {
    (place as usize).min(last)
}

/// The middle one of these values; none without any.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The highest of these values; 0 without any.
pub(super) fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_770_000_000 + seconds, 0).unwrap()
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
