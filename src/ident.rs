//! Identifiers and quantities that the whole crate uses.
//!
//! Every id has a newtype of its own, so that a row number cannot be passed as a batch number. This module only
//! creates, prints, parses, compares and adds them up.

use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Number of a micro-batch of one job: 0, 1, 2, … without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(u64);

impl BatchId {
    /// The first batch of a lineage.
    pub const FIRST: BatchId = BatchId(0);

    /// Creates an id from its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        BatchId(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the id of the batch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        BatchId(self.0 + 1)
    }

    /// Returns the version of the Delta `txn` action that marks this batch as committed.
    ///
    /// Delta's versions are signed 64-bit numbers; a batch number never comes near their end.
    #[must_use]
    pub const fn txn_version(self) -> i64 {
        self.0.cast_signed()
    }

    /// Returns the batch for a `txn` version, or `None` for a negative version, which this program never writes.
    #[must_use]
    pub fn from_txn_version(version: i64) -> Option<Self> {
        u64::try_from(version).ok().map(BatchId)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a step in its job, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(u16);

impl StepId {
    /// The first step of a job.
    pub const FIRST: StepId = StepId(0);

    /// Creates an id from a position in the job's list of steps.
    ///
    /// # Panics
    /// When a job has more than 65,535 steps, which the configuration refuses.
    #[must_use]
    pub fn new(position: usize) -> Self {
        StepId(u16::try_from(position).expect("the configuration bounds the number of steps"))
    }

    /// Returns the position in the job's list of steps.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the id of the step after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        StepId(self.0 + 1)
    }
}

/// One row of one step in one open batch: the unit that is sent and gets an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The batch that holds the row.
    pub batch: BatchId,
    /// Position of the row in its batch, counted from 0 in the source's order.
    pub row: u32,
    /// The step whose prompt is sent.
    pub step: StepId,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} of batch {}, step {}", self.row, self.batch, self.step.0)
    }
}

/// Permanent key of a source row: the file and the physical row in it.
///
/// `file` is the path relative to the source's root; `row` counts from 0 over all rows of the file, including rows
/// that a deletion vector hides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Path of the file, relative to the source's root, with forward slashes.
    pub file: Arc<str>,
    /// Physical row in the file, counted from 0.
    pub row: u64,
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} of {}", self.row, self.file)
    }
}

/// The stable name of a job, under which it commits to its target: half of its idempotency key.
///
/// The ids derived from it are those of further transactions in the same table, so they are app ids too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AppId(Arc<str>);

impl AppId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id under which a lineage of the job commits.
    #[must_use]
    pub fn lineage(&self, lineage: Lineage) -> AppId {
        AppId(format!("{self}#{lineage}").into())
    }

    /// Returns the id under which retries of the job commit. No job has this name: an app id cannot contain `#`.
    #[must_use]
    pub fn retry(&self) -> AppId {
        AppId(format!("{self}#retry").into())
    }
}

impl From<&str> for AppId {
    fn from(text: &str) -> Self {
        AppId(text.into())
    }
}

impl From<String> for AppId {
    fn from(text: String) -> Self {
        AppId(text.into())
    }
}

impl Deref for AppId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for AppId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl fmt::Debug for AppId {
    /// Formats the text in quotes, as messages show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Id of one invocation of `enrich run`; ids of later runs sort after those of earlier ones (UUID v7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// Creates a new id.
    #[must_use]
    pub fn random() -> Self {
        RunId(Uuid::now_v7())
    }

    /// Returns the prefix of the ids, as text, of runs that start at this time; earlier ids sort before it.
    #[must_use]
    pub fn prefix_at(time: DateTime<Utc>) -> String {
        let hex = format!("{:012x}", time.timestamp_millis().max(0));
        let (high, low) = hex.split_at(8);
        format!("{high}-{low}")
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(RunId)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random id created together with a new checkpoint. It distinguishes the batches of this checkpoint from those of
/// another one that writes under the same `app_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(Uuid);

impl Lineage {
    /// Creates a new lineage.
    #[must_use]
    pub fn random() -> Self {
        Lineage(Uuid::new_v4())
    }

    /// Returns the sixteen bytes of the id, as the journal stores them.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Creates a lineage from its sixteen bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Lineage(Uuid::from_bytes(bytes))
    }
}

impl FromStr for Lineage {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Lineage)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Id of a submission, the requests that go to a provider's Batch API in one file; ids of later ones sort after those of
/// earlier ones (UUID v7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubmissionId(Uuid);

impl SubmissionId {
    /// Creates a new id.
    #[must_use]
    pub fn random() -> Self {
        SubmissionId(Uuid::now_v7())
    }
}

impl FromStr for SubmissionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(SubmissionId)
    }
}

impl fmt::Display for SubmissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 bits of a BLAKE3 hash, printed as 32 hexadecimal digits.
///
/// Identifies the content of a request (its fingerprint) or of a batch (its digest).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Hashes parts, each preceded by its length, so that `["ab", "c"]` and `["a", "bc"]` differ.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint(bytes)
    }

    /// Returns the sixteen bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Creates a fingerprint from its sixteen bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Fingerprint(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written for each row: a formatter for each byte would take longer than the hash.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        let mut text = [0; 32];
        self.0
            .iter()
            .zip(text.chunks_exact_mut(2))
            .for_each(|(byte, pair)| pair.copy_from_slice(&digits(byte)));
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Tokens of one response, as the provider's `usage` states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens of the request, cached ones included.
    pub prompt: u64,
    /// Tokens of the request that the provider had cached.
    pub cached: u64,
    /// Tokens of the answer, reasoning included.
    pub completion: u64,
    /// Reasoning tokens of the answer, which are not in its text, if the provider states them.
    #[serde(default)]
    pub reasoning: u64,
}

impl Tokens {
    /// Returns the sum of prompt and completion tokens, saturating.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl std::ops::AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.cached = self.cached.saturating_add(other.cached);
        self.completion = self.completion.saturating_add(other.completion);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
    }
}

/// Money in picodollars (10⁻¹² US dollars), in which the price of a token is a whole number. Never a float.
/// Arithmetic saturates; the maximum is 18 million dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Money(u64);

impl Money {
    /// No money.
    pub const ZERO: Money = Money(0);
    const MOST_DOLLARS: f64 = 1e6;

    /// Creates an amount from picodollars.
    #[must_use]
    pub const fn picodollars(picos: u64) -> Self {
        Money(picos)
    }

    /// Returns the amount in picodollars.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Creates an amount from dollars. Returns `None` for a negative number, NaN, or more than a million dollars.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
        (0.0..=Self::MOST_DOLLARS).contains(&dollars).then(|| Money((dollars * 1e12).round() as u64))
    }

    /// Returns the price of one token from the price of a million tokens in dollars, rounded up to a picodollar.
    /// Returns `None` where [`Money::from_dollars`] does.
    #[must_use]
    pub fn per_million(dollars: f64) -> Option<Self> {
        Self::from_dollars(dollars).map(|million| Money(million.0.div_ceil(1_000_000)))
    }

    /// Returns one of so many equal parts, rounded up.
    #[must_use]
    pub const fn share(self, parts: u64) -> Self {
        Money(self.0.div_ceil(if parts == 0 { 1 } else { parts }))
    }

    /// Returns the amount in dollars, for people and charts.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "it is shown, not reckoned with")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e12
    }

    /// Returns the amount in microdollars, rounded.
    #[must_use]
    pub fn microdollars(self) -> i64 {
        i64::try_from(self.0.saturating_add(500_000) / 1_000_000).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.6}", self.dollars());
        let cents = text.len() - 4;
        let shown = text.trim_end_matches('0').len().max(cents);
        f.write_str("$")?;
        text.chars().take(shown).try_for_each(|digit| f.write_char(digit))
    }
}

impl std::ops::Add for Money {
    type Output = Money;

    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl std::ops::Mul<u64> for Money {
    type Output = Money;

    fn mul(self, times: u64) -> Money {
        Money(self.0.saturating_mul(times))
    }
}

/// An amount that was, or may be, spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// Cost.
    pub money: Money,
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// Number of requests.
    pub requests: u64,
}

impl std::ops::Add for Spend {
    type Output = Spend;

    fn add(self, other: Spend) -> Spend {
        Spend {
            money: self.money + other.money,
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
        }
    }
}

impl std::ops::Sub for Spend {
    type Output = Spend;

    fn sub(self, other: Spend) -> Spend {
        Spend {
            money: Money(self.money.0.saturating_sub(other.money.0)),
            tokens: self.tokens.saturating_sub(other.tokens),
            requests: self.requests.saturating_sub(other.requests),
        }
    }
}

/// What requests in files for Batch APIs took, and may still take. It is known from the list of submissions, which is
/// durable before a file is handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmittedSpend {
    /// What those took that have come back.
    pub settled: Spend,
    /// The worst case of the others.
    pub open: Spend,
}

impl std::ops::Add for SubmittedSpend {
    type Output = SubmittedSpend;

    fn add(self, other: SubmittedSpend) -> SubmittedSpend {
        SubmittedSpend { settled: self.settled + other.settled, open: self.open + other.open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_depends_on_where_its_parts_end() {
        let split = |a: &str, b: &str| Fingerprint::of([a.as_bytes(), b.as_bytes()]);
        assert_ne!(split("ab", "c"), split("a", "bc"));
        assert_eq!(split("ab", "c"), split("ab", "c"));
        assert_eq!(split("ab", "c").to_string().len(), 32);
    }

    #[test]
    fn money_is_whole_picodollars_and_shown_to_the_microdollar() {
        assert_eq!(Money::per_million(0.0375), Some(Money::picodollars(37_500)));
        assert_eq!(Money::from_dollars(-0.1), None);
        assert_eq!(Money::from_dollars(f64::NAN), None);
        let shown = |dollars| Money::from_dollars(dollars).unwrap().to_string();
        assert_eq!([shown(12.5), shown(0.0), shown(0.000_012_5)], ["$12.50", "$0.00", "$0.000013"]);
        assert_eq!(Money::from_dollars(0.000_012_5).unwrap().microdollars(), 13);
    }

    #[test]
    fn a_lineage_survives_its_bytes_and_its_text() {
        let lineage = Lineage::random();
        assert_eq!(Lineage::from_bytes(lineage.to_bytes()), lineage);
        assert_eq!(lineage.to_string().parse::<Lineage>().unwrap(), lineage);
    }
}
