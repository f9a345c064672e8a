//! What requests are expected to take and what they took: tokens per request, learned from earlier ones; the total of
//! a whole run, estimated from a sample; list prices; and the budget, in which the worst case is reserved before a
//! request and what it took is booked after it.

mod account;
mod estimate;
mod interval;
mod listed;
mod spending;

pub use account::{Account, BudgetRefusal, Reservation, worst_case};
pub use estimate::{Meter, StepTokens};
pub use interval::{Interval, SampledRow, counted_total, total};
pub use listed::{Listed, listed};
pub use spending::{Spending, SpendingError};
