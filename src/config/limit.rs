//! The limits of a budget that can stop a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::budget::Allowance;
use crate::ident::{Money, Spend};

/// The runs that share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// All runs and retries of the job: `[budget]`.
    Job,
    /// One run or retry: `[budget.run]`.
    Run,
}

/// A limit that leaves too little for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimit {
    /// The runs that share the limit.
    pub scope: BudgetScope,
    /// The quantity that is short.
    #[serde(flatten)]
    pub shortage: Shortage,
}

/// A quantity of which too little is left: its limit, what is spent, and what the next request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Shortage {
    /// `max_cost_usd`, in picodollars.
    Cost {
        /// The limit.
        limit: Money,
        /// The cost so far.
        spent: Money,
        /// Worst case of the next request.
        next: Money,
    },
    /// `max_tokens`, of prompts and answers.
    Tokens {
        /// The limit.
        limit: u64,
        /// The tokens used so far.
        spent: u64,
        /// Worst case of the next request.
        next: u64,
    },
    /// `max_requests`.
    Requests {
        /// The limit, all of which is spent.
        limit: u64,
    },
}

impl BudgetLimit {
    /// Returns the limit of an allowance that the next request would exceed, or `None` if it exceeds none.
    #[must_use]
    pub fn broken(scope: BudgetScope, allowance: &Allowance, spent: Spend, next: Spend) -> Option<Self> {
        let after = spent + next;
        let shortage = if let Some(limit) = allowance.money.filter(|limit| after.money > *limit) {
            Shortage::Cost { limit, spent: spent.money, next: next.money }
        } else if let Some(limit) = allowance.tokens.filter(|limit| after.tokens > *limit) {
            Shortage::Tokens { limit, spent: spent.tokens, next: next.tokens }
        } else {
            let limit = allowance.requests.filter(|limit| after.requests > *limit)?;
            Shortage::Requests { limit }
        };
        Some(BudgetLimit { scope, shortage })
    }

    /// Returns whether an allowance of the same scope still has this limit unchanged.
    #[must_use]
    pub fn is_in(&self, allowance: &Allowance) -> bool {
        match self.shortage {
            Shortage::Cost { limit, .. } => allowance.money == Some(limit),
            Shortage::Tokens { limit, .. } => allowance.tokens == Some(limit),
            Shortage::Requests { limit } => allowance.requests == Some(limit),
        }
    }
}

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scope {
            BudgetScope::Job => "budget.",
            BudgetScope::Run => "budget.run.",
        })?;
        match self.shortage {
            Shortage::Cost { limit, spent, next } => {
                write!(f, "max_cost_usd is {limit}: {spent} is spent, and the next request may cost {next}")
            }
            Shortage::Tokens { limit, spent, next } => {
                write!(f, "max_tokens is {limit}: {spent} are spent, and the next request may take {next}")
            }
            Shortage::Requests { limit } => write!(f, "max_requests is {limit}, and so many are sent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_stored_by_names_that_stay() {
        let limit = Money::from_dollars(1.5).unwrap();
        let next = Money::from_dollars(0.25).unwrap();
        for (limit, stored) in [
            (
                BudgetLimit {
                    scope: BudgetScope::Job,
                    shortage: Shortage::Cost { limit, spent: Money::ZERO, next },
                },
                r#"{"scope":"job","of":"cost","limit":1500000000000,"spent":0,"next":250000000000}"#,
            ),
            (
                BudgetLimit {
                    scope: BudgetScope::Run,
                    shortage: Shortage::Tokens { limit: 100, spent: 96, next: 11 },
                },
                r#"{"scope":"run","of":"tokens","limit":100,"spent":96,"next":11}"#,
            ),
            (
                BudgetLimit { scope: BudgetScope::Job, shortage: Shortage::Requests { limit: 5 } },
                r#"{"scope":"job","of":"requests","limit":5}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&limit).unwrap(), stored);
            assert_eq!(serde_json::from_str::<BudgetLimit>(stored).unwrap(), limit);
        }
    }
}
