//! The upright axis of a chart: where a value stands on it, and which values are written beside it.

use super::number;
use super::span;
use super::tick;

const ABOUT: f64 = 4.0;

/// An upright axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    kind: ScaleKind,
    ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug)]
enum ScaleKind {
    Linear,
    Log { low: f64 },
}

impl Scale {
    /// From zero, for values up to `max`; `say` writes them.
    pub(super) fn linear(max: f64, say: impl Fn(f64) -> String) -> Scale {
        let ticks = tick::ticks(max, ABOUT).into_iter().map(|tick| (tick, say(tick))).collect();
        Scale { kind: ScaleKind::Linear, ticks }
    }

    /// For numbers.
    pub(super) fn numbers(max: f64) -> Scale {
        Scale::linear(max, number::short)
    }

    /// For shares; never beyond all unless a value is.
    pub(super) fn shares(max: f64) -> Scale {
        Scale::linear(max, number::percent)
    }

    /// For milliseconds, from zero, in steps that are round in the unit that is written.
    pub(super) fn durations(max: f64) -> Scale {
        let unit = match max {
            max if max >= 7.2e6 => 3.6e6,
            max if max >= 1.2e5 => 6e4,
            _ => 1.0,
        };
        let ticks = tick::ticks(max / unit, ABOUT).into_iter().map(|tick| tick * unit);
        Scale { kind: ScaleKind::Linear, ticks: ticks.map(|tick| (tick, duration(tick))).collect() }
    }

    /// For milliseconds that differ by powers of ten; both ends above zero.
    pub(super) fn log_durations(min: f64, max: f64) -> Scale {
        let durations = tick::durations(min, max);
        let low = durations.first().copied().unwrap_or(1.0);
        let ticks = durations
            .into_iter()
            .map(|duration| ((duration / low).log10(), span::millis(duration)))
            .collect();
        Scale { kind: ScaleKind::Log { low }, ticks }
    }

    /// Where a value stands: from zero to the top, whatever the value.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.kind {
            ScaleKind::Linear => value,
            ScaleKind::Log { low } => (value / low).log10(),
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, self.top()) }
    }

    /// The highest place.
    pub(super) fn top(&self) -> f64 {
        self.ticks.last().map(|(place, _)| *place).filter(|top| *top > 0.0).unwrap_or(1.0)
    }

    /// What is written, and where.
    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }
}

/// Nothing is nothing in any unit.
fn duration(millis: f64) -> String {
    if millis > 0.0 { span::millis(millis) } else { "0".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_places_any_value_within_itself() {
        for scale in [Scale::numbers(97.0), Scale::durations(3e5), Scale::log_durations(80.0, 4e4)] {
            for value in [0.0, -5.0, 50.0, 1e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let place = scale.place(value);
                assert!((0.0..=scale.top()).contains(&place), "{value} at {place}");
            }
        }
    }

    #[test]
    fn durations_step_in_the_unit_that_is_written() {
        let said = |scale: Scale| scale.ticks().iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        assert_eq!(said(Scale::durations(270_000.0)), ["0", "2 min", "4 min", "6 min"]);
        assert_eq!(said(Scale::log_durations(120.0, 9_000.0)), ["100 ms", "300 ms", "1 s", "3 s", "10 s"]);
    }
}
