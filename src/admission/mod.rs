//! Whether a provider may be sent another request now. Pure state: the caller brings the time.
//!
//! Immediately before a send it grants everything at once or nothing: no pause, no open circuit breaker, a place among
//! the requests in flight, a request and tokens of the quota. Nothing waits while it holds a part of them.

mod bucket;
mod concurrency;
mod failures;
mod gate;
#[cfg(test)]
mod gate_tests;
mod governed;
mod header_quota;
mod learned;
mod learned_rate;
mod log;
mod pace;
mod quotas;
mod throttling;
mod ticket;
mod trial;

pub use gate::Admission;
pub use learned::{Healthy, ProviderLimits};
pub use quotas::{Cost, QuotaGroups, SharedQuotas};
pub use throttling::ResponseCounts;
pub use ticket::{Blame, Health, NotAdmitted, Ticket};
