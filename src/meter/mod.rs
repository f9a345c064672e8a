//! What a request is going to take and what it took: tokens, counted where the model's encoding is known, else
//! learned; and the budget, from which the worst is set aside before a request and what it took is booked after.

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
