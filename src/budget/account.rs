//! The budget of a job. The worst case of a request is reserved before it is sent, and what it took is booked when it
//! returns.
//!
//! A request that was sent and got no response counts at its worst case, because nobody knows whether the provider
//! billed it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spending::Spending;
use crate::config::{Budget, BudgetLimit, BudgetScope, Prices};
use crate::ident::{Spend, SubmittedSpend, Tokens};
use crate::store::StoreError;

/// Number of tokens that a provider's own template may add to each message, and once to a request.
const MOST_ADDED: u64 = 16;

/// Returns the most that a request can take at these prices. A token is at least one byte of the prompt. A chat request
/// without `max_tokens` has no worst case; the configuration refuses it where a budget limits money or tokens.
#[must_use]
pub fn worst_case(prices: Option<Prices>, messages: usize, bytes: usize, max_tokens: Option<u32>) -> Spend {
    let prompt = bytes as u64 + MOST_ADDED * (messages as u64 + 1);
    let completion = max_tokens.unwrap_or_default().into();
    let tokens = Tokens { prompt, cached: 0, completion, reasoning: 0 };
    let money = prices.map(|prices| {
        let dearest = Prices { input: prices.input.max(prices.cached_input), ..prices };
        dearest.cost(tokens)
    });
    Spend { money: money.unwrap_or_default(), tokens: tokens.total(), requests: 1 }
}

/// What a job may spend and what it has spent. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Account(Option<Arc<Mutex<Books>>>);

#[derive(Debug)]
struct Books {
    budget: Budget,
    /// Spent by this run.
    run: Spend,
    /// Reserved and not yet booked.
    reserved: Spend,
    /// Whether a request took more than its worst case.
    was_exceeded: bool,
    /// Spent by all runs together, if the budget covers all of them.
    job: Option<Spending>,
    /// What submissions of all runs, and of this run, took and may take.
    submitted: SubmittedSpend,
    submitted_by_run: SubmittedSpend,
    /// Worst cases of requests in files that are being written.
    in_files: Spend,
    /// Whether the last request was refused for now.
    is_short: bool,
}

/// Why nothing can be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetRefusal {
    /// Too little is left now, but other reservations may be released.
    Later,
    /// A limit leaves too little for the request.
    Spent(BudgetLimit),
}

impl Account {
    /// Opens the account of a run. `job` is what all runs before it spent, if the budget covers all of them.
    #[must_use]
    pub fn open(budget: Budget, job: Option<Spending>) -> Self {
        if budget == Budget::default() {
            return Account(None);
        }
        Account(Some(Arc::new(Mutex::new(Books {
            budget,
            run: Spend::default(),
            reserved: Spend::default(),
            was_exceeded: false,
            job,
            submitted: SubmittedSpend::default(),
            submitted_by_run: SubmittedSpend::default(),
            in_files: Spend::default(),
            is_short: false,
        }))))
    }

    /// Whether there is a budget.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Reserves the worst case of a request. Dropping the reservation books what the request took and releases the
    /// rest.
    ///
    /// # Errors
    /// When too little is left, for now or for good.
    pub fn reserve(&self, worst: Spend) -> Result<Reservation, BudgetRefusal> {
        let Some(books) = &self.0 else {
            return Ok(Reservation { books: None, worst, took: worst, stage: Stage::Waits });
        };
        {
            let mut books = lock(books);
            books.check(worst)?;
            books.reserved = books.reserved + worst;
        }
        Ok(Reservation { books: Some(Arc::clone(books)), worst, took: worst, stage: Stage::Waits })
    }

    /// Reserves the worst case of a request in a file that is being written.
    ///
    /// # Errors
    /// When too little is left, for now or for good.
    pub fn reserve_in_file(&self, worst: Spend) -> Result<(), BudgetRefusal> {
        let Some(books) = &self.0 else { return Ok(()) };
        let mut books = lock(books);
        books.check(worst)?;
        books.in_files = books.in_files + worst;
        Ok(())
    }

    /// Releases what is reserved for the requests in a file: the list of submissions names it, or it is given up.
    pub fn release_file(&self, worst: Spend) {
        if let Some(books) = &self.0 {
            let mut books = lock(books);
            books.in_files = books.in_files - worst;
        }
    }

    /// Replaces what submissions of all runs, and of this run, took and may take.
    pub fn set_submitted(&self, of_job: SubmittedSpend, of_run: SubmittedSpend) {
        if let Some(books) = &self.0 {
            let mut books = lock(books);
            (books.submitted, books.submitted_by_run) = (of_job, of_run);
        }
    }

    /// Whether the last request was refused for now, and only the return of a submission can change that.
    #[must_use]
    pub fn waits_for_submissions(&self) -> bool {
        let Some(books) = &self.0 else { return false };
        let books = lock(books);
        books.is_short && books.reserved == Spend::default()
    }

    /// What this run spent so far.
    #[must_use]
    pub fn spent(&self) -> Spend {
        let Some(books) = &self.0 else { return Spend::default() };
        let books = lock(books);
        books.run + books.submitted_by_run.settled
    }

    /// What all runs spent on this machine, with requests in flight at their worst case; `None` if it is not counted.
    #[must_use]
    pub fn spent_here(&self) -> Option<Spend> {
        self.0.as_ref().and_then(|books| lock(books).job.as_ref().map(Spending::here))
    }

    /// Flushes the spending of all runs to the disk.
    ///
    /// # Errors
    /// When the flush fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        let Some(books) = &self.0 else { return Ok(()) };
        // The lock is released before the flush, so that requests can be reserved meanwhile.
        let flush = lock(books).job.as_mut().map(Spending::flusher);
        flush.map_or(Ok(()), |flush| flush())
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    fn check(&mut self, worst: Spend) -> Result<(), BudgetRefusal> {
        let job = self.job.as_ref().map(Spending::settled).unwrap_or_default();
        let scopes = [
            (BudgetScope::Job, &self.budget.job, job, self.submitted),
            (BudgetScope::Run, &self.budget.run, self.run, self.submitted_by_run),
        ];
        let mut is_short = false;
        for (scope, allowance, spent, submitted) in scopes {
            let spent = spent + submitted.settled;
            if let Some(limit) = BudgetLimit::broken(scope, allowance, spent, worst) {
                return Err(BudgetRefusal::Spent(limit));
            }
            let reserved = self.reserved + self.in_files + submitted.open;
            is_short |= BudgetLimit::broken(scope, allowance, spent + reserved, worst).is_some();
        }
        self.is_short = is_short;
        if is_short { Err(BudgetRefusal::Later) } else { Ok(()) }
    }
}

/// The amount that is reserved for a request. Dropping it books what the request took: nothing if it was not sent,
/// its worst case if no result was reported.
#[derive(Debug)]
pub struct Reservation {
    /// `None` once it is booked, or without a budget.
    books: Option<Arc<Mutex<Books>>>,
    worst: Spend,
    took: Spend,
    stage: Stage,
}

/// How far the request of a reservation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waits,
    /// About to be sent, with its number in the spending file, or `None` if the account has no such file.
    Begun(Option<u64>),
    Sent,
}

impl Reservation {
    /// Marks the request as about to be sent. The next write of the spending file covers it, too.
    pub fn begin(&mut self) {
        let Some(books) = &self.books else { return };
        self.stage = Stage::Begun(lock(books).job.as_mut().map(|job| job.begin(self.worst)));
    }

    /// Writes the request to the spending file, once it has begun, and marks it as sent. From then on it counts,
    /// whatever happens to this process.
    ///
    /// # Errors
    /// When that cannot be written. The request must not be sent then.
    pub fn record(&mut self) -> Result<(), StoreError> {
        let (Some(books), Stage::Begun(nth)) = (&self.books, self.stage) else { return Ok(()) };
        if let (Some(nth), Some(job)) = (nth, &mut lock(books).job) {
            job.record(nth)?;
        }
        self.stage = Stage::Sent;
        Ok(())
    }

    /// Reports what the request took. More than its worst case is booked at once, because the written total does not
    /// cover it. Returns whether that happens for the first time.
    pub fn took(&mut self, took: Spend) -> bool {
        self.took = took;
        let is_within = took.money <= self.worst.money && took.tokens <= self.worst.tokens;
        if is_within {
            return false;
        }
        let Some(books) = self.books.take() else { return false };
        let mut books = lock(&books);
        self.book(&mut books);
        !std::mem::replace(&mut books.was_exceeded, true)
    }

    fn book(&self, books: &mut Books) {
        books.reserved = books.reserved - self.worst;
        let took = if self.stage == Stage::Sent { self.took } else { Spend::default() };
        books.run = books.run + took;
        if let (Some(job), true) = (&mut books.job, self.stage != Stage::Waits) {
            job.settle(self.worst, took);
        }
    }

    /// The most that the request can take.
    #[must_use]
    pub fn worst(&self) -> Spend {
        self.worst
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(books) = self.books.take() {
            self.book(&mut lock(&books));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Money;

    fn spend(tokens: u64) -> Spend {
        Spend { money: Money::ZERO, tokens, requests: 1 }
    }

    fn account(tokens: u64) -> Account {
        let run = crate::config::Allowance { tokens: Some(tokens), ..crate::config::Allowance::default() };
        Account::open(Budget { run, ..Budget::default() }, None)
    }

    fn send(reservation: &mut Reservation) {
        reservation.begin();
        reservation.record().unwrap();
    }

    #[test]
    fn the_worst_is_set_aside_and_what_was_not_taken_comes_back() {
        let account = account(100);
        let mut first = account.reserve(spend(60)).unwrap();
        assert_eq!(account.reserve(spend(60)).unwrap_err(), BudgetRefusal::Later);
        let mut unsent = account.reserve(spend(40)).unwrap();
        unsent.begin();
        drop(unsent);
        assert_eq!(account.spent().tokens, 0);
        drop(account.reserve(spend(40)).unwrap());
        send(&mut first);
        assert!(!first.took(spend(30)));
        assert_eq!(account.spent().tokens, 0, "it is booked by who drops it");
        drop(first);
        assert_eq!(account.spent().tokens, 30);
        let mut second = account.reserve(spend(60)).unwrap();
        send(&mut second);
        drop(second);
        assert_eq!(account.spent().tokens, 90, "it may have been billed");
        let mut third = account.reserve(spend(5)).unwrap();
        send(&mut third);
        assert!(third.took(spend(6)), "more than the worst case");
        assert_eq!(account.spent().tokens, 96, "at once");
        drop(third);
        assert_eq!(account.spent().tokens, 96, "and once");
        let BudgetRefusal::Spent(limit) = account.reserve(spend(11)).unwrap_err() else {
            panic!("not spent")
        };
        assert_eq!(
            limit.to_string(),
            "budget.run.max_tokens is 100: 96 are spent, and the next request may take 11"
        );
    }

    #[test]
    fn a_submission_counts_at_its_worst_until_it_comes_back() {
        let account = account(100);
        account.reserve_in_file(spend(50)).unwrap();
        account.reserve_in_file(spend(40)).unwrap();
        assert_eq!(account.reserve_in_file(spend(20)).unwrap_err(), BudgetRefusal::Later);
        let two = spend(50) + spend(40);
        let submitted = |settled, open| SubmittedSpend { settled, open };
        account.set_submitted(SubmittedSpend::default(), submitted(Spend::default(), two));
        account.release_file(two);
        assert_eq!(account.reserve(spend(20)).unwrap_err(), BudgetRefusal::Later);
        assert!(account.waits_for_submissions());
        let single = account.reserve(spend(10)).unwrap();
        assert_eq!(account.reserve(spend(1)).unwrap_err(), BudgetRefusal::Later);
        assert!(!account.waits_for_submissions(), "a request in flight may bring something back");
        drop(single);
        assert!(account.waits_for_submissions());
        account.set_submitted(SubmittedSpend::default(), submitted(spend(30), Spend::default()));
        drop(account.reserve(spend(70)).unwrap());
        assert_eq!(account.spent().tokens, 30);
        let refused = account.reserve_in_file(spend(71)).unwrap_err();
        assert!(matches!(refused, BudgetRefusal::Spent(_)), "for good");
    }

    #[test]
    fn without_a_budget_nothing_is_counted() {
        let account = Account::open(Budget::default(), None);
        assert!(!account.is_limited());
        let mut reservation = account.reserve(spend(u64::MAX)).unwrap();
        send(&mut reservation);
        assert!(!reservation.took(spend(5)));
        drop(reservation);
        assert_eq!(account.spent(), Spend::default());
    }

    #[test]
    fn the_worst_case_is_a_token_for_each_byte() {
        let price = |dollars| Money::per_million(dollars).unwrap();
        let prices = Prices { input: price(1.0), cached_input: price(0.5), output: price(2.0) };
        let worst = worst_case(Some(prices), 1, 1_000, Some(100));
        assert_eq!((worst.tokens, worst.requests), (1_132, 1));
        assert_eq!(worst.money, Money::picodollars(1_032_000_000 + 200_000_000));
    }
}
