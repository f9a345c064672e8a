//! What requests are expected to take and what they took: tokens, learned from earlier requests; the total of a run,
//! estimated from a sample; list prices; and the budget, which reserves the worst case before a request and books
//! what it took after it.

mod account;
mod estimate;
mod interval;
mod listed;
mod spending;

pub use account::{Account, BudgetRefusal, Reservation, worst_case};
pub use estimate::{Meter, StepTokens};
pub use interval::{Interval, SampledRow, counted_total, estimate_total};
pub use listed::{Listed, listed};
pub use spending::{Spending, SpendingError};
