//! Round numbers for axes.

/// Round steps of 1, 2 or 5 times a power of ten, from zero to no less than `max`, about `number` of them.
pub(super) fn ticks(max: f64, number: f64) -> Vec<f64> {
    if !max.is_finite() || max <= 0.0 {
        return vec![0.0, 1.0];
    }
    let step = round_up(max / number);
    // A power of ten that is not to be had (the smallest floats) leaves no step.
    if !step.is_normal() {
        return vec![0.0, max];
    }
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last().copied().filter(|last| *last < max * (1.0 - 1e-9)) {
        ticks.push(step * (last / step + 1.0).round());
    }
    ticks
}

/// The least number of 1, 2, 2.5 or 5 times a power of ten that is no smaller.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let times = [1.0, 2.0, 2.5, 5.0].into_iter().find(|times| times * power >= value * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// Durations in milliseconds, each about three times the last, that are round in the unit in which they are written.
const DURATIONS: [f64; 18] = [
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 6e4, 1.8e5, 6e5, 1.8e6, 3.6e6, 1.08e7, 3.6e7,
    8.64e7,
];
const MOST_DURATIONS: usize = 6;

/// Durations for an axis by powers of ten, from no more than `min` to no less than `max` where there are such.
pub(super) fn durations(min: f64, max: f64) -> Vec<f64> {
    let last = DURATIONS.len() - 1;
    let low = DURATIONS.iter().rposition(|duration| *duration <= min).unwrap_or(0).min(last - 1);
    let high = DURATIONS.iter().position(|duration| *duration >= max).unwrap_or(last).max(low + 1);
    let step = (high - low) / MOST_DURATIONS + 1;
    // The highest always stands, so that the axis reaches every value; so does the lowest.
    let mut ticks: Vec<f64> = DURATIONS[low..=high].iter().copied().rev().step_by(step).collect();
    if let [.., lowest] = &mut ticks[..] {
        *lowest = DURATIONS[low];
    }
    ticks.reverse();
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_highest_value() {
        assert_eq!(ticks(97.0, 4.0), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(ticks(0.04, 4.0), [0.0, 0.01, 0.02, 0.03, 0.04]);
        assert_eq!(ticks(1.0, 4.0), [0.0, 0.25, 0.5, 0.75, 1.0]);
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(ticks(odd, 4.0), [0.0, 1.0]);
        }
        for odd in [5e-324, 1e-300, 1e300, f64::MAX] {
            assert!(ticks(odd, 4.0).len() < 12, "{odd}");
        }
    }

    #[test]
    fn durations_span_the_values() {
        assert_eq!(durations(400.0, 9_000.0), [300.0, 1e3, 3e3, 1e4]);
        assert_eq!(durations(1.0, 9e4), [1.0, 30.0, 300.0, 3e3, 3e4, 1.8e5]);
        for (min, max) in [(0.0, 0.0), (f64::NAN, f64::NAN), (1e12, 1e12), (1.0, 1e12)] {
            let ticks = durations(min, max);
            assert!((2..=7).contains(&ticks.len()) && ticks.is_sorted(), "{min} to {max}: {ticks:?}");
        }
    }
}
