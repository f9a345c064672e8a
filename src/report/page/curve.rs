//! What a chart draws over time: lines and areas, as points of seconds of work and values.

use super::buckets::Buckets;
use super::number;
use super::palette::Hue;

/// A point of a curve: seconds of work, and a value.
pub(super) type Point = (f64, f64);

/// A line over time.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Its colour.
    pub(super) hue: Hue,
    /// Its unbroken parts.
    pub(super) pieces: Vec<Vec<Point>>,
}

/// What lies between two lines over time.
#[derive(Clone, Debug)]
pub(super) struct Area {
    /// Its colour.
    pub(super) hue: Hue,
    /// How dense the colour is, from 0 to 1.
    pub(super) density: f64,
    /// The upper line from left to right, then the lower one back.
    pub(super) outline: Vec<Point>,
}

impl Curve {
    /// A line that stays level through each bucket and breaks where there is no value.
    pub(super) fn stepped(hue: Hue, buckets: &Buckets, values: &[Option<f64>]) -> Curve {
        let mut pieces: Vec<Vec<Point>> = Vec::new();
        let mut is_broken = true;
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                is_broken = true;
                continue;
            };
            if is_broken {
                pieces.push(Vec::new());
                is_broken = false;
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend(level(buckets, index, value));
            }
        }
        Curve { hue, pieces }
    }
}

impl Area {
    /// Stacks values of buckets upon each other, each level through its bucket; the first lies at the bottom.
    pub(super) fn stacked(buckets: &Buckets, layers: &[(Hue, Vec<f64>)], density: f64) -> Vec<Area> {
        let mut floor = vec![0.0; buckets.number()];
        let line = |values: &[f64]| -> Vec<Point> {
            values.iter().enumerate().flat_map(|(index, value)| level(buckets, index, *value)).collect()
        };
        let areas = layers.iter().map(|(hue, layer)| {
            let below = line(&floor);
            for (value, floor) in layer.iter().zip(&mut floor) {
                *floor += value;
            }
            let mut outline = line(&floor);
            outline.extend(below.into_iter().rev());
            Area { hue: *hue, density, outline }
        });
        areas.collect()
    }

    /// Stacks what has come together at the end of each bucket, in straight lines from zero.
    pub(super) fn growing(buckets: &Buckets, layers: &[(Hue, Vec<f64>)], density: f64) -> Vec<Area> {
        let mut floor = vec![0.0; buckets.number() + 1];
        let line = |values: &[f64]| -> Vec<Point> {
            let places = (0..).map(|index| number::float(index) * buckets.seconds());
            places.zip(values.iter().copied()).collect()
        };
        let areas = layers.iter().map(|(hue, layer)| {
            let below = line(&floor);
            let mut sum = 0.0;
            for (value, floor) in std::iter::once(&0.0).chain(layer).zip(&mut floor) {
                sum += value;
                *floor += sum;
            }
            let mut outline = line(&floor);
            outline.extend(below.into_iter().rev());
            Area { hue: *hue, density, outline }
        });
        areas.collect()
    }
}

/// The two ends of a bucket, at one value.
fn level(buckets: &Buckets, index: usize, value: f64) -> [Point; 2] {
    let from = number::float_of(index) * buckets.seconds();
    [(from, value), (from + buckets.seconds(), value)]
}
