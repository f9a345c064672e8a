//! Estimates the total of a whole run from a sample, with a 90 % interval around it.
//!
//! Two nested simple random samples are known: rows whose tokens were counted here, and among them a few that were
//! really sent to the model. The plain normal interval lies too low for texts with long tails; this one is shifted
//! and widened by what the sample shows of the tails. Nothing here panics or yields a NaN: what cannot be estimated is
//! `None`. A tail of which neither sample holds a row is beyond any interval of this kind. With fewer than 100 sent
//! rows and long tails, the interval holds the truth about 85 times in 100, or less.

/// The normal quantile that leaves 5 % above it: 90 % lie between it and its negative.
const Z: f64 = 1.644_853_626_951_472_7;

/// A line through the counts is used if its variance is less than this share of the variance around the mean.
const WORTH: f64 = 0.9;

/// Largest shift of the interval by skewness, in standard errors. Less than `Z`: see `around`.
const MAX_SHIFT: f64 = 1.0;

/// Relative size below which a difference counts as rounding.
const ROUNDING: f64 = 1e-10;

/// A total with bounds that hold the truth nine times in ten, in the unit of the measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    /// The lower bound. The truth is less in about one case in twenty.
    pub low: f64,
    /// The estimate itself. It need not lie in the middle.
    pub expected: f64,
    /// The upper bound. The truth is more in about one case in twenty.
    pub high: f64,
}

/// A row that was really sent to the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampledRow {
    /// Input tokens that were counted here before it was sent.
    pub counted: f64,
    /// What the row took, repairs and retries included: cost or tokens, 0 if nothing was billed.
    pub measured: f64,
}

/// Estimates the total over `rows` of what was measured on `sent`, with the help of the counts.
///
/// `counted` holds every sampled row, those in `sent` included, and may be empty; `sent` is a simple random part of
/// it. If a straight line through the counts predicts rows it has not seen notably better than their mean does, the
/// estimate is that of two-phase regression (Cochran, *Sampling Techniques*, 3rd ed., 1977, ch. 12), else the mean
/// times `rows`. The line is judged, and its error measured, by predicting each row from all others (Allen, *The
/// Relationship between Variable Selection and Data Augmentation and a Method for Prediction*, 1974), so that a few
/// long rows cannot flatter it.
///
/// Returns `None` with fewer than two rows in `sent` (unless there is only one row in all) or with a value that is
/// negative or not finite. No bound is less than the sum over `sent`.
#[must_use]
pub(super) fn estimate_total(rows: u64, counted: &[f64], sent: &[SampledRow]) -> Option<Interval> {
    let mut values = counted.iter().copied().chain(sent.iter().flat_map(|row| [row.counted, row.measured]));
    if values.any(|value| !value.is_finite() || value < 0.0) {
        return None;
    }
    let known: f64 = sent.iter().map(|row| row.measured).sum();
    let flat = Moments::of(sent.iter().map(|row| row.measured));
    match line(counted, sent, flat) {
        Some((mean, samples)) => around(rows, mean, &samples, known),
        None => around(rows, flat.mean, &[flat], known),
    }
}

/// Estimates the total over `rows` of a value that can be counted without the model, from the sampled rows, as
/// [`estimate_total`] does.
#[must_use]
pub(super) fn counted_total(rows: u64, counted: &[f64]) -> Option<Interval> {
    let as_sent: Vec<SampledRow> =
        counted.iter().map(|&count| SampledRow { counted: 0.0, measured: count }).collect();
    estimate_total(rows, &[], &as_sent)
}

/// Size and moments of a simple random sample. Skewness and kurtosis are standardized.
#[derive(Clone, Copy)]
struct Moments {
    size: f64,
    mean: f64,
    variance: f64,
    skewness: f64,
    kurtosis: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let size: f64 = values.clone().map(|_| 1.0).sum();
        let mean = values.clone().sum::<f64>() / size;
        let [second, third, fourth] = values.fold([0.0; 3], |[second, third, fourth], value| {
            let off = value - mean;
            [second + off.powi(2), third + off.powi(3), fourth + off.powi(4)]
        });
        let spread = if second > 0.0 { second / size } else { 1.0 };
        let (skewness, kurtosis) = (third / size / spread.powf(1.5), fourth / size / (spread * spread));
        Moments { size, mean, variance: second / (size - 1.0), skewness, kurtosis }
    }
}

/// Fits a straight line by least squares from the counts to the measurements.
///
/// Returns its height at the mean of all counted rows, and the moments of two samples: its errors on the sent rows,
/// each predicted without that row, and its predictions for the counted rows less its height at 0. Returns `None` if
/// the line is not worth it, or depends on a single row.
fn line(counted: &[f64], sent: &[SampledRow], flat: Moments) -> Option<(f64, [Moments; 2])> {
    let count = Moments::of(sent.iter().map(|row| row.counted));
    let squares = count.variance * (count.size - 1.0);
    let products = sent.iter().map(|row| (row.counted - count.mean) * (row.measured - flat.mean));
    let slope = products.sum::<f64>() / squares;
    // Scaled so that a slope of zero gives the plain deviations from the mean.
    let scale = 1.0 - 1.0 / count.size;
    let residuals = Moments::of(sent.iter().map(|row| {
        let off = row.counted - count.mean;
        let others = scale - off * off / squares;
        let missed = (row.measured - flat.mean - slope * off) * scale / others;
        if others > ROUNDING { missed } else { f64::NAN }
    }));
    let foreseen = Moments::of(counted.iter().map(|count| slope * count));
    let height = flat.mean + foreseen.mean - slope * count.mean;
    // NaN makes this false: all counts are equal, or the line depends on a single row.
    let worth = counted.len() >= sent.len() && residuals.variance < WORTH * flat.variance;
    worth.then_some((height, [residuals, foreseen]))
}

/// Returns the interval around `mean` times `rows`. The error of the mean is the sum of the errors of nested samples
/// from `rows`, whose moments are `samples`.
///
/// Each sample's variance has the finite population correction. The interval is shifted by the second term of the
/// expansion of Student's statistic (Hall, *On the Removal of Skewness by Transformation*, 1992; for finite
/// populations Sugden, Smith and Jones, *Cochran's Rule for Simple Random Sampling*, 2000), and the degrees of
/// freedom follow from how uncertain the variances are, judged by the kurtosis (Satterthwaite, *An Approximate
/// Distribution of Estimates of Variance Components*, 1946). It is never shifted so far that `mean` falls out of it,
/// and no bound falls below `known`.
#[expect(clippy::cast_precision_loss, reason = "2^53 rows and more may be off by their last digits")]
fn around(rows: u64, mean: f64, samples: &[Moments], known: f64) -> Option<Interval> {
    let least = samples.iter().map(|sample| sample.size).fold(f64::INFINITY, f64::min);
    let rows = (rows as f64).max(least);
    let parts = samples.iter().map(|sample| (sample, 1.0 / sample.size - 1.0 / rows));
    let parts = parts.filter(|(_, gap)| *gap > 0.0);
    let variance: f64 = parts.clone().map(|(sample, gap)| gap * sample.variance).sum();
    let error = variance.sqrt();
    let (mut below, mut above) = (0.0, 0.0);
    if error.is_nan() || error > ROUNDING * mean.abs() {
        let (mut shift, mut doubt) = (0.0, 0.0);
        for (sample, gap) in parts {
            let share = gap * sample.variance / variance;
            let bend = (2.0 / sample.size - 1.0 / rows) * (Z * Z - 1.0) / 6.0 + gap / 2.0;
            shift += sample.skewness * share.powf(1.5) * bend / gap.sqrt();
            doubt += share * share * (sample.kurtosis - 1.0).max(2.0) / (sample.size - 1.0);
        }
        let shift = shift.clamp(-MAX_SHIFT, MAX_SHIFT);
        let quantile = student((2.0 / doubt).min(least - 1.0));
        (below, above) = (error * (shift - quantile), error * (shift + quantile));
    }
    let of = |mean: f64| {
        mean.is_finite().then(|| (mean * rows).max(known)).filter(|estimate_total| estimate_total.is_finite())
    };
    Some(Interval { low: of(mean + below)?, expected: of(mean)?, high: of(mean + above)? })
}

/// Returns the quantile of Student's t that leaves 5 % above it (Abramowitz and Stegun, *Handbook of Mathematical
/// Functions*, 1964, 26.7.5). It is 12 % too small at one degree of freedom, 0.3 % at four.
fn student(freedom: f64) -> f64 {
    let (square, part) = (Z * Z, 1.0 / freedom);
    let third = (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) / 384.0;
    let second = ((5.0 * square + 16.0) * square + 3.0) / 96.0 + third * part;
    Z * (1.0 + ((square + 1.0) / 4.0 + second * part) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the width as a share of the expected value, or `None` if that is 0.
    fn half_width(interval: Interval) -> Option<f64> {
        (interval.expected > 0.0).then(|| (interval.high - interval.low) / 2.0 / interval.expected)
    }

    const SEED: u64 = 20_260;

    fn log_normal(rng: &mut fastrand::Rng, median: f64, sigma: f64) -> f64 {
        let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
        median * (sigma * normal).exp()
    }

    fn sampled(counted: f64, measured: f64) -> SampledRow {
        SampledRow { counted, measured }
    }

    #[test]
    fn nine_of_ten_intervals_hold_the_truth_where_few_rows_are_very_long() {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let mut row = || {
            let counted = log_normal(&mut rng, 300.0, 0.6) * if rng.u8(..50) == 0 { 15.0 } else { 1.0 };
            sampled(counted, counted + 2.0 * log_normal(&mut rng, 100.0, 0.9))
        };
        let mut held = 0;
        for _ in 0..1_000 {
            let rows: Vec<SampledRow> = (0..1_000).map(|_| row()).collect(); // In random order already.
            let truth = rows.iter().map(|row| row.measured).sum();
            let counted: Vec<f64> = rows[..400].iter().map(|row| row.counted).collect();
            let found = estimate_total(1_000, &counted, &rows[..200]).unwrap();
            held += u32::from(found.low <= truth && truth <= found.high);
        }
        assert!((870..=940).contains(&held), "seed {SEED}: {held} of 1000");
    }

    #[test]
    fn what_is_sent_in_full_or_always_the_same_has_no_width() {
        let exact = Some(Interval { low: 12.0, expected: 12.0, high: 12.0 });
        assert_eq!(
            estimate_total(3, &[1.0, 4.0, 5.0], &[sampled(1.0, 2.0), sampled(4.0, 1.0), sampled(5.0, 9.0)]),
            exact
        );
        assert_eq!(estimate_total(1, &[], &[sampled(3.0, 12.0)]), exact);
        assert_eq!(counted_total(2, &[5.0, 7.0]), exact);
        assert_eq!(
            estimate_total(120, &[9.0; 5], &[sampled(9.0, 0.1); 3]).map(half_width).unwrap(),
            Some(0.0)
        );
        assert_eq!(estimate_total(120, &[9.0; 5], &[sampled(9.0, 0.0); 3]).map(half_width).unwrap(), None);
    }

    #[test]
    fn an_unknown_total_is_none() {
        assert_eq!(estimate_total(10, &[1.0], &[]), None);
        assert_eq!(estimate_total(10, &[1.0, 2.0], &[sampled(1.0, 1.0)]), None);
        for wrong in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(estimate_total(10, &[1.0, wrong], &[sampled(1.0, 1.0), sampled(2.0, 3.0)]), None);
            assert_eq!(counted_total(10, &[1.0, wrong]), None);
        }
    }

    #[test]
    fn a_line_narrows_the_interval_unless_it_hangs_on_one_row() {
        let counted: Vec<f64> = (0..400).map(|at| f64::from(at % 40)).collect();
        let width = |counted: &[f64], rows: &[SampledRow]| {
            estimate_total(4_000, counted, rows).map(half_width).unwrap()
        };
        let mut rows: Vec<SampledRow> = counted[..40].iter().map(|&at| sampled(at, 5.0 + at)).collect();
        assert!(width(&counted, &rows) < width(&[], &rows));
        rows[..39].fill(sampled(1.0, 2.0));
        assert_eq!(width(&counted, &rows), width(&[], &rows));
    }

    #[test]
    fn the_expected_total_lies_between_its_bounds_and_none_is_less_than_what_was_seen() {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let mut row =
            || sampled(log_normal(&mut rng, 9.0, 1.0).round(), log_normal(&mut rng, 1.0, 3.0).floor());
        for at in 0..2_000 {
            let rows: Vec<SampledRow> = (0..2 + at % 9).map(|_| row()).collect();
            let counted: Vec<f64> = rows.iter().map(|row| row.counted).chain([1.0, 9.0, 30.0]).collect();
            let found = estimate_total(at % 50, &counted, &rows).unwrap();
            let order = [rows.iter().map(|row| row.measured).sum(), found.low, found.expected, found.high];
            assert!(order.is_sorted(), "seed {SEED}, {rows:?}: {order:?}");
        }
    }
}
