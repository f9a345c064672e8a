//! The colours that charts are drawn in.
//!
//! A chart is drawn once, in the light colours. The stylesheet finds these values by attribute and puts the colours
//! of light, dark or print in their place, so each stands in `page.css` too. The hues are those of Okabe and Ito
//! (2008), which people with any common colour blindness tell apart.

use plotters::style::RGBColor;

/// Words on a chart.
pub(super) const INK: RGBColor = RGBColor(0x3A, 0x3F, 0x45);
/// The line at the foot of a chart.
pub(super) const AXIS: RGBColor = RGBColor(0x8A, 0x90, 0x99);
/// Lines across a chart, and the ground of bars.
pub(super) const RULE: RGBColor = RGBColor(0xE3, 0xE6, 0xE9);
/// Where idle time is cut out.
pub(super) const CUT: RGBColor = RGBColor(0xB4, 0xB9, 0xBF);

/// The colour of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    /// The first, or the only one.
    Blue,
    /// The second.
    Vermilion,
    /// The third.
    Green,
    /// The fourth.
    Purple,
    /// All the others.
    Grey,
}

impl Hue {
    /// Those with a name of their own, in the order of use.
    pub(super) const NAMED: [Hue; 4] = [Hue::Blue, Hue::Vermilion, Hue::Green, Hue::Purple];

    /// As it is drawn.
    pub(super) const fn colour(self) -> RGBColor {
        match self {
            Hue::Blue => RGBColor(0x00, 0x72, 0xB2),
            Hue::Vermilion => RGBColor(0xD5, 0x5E, 0x00),
            Hue::Green => RGBColor(0x00, 0x9E, 0x73),
            Hue::Purple => RGBColor(0xB0, 0x5C, 0x8B),
            Hue::Grey => RGBColor(0x77, 0x7B, 0x80),
        }
    }

    /// The class of its mark in a legend.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Hue::Blue => "s1",
            Hue::Vermilion => "s2",
            Hue::Green => "s3",
            Hue::Purple => "s4",
            Hue::Grey => "s5",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stylesheet_knows_every_colour() {
        let css = include_str!("page.css");
        let hues = Hue::NAMED.into_iter().chain([Hue::Grey]).map(Hue::colour);
        for RGBColor(red, green, blue) in hues.chain([INK, AXIS, RULE, CUT]) {
            let attribute = format!("=\"#{red:02X}{green:02X}{blue:02X}\"]");
            assert!(css.contains(&attribute), "{attribute}");
        }
    }
}
