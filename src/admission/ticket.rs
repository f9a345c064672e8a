//! What admission hands to its caller: a ticket for each request, and verdicts.

use super::quotas::Taken;
use super::throttling::SentRequest;
use crate::clock::Instant;
use crate::event::Waiting;
use crate::fault::Failure;

/// Why a request cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It cannot be sent before this moment; the second field says what it waits for.
    Until(Instant, Waiting),
    /// It cannot be sent before a request in flight has ended.
    WhenOneEnds,
}

impl NotAdmitted {
    /// Returns what the request waits for and until when, or `None` if the moment is not known.
    #[must_use]
    pub fn until(self) -> Option<(Waiting, Instant)> {
        match self {
            NotAdmitted::Until(at, why) => Some((why, at)),
            NotAdmitted::WhenOneEnds => None,
        }
    }
}

/// What was granted to a request; it is handed back with the request's result.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) number: u64,
    pub(super) generation: u64,
    /// Send rate when it was granted, in requests per second.
    pub(super) rate: f64,
    pub(super) taken: Taken,
}

impl Ticket {
    pub(super) fn sent(&self) -> SentRequest {
        SentRequest { number: self.number, rate: self.rate, sent: self.taken.at }
    }

    /// The number of the request; later requests have higher numbers.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When the request was granted.
    #[must_use]
    pub fn sent_at(&self) -> Instant {
        self.taken.at
    }
}

/// Who is to blame for a failed attempt, and so what it means for the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The row: the attempt counts against it.
    Row,
    /// The request: it was refused while others are answered.
    Request,
    /// The provider: the row loses nothing.
    Provider,
    /// The provider, which fails most requests and still answers some: the row loses nothing, up to a bound.
    Brownout,
    /// Unknown: it was the row's last attempt, and nothing was answered since it was sent. The next answer decides.
    Doubt,
    /// The failure ends the run.
    Run(Failure),
}

/// Whether a provider takes rows, for a step that has another provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes rows.
    Up,
    /// It failed too often, and is sent nothing until this moment.
    Down(Instant),
    /// It failed too often, and one row may test it now.
    Probing,
}
