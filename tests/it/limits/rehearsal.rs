//! Rehearsals of admission in virtual time: the real dispatcher against a model of a provider, as scenario
//! files say. The file says how the provider behaves and what must come of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use enrich::admission::QuotaGroups;
use enrich::budget::Account;
use enrich::clock::{self, Instant, Jitter};
use enrich::config::{FaultSpec, Job, Params, SimulatedCharge, SimulatorSpec};
use enrich::dispatch::{Dispatcher, LearnedLimits, RequestSender};
use enrich::event::{Event, LimitGauge, Listener, Voice};
use enrich::executor::{ExecutorIo, Mode, ProviderHealth, Receipt, Reply, Request, Verdict};
use enrich::fault::{Class, Failure};
use enrich::ident::{BatchId, Cell, Fingerprint, Lineage, RowKey, StepId};
use enrich::journal::{Journal, JournalFolder, JournalHeader};
use enrich::prompt::Question;
use enrich::simulator::{ModelRefusal, SimulatedModel, Simulator, fault_for};
use enrich::transport::{Endpoint, Paid, ResponseHeaders, SendResult, classify};
use enrich::wire::{Message, Role};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, watch};

/// One way over the network.
const NETWORK: Duration = Duration::from_millis(10);
/// So much later some requests arrive than others.
const NETWORK_JITTER: f64 = 0.002;

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about.
    pub about: String,
    /// Keys of the provider in the job.
    #[serde(default)]
    pub provider: toml::Table,
    /// Keys of the step in the job.
    #[serde(default)]
    pub step: toml::Table,
    /// How the provider behaves.
    #[serde(default)]
    pub simulator: toml::Table,
    pub run: Run,
    pub expect: Expect,
    /// Keys of `simulator` or `provider` with the values that they take in turn; all are crossed.
    #[serde(default)]
    pub vary: BTreeMap<String, Vec<toml::Value>>,
    /// Its short form, in real time over loopback.
    pub loopback: Option<Short>,
    /// Whether it has none.
    #[serde(default)]
    pub only_in_virtual_time: bool,
}

/// What is otherwise in the short form of a scenario. Shares are only printed there: they depend on the
/// machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Short {
    /// Keys of `simulator` or `provider` with their values.
    pub set: BTreeMap<String, toml::Value>,
    pub run: Run,
    pub expect: Expect,
}

/// How long it goes on, in seconds of virtual time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// For a scenario without an end of rows: its end. With `rows`: the most that it may take.
    pub seconds: u64,
    /// Rows. Without it there is always another one.
    pub rows: Option<u64>,
    /// Bytes of a prompt.
    #[serde(default = "prompt_bytes")]
    pub prompt_bytes: usize,
    /// Rows that may be ahead of the oldest one without an outcome, as the window of a run has it. Default: all.
    pub window: Option<u64>,
    /// Whether it is the run after one like it, whose learned_limits it begins with.
    #[serde(default)]
    pub again: bool,
}

fn prompt_bytes() -> usize {
    400
}

/// What must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Shares of the quota that must be reached.
    #[serde(default)]
    pub share: Vec<Share>,
    /// Share of requests that may be refused with 429.
    pub throttled: Option<f64>,
    /// Refusals in some time.
    #[serde(default)]
    pub requests: Vec<Most>,
    /// Class of the failure that must stop the run.
    pub stop: Option<String>,
    /// Attempts that rows may have lost.
    pub lost_attempts: Option<u64>,
    /// Requests that may be in flight at the end, at least and at most.
    pub concurrency: Option<[u32; 2]>,
    /// Answers in a second, as a share of what the provider can give: with latency and faults, or with the limit.
    #[serde(default)]
    pub rate: Vec<Rate>,
    /// Seconds beyond `1.3 x rows / ((1 - p) x rate)` that it may take, where `p` of the attempts fail.
    pub slack_seconds: Option<f64>,
    /// Requests for each that is needed, at most.
    pub requests_share: Option<f64>,
    /// Share of rows that may end as errors.
    #[serde(default)]
    pub failed: f64,
    /// Rows that must end as errors.
    #[serde(default)]
    pub least_failed: u64,
}

/// The rate of answers in some time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub from: u64,
    pub to: u64,
    pub least: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub from: u64,
    pub to: u64,
    /// Part of the quota that is there to be had.
    #[serde(default = "whole")]
    pub of: f64,
    pub least: f64,
    /// In virtual time it is never more than this.
    #[serde(default = "whole")]
    pub most: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Most {
    pub from: u64,
    pub to: u64,
    pub most: u64,
}

fn whole() -> f64 {
    1.0
}

impl Scenario {
    pub fn load(path: &Path) -> Scenario {
        let text = std::fs::read_to_string(path).unwrap();
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The scenario with every combination of what varies, each with a name.
    pub fn cases(&self) -> Vec<(String, Scenario)> {
        let mut cases = vec![(String::new(), Scenario { vary: BTreeMap::new(), ..self.clone() })];
        for (key, values) in &self.vary {
            cases = cases
                .into_iter()
                .flat_map(|(name, case)| {
                    values.iter().map(move |value| {
                        let mut case = case.clone();
                        set(&mut case, key, value.clone());
                        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                        (format!("{name} {}={value}", key.rsplit('.').next().unwrap()), case)
                    })
                })
                .collect();
        }
        cases
    }

    /// The short form.
    pub fn short(&self) -> Option<Scenario> {
        let Short { set: keys, run, expect } = self.loopback.clone()?;
        let mut short = Scenario { run, expect, vary: BTreeMap::new(), ..self.clone() };
        for (key, value) in keys {
            set(&mut short, &key, value);
        }
        Some(short)
    }

    fn job(&self) -> Job {
        let mut provider = self.provider.clone();
        provider.insert("base_url".into(), "simulator".into());
        provider.insert("model".into(), "m".into());
        let mut step = self.step.clone();
        step.insert("output".into(), "o".into());
        step.insert("prompt".into(), "p".into());
        let table = |path: &str| toml::Value::Table([("path".to_owned(), path.into())].into_iter().collect());
        let job: toml::Table = [
            ("app_id".to_owned(), "rehearsal".into()),
            ("source".to_owned(), table("source")),
            ("target".to_owned(), table("target")),
            (
                "provider".to_owned(),
                toml::Value::Table([("p".to_owned(), provider.into())].into_iter().collect()),
            ),
            ("step".to_owned(), toml::Value::Array(vec![step.into()])),
            ("simulator".to_owned(), self.simulator.clone().into()),
        ]
        .into_iter()
        .collect();
        Job::parse(Path::new("/rehearsal.toml"), &job.to_string(), |_| None).unwrap()
    }

    /// Plays it, the same way for the same seed; with what a former run learned, if any.
    pub fn play(&self, learned_limits: &LearnedLimits, seed: u64) -> Played {
        let play = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(self.perform(learned_limits.clone(), seed))
        };
        if self.run.again {
            play();
        }
        play()
    }

    /// The share of attempts that fail by chance.
    fn fault_share(&self, spec: &SimulatorSpec) -> f64 {
        spec.faults.iter().map(|fault| fault.share).sum::<f64>().min(1.0)
    }

    /// Seconds that an answer takes, with as many requests in flight as are allowed.
    fn seconds_each(&self, job: &Job, spec: &SimulatorSpec) -> f64 {
        let seconds = |span: Option<enrich::config::Span>| span.map_or(0.0, |span| span.0.as_secs_f64());
        let network = 2.0 * NETWORK.as_secs_f64() + NETWORK_JITTER / 2.0;
        let latency = seconds(spec.latency);
        let p = self.fault_share(spec);
        // A fault takes the time of an answer, unless it never comes.
        let lost = spec.faults.iter().map(|fault| match fault.delay {
            Some(_) => fault.share * job.providers[0].request_timeout.as_secs_f64(),
            None => fault.share * latency,
        });
        let each = network + (1.0 - p) * latency + lost.sum::<f64>();
        each / (1.0 - p) / f64::from(job.providers[0].max_concurrency)
    }

    /// Plays it with the real simulator and the real client over loopback, in real time.
    pub fn play_over_loopback(&self) -> Played {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let job = self.job();
            let spec = job.simulator.clone().unwrap();
            let simulator = Simulator::start(spec.clone(), 0).await.unwrap();
            let endpoint = Arc::new(Endpoint::new(&job.providers[0], simulator.url()).unwrap());
            let mut played = self.drive(&job, endpoint, LearnedLimits::default(), 0).await;
            let counts = simulator.counts();
            let last = Second {
                refused: counts.statuses.get(&429).copied().unwrap_or_default(),
                ..Second::default()
            };
            played.seconds.push(last);
            played.limits = Limits::of(&spec);
            played
        })
    }

    async fn perform(&self, learned_limits: LearnedLimits, seed: u64) -> Played {
        let job = self.job();
        let spec = job.simulator.clone().unwrap();
        let start = clock::now();
        let rehearsed = Arc::new(Rehearsed {
            model: "m".into(),
            state: Mutex::new(State {
                model: SimulatedModel::new(&spec, start),
                asked: HashMap::new(),
                seconds: Vec::new(),
                start,
                wall: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
                charge: spec.token_charge,
                spec: spec.clone(),
            }),
            request_timeout: self
                .provider
                .contains_key("request_timeout")
                .then_some(job.providers[0].request_timeout),
        });
        let mut played = self.drive(&job, Arc::clone(&rehearsed), learned_limits, seed).await;
        played.seconds = std::mem::take(&mut rehearsed.state.lock().unwrap().seconds);
        played.limits = Limits::of(&spec);
        played
    }

    /// Sends rows through a dispatcher until the scenario ends; the seconds are those of the replies.
    #[expect(clippy::cast_precision_loss, reason = "counts for shares")]
    async fn drive<A: RequestSender>(
        &self,
        job: &Job,
        endpoint: Arc<A>,
        learned_limits: LearnedLimits,
        seed: u64,
    ) -> Played {
        let start = clock::now();
        let heard = LastGauge::default();
        let (to_inbox, inbox) = mpsc::channel(64);
        let (outbox, mut replies) = mpsc::channel(1_024);
        let (mode, watching) = watch::channel(Mode::Running);
        let wires = ExecutorIo {
            capacity: job.providers[0].max_concurrency as usize,
            only_embeds: false,
            limits_tokens: false,
            provider: 0,
            inbox,
            outbox,
            mode: watching,
            capacity_freed: Arc::new(Notify::new()),
            health: ProviderHealth::default(),
            has_fallback: false,
            account: Account::default(),
            jitter: Jitter::seeded(seed),
            voice: Voice::new(vec![Box::new(heard.clone())]),
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(
            Dispatcher::new(&job.providers[0], endpoint, learned_limits, &QuotaGroups::default(), wires)
                .run(),
        );
        let folder = tempfile::tempdir().unwrap();
        let header = JournalHeader {
            lineage: Lineage::random(),
            batch: BatchId::FIRST,
            digest: Fingerprint::of([b"rehearsal".as_slice()]),
        };
        let journal = JournalFolder::open(folder.path()).unwrap().writer(&header, |_| {}).unwrap();
        let step = Step { seed, params: Arc::new(job.steps[0].params.clone()), journal };
        let (rows, bytes) = (self.run.rows.unwrap_or(u64::MAX), self.run.prompt_bytes);
        let (oldest, mut watched) = watch::channel(0_u64);
        let window = self.run.window.unwrap_or(u64::MAX);
        tasks.spawn(async move {
            for row in 0..rows {
                if watched.wait_for(|oldest| row - *oldest < window).await.is_err() {
                    return;
                }
                if to_inbox.send(step.request(row, bytes)).await.is_err() {
                    return;
                }
            }
        });
        let mut played = Played::default();
        let end = start + Duration::from_secs(self.run.seconds);
        let mut ahead = std::collections::BTreeSet::new();
        let is_over = |played: &Played| played.stop.is_some() || played.answered + played.failed == rows;
        while !is_over(&played)
            && let Ok(Some(burst)) = tokio::time::timeout_at(end, replies.recv()).await
        {
            for reply in burst {
                if matches!(reply.verdict, Verdict::Paid(_) | Verdict::Failed(_)) {
                    ahead.insert(u64::from(reply.request.cell.row));
                    oldest.send_modify(|oldest| {
                        while ahead.remove(oldest) {
                            *oldest += 1;
                        }
                    });
                }
                played.note(reply, &mode, start);
            }
        }
        played.took = clock::now() - start;
        let spec = job.simulator.as_ref().unwrap();
        let each = self.seconds_each(job, spec);
        played.ideal = self.run.rows.unwrap_or_default() as f64 * each;
        let limits =
            [spec.requests.as_ref().map(|limit| limit.per_minute), job.providers[0].requests_per_minute];
        let limit = limits.into_iter().flatten().map(|limit| f64::from(limit) / 60.0).reduce(f64::min);
        played.possible = limit.unwrap_or(f64::INFINITY).min(1.0 / each);
        tasks.shutdown().await;
        played.gauge = heard.0.lock().unwrap().clone();
        played
    }

    /// What of a play is not as it must be, line by line.
    #[expect(clippy::cast_precision_loss, reason = "counts for shares")]
    pub fn faults(&self, played: &Played) -> Vec<String> {
        let mut faults = Vec::new();
        let Expect {
            share,
            throttled,
            requests,
            stop,
            lost_attempts,
            concurrency,
            rate,
            slack_seconds,
            requests_share,
            failed,
            least_failed,
        } = &self.expect;
        for wanted in rate {
            let reached = played.rate(wanted);
            if reached < wanted.least {
                faults.push(format!(
                    "{reached:.3} of the rate from {} s to {} s, not {}",
                    wanted.from, wanted.to, wanted.least
                ));
            }
        }
        if let Some(slack) = slack_seconds {
            let (took, most) = (played.took.as_secs_f64(), 1.3 * played.ideal + slack);
            if took > most {
                faults.push(format!("it took {took:.1} s, at most {most:.1} may be"));
            }
        }
        if let Some(most) = requests_share {
            let job = self.job();
            let needed = self.run.rows.unwrap_or_default() as f64
                / (1.0 - self.fault_share(job.simulator.as_ref().unwrap()));
            let sent = played.sent() as f64;
            if sent > needed * most {
                faults.push(format!("{sent} requests where {needed:.0} are needed"));
            }
        }
        for wanted in share {
            let reached = played.share(wanted.from, wanted.to) / wanted.of;
            if reached < wanted.least || reached > wanted.most + 0.005 {
                faults.push(format!(
                    "share of the quota from {} s to {} s is {reached:.4}, not {} to {}",
                    wanted.from, wanted.to, wanted.least, wanted.most
                ));
            }
        }
        if let Some(most) = throttled.filter(|most| played.throttled() > *most) {
            faults.push(format!("{:.4} of the requests got a 429, at most {most} may", played.throttled()));
        }
        for Most { from, to, most } in requests {
            let sent = played.sum(*from, *to, |second| second.accepted + second.refused + second.broken);
            if sent > *most {
                faults.push(format!("{sent} requests from {from} s to {to} s, at most {most} may be"));
            }
        }
        let (answered, lost) = (played.answered as f64, played.failed as f64);
        if lost > failed * (answered + lost) {
            faults.push(format!("{} rows failed: {:?}", played.failed, played.failure));
        }
        if played.stop.map(Class::name) != stop.as_deref() {
            faults.push(format!("stopped by {:?}, wanted {stop:?}: {:?}", played.stop, played.failure));
        }
        if let Some(most) = lost_attempts.filter(|most| played.lost_attempts > *most) {
            faults.push(format!("rows lost {} attempts, at most {most} may be", played.lost_attempts));
        }
        let reached = played.gauge.concurrency;
        if let Some([least, most]) = concurrency.filter(|[least, most]| !(*least..=*most).contains(&reached))
        {
            faults.push(format!("{reached} requests at once, not {least} to {most}"));
        }
        if played.failed < *least_failed {
            faults.push(format!("{} rows failed, {least_failed} must", played.failed));
        }
        let ended = played.answered + played.failed;
        if let Some(rows) = self.run.rows.filter(|rows| stop.is_none() && ended < *rows) {
            faults.push(format!("{} of {rows} rows answered in {} s", played.answered, self.run.seconds));
        }
        faults
    }
}

fn set(case: &mut Scenario, key: &str, value: toml::Value) {
    if key == "run.again" {
        case.run.again = value.as_bool().unwrap();
        return;
    }
    // 0 stands for a key that is not there.
    if value == toml::Value::Integer(0) {
        return;
    }
    let mut path = key.split('.');
    let mut table = match path.next() {
        Some("simulator") => &mut case.simulator,
        Some("provider") => &mut case.provider,
        Some("step") => &mut case.step,
        other => panic!("{other:?} does not vary"),
    };
    let mut keys = path.peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            table.insert(key.to_owned(), value);
            return;
        }
        table = table
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .unwrap();
    }
}

struct Step {
    seed: u64,
    params: Arc<Params>,
    journal: Journal,
}

impl Step {
    fn request(&self, row: u64, bytes: usize) -> Request {
        let mut content = format!("row {row} of {} ", self.seed);
        content.push_str(&"x".repeat(bytes.saturating_sub(content.len())));
        let fingerprint = Fingerprint::of([content.as_bytes()]);
        let cell = Cell { batch: BatchId::FIRST, row: u32::try_from(row).unwrap(), step: StepId::FIRST };
        Request {
            route: 0,
            excluded_providers: 0,
            cell,
            question: Arc::new(Question::new(vec![Message { role: Role::User, content }], fingerprint)),
            params: Arc::clone(&self.params),
            deadline: Duration::from_secs(600),
            receipt: Receipt {
                journal: self.journal.clone(),
                key: RowKey { file: "f".into(), row },
                step: "o".into(),
            },
            tried: 0,
            shares: false,
            earlier: enrich::executor::Earlier::default(),
        }
    }
}

/// What came of a scenario.
#[derive(Debug, Default)]
pub struct Played {
    pub answered: u64,
    pub failed: u64,
    /// Attempts of answered rows beyond the first.
    pub lost_attempts: u64,
    pub stop: Option<Class>,
    pub failure: Option<Failure>,
    pub took: Duration,
    /// Seconds in which it could have been done.
    pub ideal: f64,
    /// Answers a second that are possible.
    pub possible: f64,
    pub seconds: Vec<Second>,
    pub gauge: LimitGauge,
    limits: Limits,
}

/// The limits per second that the provider has.
#[derive(Debug, Default)]
struct Limits {
    requests: Option<f64>,
    tokens: Option<f64>,
}

impl Limits {
    fn of(spec: &SimulatorSpec) -> Limits {
        let a_second = |limit: &Option<enrich::config::LimitSpec>| {
            limit.as_ref().map(|limit| f64::from(limit.per_minute) / 60.0)
        };
        Limits { requests: a_second(&spec.requests), tokens: a_second(&spec.tokens) }
    }
}

/// What a provider saw in a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    pub accepted: u64,
    pub refused: u64,
    pub broken: u64,
    pub tokens: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts for shares")]
impl Played {
    fn note(&mut self, reply: Reply, mode: &watch::Sender<Mode>, start: Instant) {
        match reply.verdict {
            Verdict::Paid(paid) => {
                let at = usize::try_from((clock::now() - start).as_secs()).unwrap();
                self.seconds.resize(self.seconds.len().max(at + 1), Second::default());
                self.seconds[at].accepted += 1;
                self.seconds[at].tokens += paid.response.usage.as_ref().map_or(0, |usage| {
                    usage.prompt_tokens.unwrap_or_default() + usage.completion_tokens.unwrap_or_default()
                });
                self.answered += 1;
                self.lost_attempts += u64::from(reply.attempts - 1);
            }
            Verdict::Submitted => unreachable!("no dispatcher submits"),
            Verdict::Failed(failure) => {
                self.failed += 1;
                self.failure = Some(failure);
            }
            Verdict::Stop(failure) => {
                self.stop = Some(failure.class);
                self.failure = Some(failure);
                mode.send_replace(Mode::Draining);
            }
            Verdict::BudgetSpent(limit) => panic!("{limit}"),
            Verdict::Lost(error) => panic!("{error}"),
            Verdict::Elsewhere | Verdict::Unsent => {}
        }
    }

    fn sum(&self, from: u64, to: u64, of: impl Fn(&Second) -> u64) -> u64 {
        let to = usize::try_from(to).unwrap().min(self.seconds.len());
        let from = usize::try_from(from).unwrap().min(to);
        self.seconds[from..to].iter().map(of).sum()
    }

    /// The share of the quota that was used: of tokens, where only these are limited.
    pub fn share(&self, from: u64, to: u64) -> f64 {
        let (used, limit) = match (self.limits.requests, self.limits.tokens) {
            (Some(limit), _) => (self.sum(from, to, |second| second.accepted), limit),
            (None, Some(limit)) => (self.sum(from, to, |second| second.tokens), limit),
            (None, None) => panic!("nothing is limited"),
        };
        used as f64 / (limit * (to - from) as f64)
    }

    /// Requests that were sent.
    pub fn sent(&self) -> u64 {
        self.sum(0, u64::MAX >> 1, |second| second.accepted + second.refused + second.broken)
    }

    /// Answers in some time, as a share of what is possible.
    pub fn rate(&self, wanted: &Rate) -> f64 {
        let answered = self.sum(wanted.from, wanted.to, |second| second.accepted) as f64;
        answered / (self.possible * (wanted.to - wanted.from) as f64)
    }

    /// The share of requests that were refused for being too many.
    pub fn throttled(&self) -> f64 {
        let refused = self.sum(0, u64::MAX >> 1, |second| second.refused);
        let accepted = self.sum(0, u64::MAX >> 1, |second| second.accepted);
        refused as f64 / (refused + accepted).max(1) as f64
    }

    /// A line for people.
    pub fn line(&self, expect: &Expect) -> String {
        let mut line = String::new();
        let shares = &expect.share;
        for wanted in &expect.rate {
            let _ = write!(line, "rate {:.3}  ", self.rate(wanted));
        }
        if self.failed > 0 {
            let _ = write!(line, "{} rows lost  ", self.failed);
        }
        if expect.slack_seconds.is_some() || expect.requests_share.is_some() {
            let took = self.took.as_secs_f64();
            let _ = write!(line, "{} requests  {took:.1} s, ideal {:.1} s  ", self.sent(), self.ideal);
        }
        for Share { from, to, of, .. } in shares {
            let _ = write!(line, "share {:.3}  ", self.share(*from, *to) / of);
        }
        let _ = write!(line, "429s {:.2}%  {:.0} s", self.throttled() * 100.0, self.took.as_secs_f64());
        line
    }
}

/// A provider that answers in virtual time.
struct Rehearsed {
    model: Arc<str>,
    state: Mutex<State>,
    /// Where the scenario has one.
    request_timeout: Option<Duration>,
}

struct State {
    model: SimulatedModel,
    asked: HashMap<Fingerprint, u64>,
    seconds: Vec<Second>,
    start: Instant,
    /// The time of day at the start.
    wall: DateTime<Utc>,
    charge: SimulatedCharge,
    spec: SimulatorSpec,
}

impl State {
    fn wall(&self, now: Instant) -> DateTime<Utc> {
        self.wall + (now - self.start)
    }

    fn second(&mut self, now: Instant) -> &mut Second {
        let at = usize::try_from((now - self.start).as_secs()).unwrap();
        if self.seconds.len() <= at {
            self.seconds.resize(at + 1, Second::default());
        }
        &mut self.seconds[at]
    }
}

/// What a response's headers say.
fn read(headers: &[(String, String)], wall: DateTime<Utc>) -> ResponseHeaders {
    ResponseHeaders::read(
        |name| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()),
        wall,
    )
}

impl RequestSender for Rehearsed {
    async fn ask(&self, questions: &[Arc<Question>], params: &Params, most: Duration) -> SendResult {
        let most = self.request_timeout.map_or(most, |timeout| most.min(timeout));
        let question = &questions[0];
        let prompt = question.messages()[0].content.as_str();
        let prompt_tokens = prompt.len() as u64 / 4;
        let max_tokens = params.max_tokens.map(u64::from);
        let spread = f64::from(u16::from_le_bytes([
            question.fingerprint().to_bytes()[0],
            question.fingerprint().to_bytes()[1],
        ]));
        tokio::time::sleep(NETWORK + Duration::from_secs_f64(NETWORK_JITTER * spread / 65_536.0)).await;
        let (done, nth, wall) = {
            let now = clock::now();
            let mut state = self.state.lock().unwrap();
            let wall = state.wall(now);
            let times = state.asked.entry(question.fingerprint()).or_default();
            *times += 1;
            let nth = *times - 1;
            match state.model.admit(prompt_tokens, max_tokens.unwrap_or_default(), now, wall) {
                Err(refusal) => {
                    let second = state.second(now);
                    match refusal.status {
                        429 => second.refused += 1,
                        _ => second.broken += 1,
                    }
                    let mut headers = state.model.headers(now, wall);
                    headers.extend(
                        refusal.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())),
                    );
                    (Err((refusal, headers, Duration::ZERO)), nth, wall)
                }
                Ok(()) => {
                    let nth = u32::try_from(nth).unwrap();
                    let fault = fault_for(&state.spec, prompt, &[prompt], nth).cloned();
                    let latency = state.model.latency(prompt, nth.into());
                    if let Some(fault) = fault {
                        let second = state.second(now);
                        match fault.status {
                            Some(429) => second.refused += 1,
                            _ => second.broken += 1,
                        }
                        let after = if fault.at_once { Duration::ZERO } else { latency };
                        (
                            Err((
                                refusal_of(&fault),
                                Vec::new(),
                                after + fault.delay.map_or(Duration::ZERO, |delay| delay.0),
                            )),
                            nth.into(),
                            wall,
                        )
                    } else {
                        let second = state.second(now);
                        second.accepted += 1;
                        if state.charge == SimulatedCharge::Max {
                            let charged = prompt_tokens + max_tokens.unwrap_or_default();
                            state.second(now).tokens += charged;
                        }
                        (Ok(state.model.work(latency, now)), nth.into(), wall)
                    }
                }
            }
        };
        let started = clock::now();
        match done {
            Err((_, _, after)) if after > most => {
                tokio::time::sleep(most).await;
                SendResult {
                    result: Err(Failure::new(Class::Timeout, "too slow")),
                    limits: Default::default(),
                    may_be_billed: true,
                    unread: None,
                }
            }
            Err((refusal, headers, after)) => {
                tokio::time::sleep(after + NETWORK).await;
                refused(&refusal, &read(&headers, wall))
            }
            Ok(done) if done - started > most => {
                tokio::time::sleep(most).await;
                SendResult {
                    result: Err(Failure::new(Class::Timeout, "too slow")),
                    limits: Default::default(),
                    may_be_billed: true,
                    unread: None,
                }
            }
            Ok(done) => {
                tokio::time::sleep_until(done).await;
                let now = clock::now();
                let (tokens, headers, wall) = {
                    let mut state = self.state.lock().unwrap();
                    let wall = state.wall(now);
                    let tokens = state.model.completion_tokens(prompt, nth, max_tokens).unwrap_or(20);
                    state.model.answered(prompt_tokens + tokens, now);
                    if state.charge == SimulatedCharge::Usage {
                        state.second(now).tokens += prompt_tokens + tokens;
                    }
                    (tokens, state.model.headers(now, wall), wall)
                };
                tokio::time::sleep(NETWORK).await;
                let body = format!(
                    r#"{{"choices":[{{"message":{{"content":"ok"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{tokens}}}}}"#
                );
                let response = serde_json::from_str(&body).unwrap();
                let paid = Paid { body: Bytes::from(body), response, latency: now - started };
                SendResult {
                    result: Ok(paid),
                    limits: read(&headers, wall).limits,
                    may_be_billed: true,
                    unread: None,
                }
            }
        }
    }

    fn model(&self) -> &Arc<str> {
        &self.model
    }
}

/// What a fault sends.
fn refusal_of(fault: &FaultSpec) -> ModelRefusal {
    let headers = fault.retry_after.clone().map(|value| ("retry-after", value));
    ModelRefusal {
        status: if fault.hang_up { 0 } else { fault.status.unwrap_or(500) },
        kind: "server_error",
        code: "fault",
        message: fault.message.clone().unwrap_or_else(|| "a fault".to_owned()),
        headers: headers.into_iter().collect(),
    }
}

fn refused(refusal: &ModelRefusal, heard: &ResponseHeaders) -> SendResult {
    let ModelRefusal { status, kind, code, message, .. } = refusal;
    if *status == 0 {
        let failure = Failure::new(Class::Connection, "the connection broke");
        return SendResult { result: Err(failure), limits: heard.limits, may_be_billed: true, unread: None };
    }
    let body = serde_json::json!({"error": {"message": message, "type": kind, "code": code}}).to_string();
    SendResult {
        result: Err(classify(*status, body.as_bytes(), "m", heard)),
        limits: heard.limits,
        may_be_billed: false,
        unread: None,
    }
}

/// Remembers the last gauge.
#[derive(Clone, Default)]
struct LastGauge(Arc<Mutex<LimitGauge>>);

impl Listener for LastGauge {
    fn on(&self, event: &Event<'_>) {
        if let Event::Gauged { gauge, .. } = event {
            *self.0.lock().unwrap() = (*gauge).clone();
        }
    }
}
