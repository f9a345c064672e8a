//! Money, tokens and requests that a job may spend: prices, reservations, settlement, and the file of what was spent.
//!
//! The worst that a request can cost is reserved before it is sent, and what it took is booked afterwards, whoever drops
//! the reservation.

mod account;
mod listed;
mod spending;

pub use account::{Account, BudgetRefusal, Reservation, worst_case};
pub use listed::{Listed, listed};
pub use spending::{Spending, SpendingError};
