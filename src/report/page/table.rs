//! Tables. On a phone each row of one becomes a card, so cells know the names of their columns.

use serde::Serialize;

/// A table with its words.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PageTable {
    pub(super) id: &'static str,
    pub(super) heading: &'static str,
    pub(super) note: String,
    pub(super) columns: Vec<Column>,
    /// Rows of cells, one for each column.
    pub(super) rows: Vec<Vec<String>>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Column {
    name: &'static str,
    class: &'static str,
}

impl Column {
    /// A column that names its rows.
    pub(super) const fn names(name: &'static str) -> Column {
        Column { name, class: "name" }
    }

    /// A column of words.
    pub(super) const fn words(name: &'static str) -> Column {
        Column { name, class: "words" }
    }

    /// A column of numbers.
    pub(super) const fn numbers(name: &'static str) -> Column {
        Column { name, class: "number" }
    }
}

/// What stands in a cell without a value.
pub(super) const NOTHING: &str = "–";

/// The number, or nothing at all for none of it, so that what happened stands out.
pub(super) fn seldom(number: u64) -> String {
    if number == 0 { NOTHING.to_owned() } else { super::number::count(number) }
}
