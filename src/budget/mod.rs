//! Money, tokens and requests that a job may spend: prices, reservations, settlement, and the file of what was spent.
//!
//! The worst case of a request is reserved before the request is sent. What the request took is booked when the
//! reservation is dropped, wherever that happens.

mod account;
mod listed;
mod spending;

pub use account::{Account, BudgetRefusal, Reservation, worst_case};
pub use listed::{Listed, listed};
pub use spending::{Spending, SpendingError};
