//! Rows of a source that no run sends to a model.

use std::fmt;
use std::ops::AddAssign;

use indicatif::HumanCount;
use serde::{Deserialize, Serialize};

/// Numbers of rows of a source that were passed over for good, by the key of the job file that excluded them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassedOver {
    /// Rows that did not meet `source.where` when they were read.
    #[serde(rename = "where")]
    pub by_condition: u64,
    /// Rows in the files of commits that also remove rows (`source.skip_change_commits`). An upper bound, since an
    /// update also writes unchanged rows anew.
    #[serde(rename = "skip_change_commits")]
    pub by_change_commits: u64,
    /// Rows that existed before `source.starting_version` or `source.starting_timestamp`.
    #[serde(rename = "starting_version")]
    pub by_start: u64,
    /// Whether there are more rows, whose number the source does not state.
    pub or_more: bool,
}

impl PassedOver {
    /// Whether no row was passed over.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == PassedOver::default()
    }
}

impl AddAssign for PassedOver {
    fn add_assign(&mut self, other: Self) {
        self.by_condition += other.by_condition;
        self.by_change_commits += other.by_change_commits;
        self.by_start += other.by_start;
        self.or_more |= other.or_more;
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = [
            ("", self.by_condition, "source.where"),
            ("up to ", self.by_change_commits, "source.skip_change_commits"),
            ("", self.by_start, "source.starting_version"),
        ];
        let by = by.iter().filter(|(_, rows, _)| *rows > 0);
        let by: Vec<String> =
            by.map(|(most, rows, key)| format!("{most}{} by {key}", HumanCount(*rows))).collect();
        match (by.is_empty(), self.or_more) {
            (true, _) => f.write_str("some that the source does not count"),
            (false, more) => {
                f.write_str(&by.join(", "))?;
                f.write_str(if more { ", and some that the source does not count" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_the_key_that_left_them_out() {
        let mut passed = PassedOver { by_condition: 1_200, ..PassedOver::default() };
        assert_eq!(passed.to_string(), "1,200 by source.where");
        passed += PassedOver { by_change_commits: 40, or_more: true, ..PassedOver::default() };
        assert_eq!(
            passed.to_string(),
            "1,200 by source.where, up to 40 by source.skip_change_commits, and some that the source does not count"
        );
        assert!(!passed.is_nothing() && PassedOver::default().is_nothing());
    }
}
