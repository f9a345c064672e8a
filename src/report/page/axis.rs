//! An axis with given ticks, as the library of charts takes it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// An axis from zero, on which nothing is written but the given ticks.
pub(super) struct Axis {
    range: RangedCoordf64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to `end`, which is above zero.
    pub(super) fn new(end: f64, ticks: &[(f64, String)]) -> Axis {
        Axis { range: (0.0..end).into(), ticks: ticks.to_vec() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        let tick = self.ticks.iter().find(|(tick, _)| tick.total_cmp(place).is_eq());
        tick.map_or_else(String::new, |(_, text)| text.clone())
    }
}
